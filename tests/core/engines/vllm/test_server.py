import pytest
from places import FAKE_ENDPOINT

from agentbench.engine import Engine, Request, Scorer
from agentbench.engines import http as http_client
from agentbench.errors import EngineFailure, TrainingError, UsageError
from agentbench.registry import load
from agentbench.types import SamplingParams

pytest.importorskip("transformers")

from agentbench.engines.vllm.server import build, write_weights
from agentbench.models.tiny import make_tokenizer

FAKE = f"{FAKE_ENDPOINT}"
FakeServer, distribution = (load("envs", f"{FAKE}:{name}") for name in ("FakeServer", "distribution"))
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    return path, make_tokenizer(path, [])


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_WAIT", 0.01)


@pytest.fixture
def start(folder):
    """Start a fake server; all are stopped at the end."""
    running = []

    def start(**options):
        server = FakeServer([str(folder[0])], max_model_len=options.pop("max_model_len", 200), **options)
        server.tokenizer = folder[1]
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def connect(folder):
    def connect(*servers, **options):
        urls = [server.url for server in servers]
        return build(str(folder[0]), base_url=urls if len(urls) > 1 else urls[0], **options)

    return connect


def ask(key="a", prompt=(1, 2, 3), seed=0, slot="", **sampling):
    return Request(key, prompt, SamplingParams(**{"max_new_tokens": 9, **sampling}), seed, slot or key)


def answer(engine, *requests):
    engine.submit(requests)
    found = {}
    while len(found) < len(requests):
        found |= {item.key: item for item in engine.poll()}
    assert engine.poll() == []
    return found


def expected(prompt, ids, temperature, weights=0):
    """Log-probs of the toy model."""
    row = [*prompt, *ids]
    return [distribution(row[at - 1], temperature, weights)[row[at]] for at in range(len(prompt), len(row))]


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_ids_and_logprobs_are_those_of_the_distribution_sampled_from(start, connect):
    engine = connect(start())
    assert isinstance(engine, Engine)
    assert isinstance(engine, Scorer)
    requests = [ask(str(i), (i, i + 1), seed=i, temperature=0.7) for i in range(8)]
    found = answer(engine, *requests)
    for request in requests:
        action = found[request.key].action
        assert action.logprobs == pytest.approx(expected(request.token_ids, action.token_ids, 0.7))
        assert action.text == engine.tokenizer.decode(
            [token for token in action.token_ids if token < 256], skip_special_tokens=True
        )
    assert answer(engine, requests[3])["3"] == found["3"]


def test_every_setting_goes_out_so_that_no_default_of_the_server_acts(start, connect, folder):
    server = start()
    engine = connect(server)
    answer(engine, ask(seed=2**62 + 1, temperature=0.5, top_p=0.9, top_k=7, min_new_tokens=2))
    assert server.bodies(COMPLETIONS)[-1] == {
        "model": str(folder[0]),
        "prompt": [1, 2, 3],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 2,
        "stop_token_ids": [folder[1].eos_token_id],
        "seed": 2**62 + 1,
        "logprobs": 0,
        "return_token_ids": True,
    }


def test_the_end_token_is_kept_in_the_ids_and_left_out_of_the_text(start, connect):
    engine = connect(start())
    end = engine.tokenizer.eos_token_id
    found = answer(engine, *(ask(str(seed), seed=seed, max_new_tokens=150) for seed in range(12)))
    ended = [item.action for item in found.values() if item.action.finish == "stop"]
    assert ended
    for action in ended:
        assert action.token_ids[-1] == end
        assert len(action.logprobs) == len(action.token_ids)
        assert "<|im_end|>" not in action.text


def test_replies_are_cut_where_the_context_ends(start, connect):
    engine = connect(start())
    found = answer(engine, ask("a", (5,) * 195, max_new_tokens=50), ask("b", (5,) * 200))
    assert len(found["a"].action.token_ids) <= 5
    assert "leaves no room in max_context 200" in str(found["b"].failure)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask(prompt=()), "its prompt is empty"),
        (ask(prompt=(1, -2)), "has id -2"),
        (ask(max_new_tokens=0), "max_new_tokens must be at least 1"),
        (ask(top_p=0.0), "top_p must be in"),
        (ask(temperature=0.005), "temperature 0 or from 0.01 to 2.0, got 0.005"),
        (Request("a", (1,), SamplingParams(), 0, choices=((2,),)), "use engine: hf"),
    ],
)
def test_impossible_requests_are_refused_at_once(start, connect, request_, message):
    engine = connect(start())
    with pytest.raises(UsageError, match=message):
        engine.submit([ask("good"), request_])
    assert engine.poll() == []


def test_keys_in_flight_must_differ(start, connect):
    engine = connect(start())
    with pytest.raises(UsageError, match="two requests with the key 'a'"):
        engine.submit([ask("a"), ask("a")])


@pytest.mark.parametrize("path", ["/version", "/v1/models"])
def test_a_server_that_never_answers_is_not_looked_up_for_ever(start, connect, monkeypatch, path):
    monkeypatch.setattr("agentbench.engines.http.LOOKUP_SECONDS", 0.3)  # request_timeout is ten minutes
    server = start()
    server.faults[path] = ["slow"] * 4
    with pytest.raises(
        UsageError, match=r"no server answers at .* in 1 attempt; the last: no answer within 0\.3 s"
    ):
        connect(server)


def test_a_request_that_fails_leaves_the_others_alone(start, connect):
    server = start()
    engine = connect(server, retries=1)
    server.faults[COMPLETIONS] = [(400, {}, {"error": {"message": "no such thing"}})]
    found = answer(engine, ask("a"))
    assert "400: no such thing" in str(found["a"].failure)
    server.faults[COMPLETIONS] = ["die", "truncated"]
    found = answer(engine, ask("b"))
    assert "no usable answer in 2 attempts" in str(found["b"].failure)
    assert answer(engine, ask("c"))["c"].action is not None


def test_a_retried_request_gives_the_same_reply(start, connect):
    server = start()
    engine = connect(server, request_timeout=2.5)
    quiet = answer(engine, ask(seed=5))["a"].action
    server.faults[COMPLETIONS] = ["die", (500, {}, {}), "truncated", "slow", (429, {"Retry-After": "0"}, {})]
    assert answer(engine, ask(seed=5))["a"].action == quiet
    kinds = {name: count for name, count in engine.usage.items() if name.startswith("retries")}
    assert kinds == {
        "retries_connection": 1,
        "retries_malformed": 1,
        "retries_rate_limit": 1,
        "retries_server_error": 1,
        "retries_timeout": 1,
    }


def test_aborted_requests_answer_at_once(start, connect):
    server = start()
    engine = connect(server)
    server.delay = 1.0
    engine.submit([ask("a"), ask("b")])
    engine.abort(["a", "unknown"])
    (completion,) = engine.poll()
    assert (completion.key, completion.action.finish, list(completion.action.token_ids)) == ("a", "abort", [])
    (completion,) = engine.poll()
    assert completion.key == "b"
    assert engine.poll() == []


def test_conversations_stay_with_one_of_several_servers(start, connect):
    servers = [start(), start()]
    engine = connect(*servers)
    before = [len(server.bodies(COMPLETIONS)) for server in servers]
    for turn in range(3):
        answer(engine, *(ask(f"{turn}/{i}", (i, turn), slot=f"episode {i}") for i in range(12)))
    asked = [
        {body["prompt"][0] for body in server.bodies(COMPLETIONS)[skip:]}
        for server, skip in zip(servers, before, strict=True)
    ]
    assert all(asked)
    assert not asked[0] & asked[1]


# --- checks at the start ----------------------------------------------------------------------------------------------


def test_another_model_is_refused_with_what_is_served(start, connect):
    with pytest.raises(UsageError, match="does not serve 'other'; it serves"):
        connect(start(), served_model="other")


def test_logprobs_at_temperature_1_are_refused(start, connect):
    with pytest.raises(UsageError, match="--logprobs-mode processed_logprobs"):
        connect(start(mode="raw"))


def test_another_tokenizer_is_refused(start, connect):
    server = start()
    server.shift = 1
    with pytest.raises(UsageError, match="splits text into other tokens"):
        connect(server)


def test_a_server_of_another_kind_is_refused(start, connect):
    server = start()
    server.faults["/version"] = [(404, {}, {"detail": "Not Found"})]
    with pytest.raises(UsageError, match="does not offer vLLM's server"):
        connect(server)
    server.faults["/v1/models"] = [(200, {}, {"object": "list"})]
    with pytest.raises(UsageError, match="is no vLLM server"):
        connect(server)


def test_a_version_that_nobody_has_tried_is_refused(start, connect):
    server = start()
    server.faults["/version"] = [(200, {}, {"version": "0.34.1"})]
    with pytest.raises(UsageError, match=r"runs vLLM 0\.34\.1; supported is"):
        connect(server)


def test_nobody_there_is_refused_with_the_command_that_starts_one(folder):
    with pytest.raises(UsageError, match="start it with: agentbench serve"):
        build(str(folder[0]), base_url="http://127.0.0.1:9")


def test_each_process_has_servers_of_its_own(start, connect, monkeypatch):
    servers = [start(), start(), start()]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    engine = connect(*servers)
    assert [server.http.base_url for server in engine.servers] == [servers[1].url]
    with pytest.raises(UsageError, match="2 processes train together and need at least one server each"):
        connect(servers[0])


# --- weights ----------------------------------------------------------------------------------------------------------


def tensors():
    import torch

    return [("a", torch.ones(2)), ("b", torch.zeros(3))]


def test_weights_go_to_every_server_and_replies_are_stamped(start, connect, tmp_path):
    from safetensors.torch import load_file

    servers = [start(trains=True), start(trains=True)]
    engine = connect(*servers, weights_folder=str(tmp_path))
    assert engine.info["weights"] is None
    read = []
    push = servers[0]._train

    def look(path, body):
        if path == "/collective_rpc" and "method" in body:
            read.append(load_file(f"{body['args'][0]}/model-00001.safetensors"))
        return push(path, body)

    servers[0]._train = look
    assert engine.load_weights(tensors()) == 1
    assert [server.pushes[0][1] for server in servers] == [1, 1]
    assert {name: tensor.tolist() for name, tensor in read[0].items()} == {"a": [1, 1], "b": [0, 0, 0]}
    assert engine.info["weights"] == "digest-1"
    action = answer(engine, ask(temperature=1.0))["a"].action
    assert action.policy_version == 1
    assert action.logprobs == pytest.approx(expected((1, 2, 3), action.token_ids, 1.0, weights=1))
    assert list((tmp_path / "process-0").iterdir()) == []  # what was read is removed


def test_requests_under_way_start_over_with_the_new_weights(start, connect, tmp_path):
    server = start(trains=True)
    engine = connect(server, weights_folder=str(tmp_path))
    server.delay = 0.1
    engine.submit([ask("a", seed=3), ask("b", seed=4)])
    engine.load_weights(tensors())
    found = {}
    while len(found) < 2:
        found |= {item.key: item.action for item in engine.poll()}
    for action in found.values():
        assert action.policy_version == 1
        assert action.logprobs == pytest.approx(expected((1, 2, 3), action.token_ids, 1.0, weights=1))


def test_a_server_that_was_pushed_to_says_so(start, connect, tmp_path):
    server = start(trains=True)
    connect(server, weights_folder=str(tmp_path)).load_weights(tensors())
    assert connect(server).info["weights"] == "digest-1"


def test_servers_that_take_no_weights_are_refused(start, connect, tmp_path):
    with pytest.raises(UsageError, match="in a folder that the server sees"):
        connect(start()).load_weights(tensors())
    with pytest.raises(UsageError, match="--for training"):
        connect(start(), weights_folder=str(tmp_path)).load_weights(tensors())


@pytest.mark.parametrize("broken", ["load", "cache"])
def test_a_push_that_fails_stops(start, connect, tmp_path, broken):
    server = start(trains=True)
    engine = connect(server, weights_folder=str(tmp_path))
    if broken == "load":
        server.faults["/collective_rpc"] = [None, (500, {}, {"error": {"message": "worker died"}})]
    else:
        server.resets_succeed = False
    with pytest.raises(TrainingError, match="worker died" if broken == "load" else "reset its prefix cache"):
        engine.load_weights(tensors())
    assert engine.policy_version == 0


def test_scores_are_at_temperature_1(start, connect):
    engine = connect(start())
    ids = [1, 7, 9, 200, 4]
    assert engine.score(ids) == pytest.approx(expected(ids[:1], ids[1:], 1.0), abs=1e-6)


def test_servers_with_different_weights_are_found(start, connect):
    servers = [start(), start()]
    engine = connect(*servers)
    servers[1].weights = 1
    with pytest.raises(EngineFailure, match="do not serve the same weights"):
        engine.score([1, 7, 9, 200, 4])


def test_weights_are_written_in_files_of_bounded_size(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr("agentbench.engines.vllm.server._SHARD_BYTES", 8)
    tied = torch.arange(2.0)  # 8 bytes
    write_weights(tmp_path / "w", [("x", tied), ("y", torch.zeros(1)), ("z", tied)])
    files = sorted((tmp_path / "w").glob("*.safetensors"))
    assert [sorted(load_file(file)) for file in files] == [["x"], ["y", "z"]]
    assert load_file(files[1])["z"].tolist() == [0, 1]


# --- ids that do not exist --------------------------------------------------------------------------------------------


def padded(folder, tmp_path, rows):
    """A folder with the tokenizer and a configuration whose head has `rows` rows."""
    from transformers import Qwen3Config

    folder[1].save_pretrained(tmp_path)
    Qwen3Config(vocab_size=rows, hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(("rows", "biased"), [(259, None), (264, range(259, 264)), (700, "allowed")])
def test_ids_without_a_token_are_forbidden_in_every_request(start, folder, tmp_path, rows, biased):
    server = start()
    served = {"served_model": str(folder[0])}
    engine = build(padded(folder, tmp_path, rows), base_url=server.url, **served)
    answer(engine, ask())
    body = server.bodies(COMPLETIONS)[-1]
    if biased == "allowed":  # 441 rows too many, 259 tokens: the shorter list
        assert body["allowed_token_ids"] == list(range(259))
        assert "logit_bias" not in body
    else:
        assert body.get("logit_bias") == (None if biased is None else {str(i): -100.0 for i in biased})
    with pytest.raises(UsageError, match="its prompt has id 259 outside the vocabulary of 259"):
        engine.submit([ask(prompt=(1, 259))])


def test_a_server_that_says_an_id_without_a_token_fails_that_request(start, connect):
    server = start()
    engine = connect(server)
    choice = {"token_ids": [5, 300], "finish_reason": "length", "logprobs": {"token_logprobs": [-1.0, -2.0]}}
    server.faults[COMPLETIONS] = [(200, {}, {"choices": [choice], "usage": {}})]
    found = answer(engine, ask("a"))
    assert "said id 300, which no token has" in str(found["a"].failure)


def test_a_worker_masks_ids_in_everything_that_its_model_computes():
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    from agentbench.engines.vllm.worker import WeightLoader

    model = SimpleNamespace(compute_logits=lambda hidden: None if hidden is None else hidden * 1.0)
    loader = WeightLoader()
    loader.model_runner = SimpleNamespace(get_model=lambda: model)
    loader.keep_ids(3, [1])
    logits = model.compute_logits(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert logits.tolist() == [[1.0, -float("inf"), 3.0, -float("inf")]]
    loader.keep_ids(4, [0])  # a teacher's own tokens, on top
    assert torch.isfinite(model.compute_logits(torch.ones(2, 4))).sum(dim=1).tolist() == [1, 1]
    assert model.compute_logits(None) is None


# --- stop strings -----------------------------------------------------------------------------------------------------


def test_stop_strings_go_out_and_what_comes_beyond_them_is_dropped(start, connect):
    server = start()
    engine = connect(server)
    free = answer(engine, ask(seed=3, temperature=1.0, max_new_tokens=60))["a"].action
    shown = [engine.tokenizer.decode([token]).replace("\ufffd", "") for token in free.token_ids]
    at = next(n for n in range(5, 60) if shown[n] and shown[n] not in shown[:n])
    found = answer(engine, ask(seed=3, temperature=1.0, max_new_tokens=60, stop=(shown[at], "unsaid")))[
        "a"
    ].action
    sent = server.bodies(COMPLETIONS)[-1]
    assert (sent["stop"], sent["include_stop_str_in_output"]) == ([shown[at], "unsaid"], True)
    assert found.token_ids == free.token_ids[: at + 1]  # the toy server takes no notice of `stop`
    assert found.logprobs == free.logprobs[: at + 1]
    assert found.finish == "stop"
    assert found.text.endswith(shown[at])


def test_a_request_may_end_with_a_token_of_its_own(start, connect, folder):
    server = start()
    engine = connect(server)
    asked = Request("a", (1, 2, 3), SamplingParams(max_new_tokens=9), 5, end_ids=(77, folder[1].eos_token_id))
    answer(engine, asked)
    assert server.bodies(COMPLETIONS)[-1]["stop_token_ids"] == sorted({77, folder[1].eos_token_id})
