import threading
import time

import pytest
from places import FAKE_ENDPOINT

from agentbench.config import refuse_keys, validate
from agentbench.engine import TextEngine, TextRequest
from agentbench.engines import http as http_client
from agentbench.engines.http import HttpClient, ServerUnavailable
from agentbench.engines.openai import build
from agentbench.errors import ConfigError, ContextFull, EngineDown, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.registry import load
from agentbench.runs.episodes import encode_episode, read_episodes
from agentbench.runs.folder import read_timings
from agentbench.types import SamplingParams

FakeServer = load("envs", f"{FAKE_ENDPOINT}:FakeServer")
CHAT = "/v1/chat/completions"
COMMANDS = ("go left", "go right", "open door")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(http_client, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server():
    with FakeServer(chat=walk) as running:
        yield running


def walk(messages, seed):
    """Reply with a command that depends on the messages and the seed."""
    text = "".join(message["content"] for message in messages)
    return f"<think>hm</think><action>{COMMANDS[(sum(text.encode()) + seed) % 3 if seed else 0]}</action>"


def ask(key="a", text="hello", seed=7, **sampling):
    return TextRequest(key, ({"role": "user", "content": text},), SamplingParams(**sampling), seed)


def answer(engine, *requests):
    engine.ask(requests)
    found = {}
    while len(found) < len(requests):
        found |= {item.key: item for item in engine.poll()}
    assert engine.poll() == []
    return found


def config(tmp_path, server, output="run", **keys):
    options = {"base_url": server.url, "retries": 1} | keys.pop("engine_options", {})
    values = {"panel": "corridor/test@1", "limit": 6, "policy": "model", "engine": "openai", "retries": 0}
    values |= {"model_name_or_path": "m", "engine_options": options, "max_turns": 5, "concurrency": 2}
    return validate(EvalConfig, values | {"output_dir": str(tmp_path / output)} | keys)


def records(path):
    return sorted(encode_episode(episode) for episode in read_episodes(path))


# --- what is sent and read ------------------------------------------------------------------------------------------


def test_messages_and_sampling_go_out_and_text_comes_back(server):
    engine = build("m", base_url=server.url)
    assert isinstance(engine, TextEngine)
    found = answer(engine, ask(seed=2**40 + 5, temperature=0.5, top_p=0.9, max_new_tokens=33))
    assert found["a"].action.text.startswith("<think>")
    assert (found["a"].action.token_ids, found["a"].action.logprobs) == ((), ())
    assert server.bodies(CHAT)[-1] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 33,
        "seed": 5,  # (2**40 + 5) mod 2**31
    }


def test_extra_body_and_the_field_of_the_limit(server):
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    engine = build("m", base_url=server.url, max_tokens_field="max_completion_tokens", extra_body=extra)
    answer(engine, ask(top_k=4))
    sent = server.bodies(CHAT)[-1]
    assert sent["max_completion_tokens"] == 512
    assert "max_tokens" not in sent
    assert sent["top_k"] == 4
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_completions_send_the_chat_template_as_text(server, tmp_path):
    pytest.importorskip("transformers")
    from agentbench.models.tiny import make_tokenizer

    make_tokenizer(tmp_path, [])
    server.chat = lambda prompt, seed: "got " + prompt
    engine = build("m", base_url=server.url, api="completions", tokenizer=str(tmp_path))
    text = answer(engine, ask(text="hi"))["a"].action.text
    assert text == "got <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_refusal_is_what_the_model_said_and_a_content_filter_is_a_failure(server):
    engine = build("m", base_url=server.url)
    refusal = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    filtered = {"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}
    server.faults[CHAT] = [(200, {}, refusal)]
    assert answer(engine, ask())["a"].action.text == "No."
    server.faults[CHAT] = [(200, {}, filtered)]
    assert "content_filter" in str(answer(engine, ask())["a"].failure)


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(server, monkeypatch, variable):
    with FakeServer() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert answer(build("m", base_url=server.url), ask())["a"].action.finish == "stop"
        assert proxy.seen == []


TAGS = ("</search>", "</answer>", "<information>")


@pytest.mark.parametrize(
    ("reason", "more", "said", "text", "finish"),
    [
        # OpenAI itself: the stop string is left out, and nothing says which one it was
        ("stop", {}, "<think>x</think><search>who", "<think>x</think><search>who</search>", "stop"),
        ("stop", {}, "no tag at all", "no tag at all", "stop"),
        ("length", {}, "<search>who", "<search>who", "length"),
        # vLLM says which one it met, or null for an end token
        ("stop", {"stop_reason": "</search>"}, "<search>a", "<search>a</search>", "stop"),
        ("stop", {"stop_reason": "<information>"}, "<search>a", "<search>a<information>", "stop"),
        ("stop", {"stop_reason": None}, "<search>a", "<search>a", "stop"),
        ("stop", {"stop_reason": 151645}, "<search>a", "<search>a", "stop"),
        # SGLang
        ("stop", {"matched_stop": "</answer>"}, "<answer>b", "<answer>b</answer>", "stop"),
        ("stop", {"matched_stop": 2}, "<answer>b", "<answer>b", "stop"),
        # endpoints that include it, or take no notice of it
        ("stop", {}, "<search>a</search>", "<search>a</search>", "stop"),
        ("length", {}, "<search>a</search><information>made up", "<search>a</search>", "stop"),
    ],
)
def test_replies_end_with_their_stop_string_whatever_the_endpoint_does_with_it(
    server, reason, more, said, text, finish
):
    engine = build("m", base_url=server.url)
    choice = {"message": {"content": said}, "finish_reason": reason, **more}
    server.faults[CHAT] = [(200, {}, {"choices": [choice]})]
    action = answer(engine, ask(stop=TAGS))["a"].action
    assert (action.text, action.finish) == (text, finish)
    assert server.bodies(CHAT)[-1]["stop"] == list(TAGS)


def test_without_stop_strings_none_are_sent(server):
    engine = build("m", base_url=server.url)
    answer(engine, ask())
    assert "stop" not in server.bodies(CHAT)[-1]


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("die", "connection"),
        ("truncated", "malformed"),
        ("slow", "timeout"),
        ((500, {}, {"error": {"message": "boom"}}), "server_error"),
        ((503, {}, {}), "server_error"),
        ((429, {}, {}), "rate_limit"),
        ((200, {}, {"choices": []}), "malformed"),
    ],
)
def test_faults_are_retried_and_counted(server, fault, kind):
    engine = build("m", base_url=server.url, request_timeout=2.5)
    server.faults[CHAT] = [fault, fault]
    found = answer(engine, ask())
    assert found["a"].action.text == walk([{"content": "hello"}], 7)
    assert engine.usage[f"retries_{kind}"] == 2
    assert engine.usage["requests"] == 4  # the probe, two faults, the answer
    assert engine.usage["failures"] == 0


def test_retry_after_is_honoured_by_every_request(server):
    engine = build("m", base_url=server.url)
    server.faults[CHAT] = [(429, {"Retry-After": "0.6"}, {})]
    began = time.monotonic()
    engine.ask([ask("a")])
    while len(server.bodies(CHAT)) < 2:  # the probe, and the one that is told to wait
        time.sleep(0.01)
    time.sleep(0.1)
    engine.ask([ask("b")])
    found = []
    while len(found) < 2:
        found += engine.poll()
        assert time.monotonic() - began >= 0.6
    assert len(server.bodies(CHAT)) == 4


def test_a_wait_that_is_too_long_is_not_waited_for(server):
    engine = build("m", base_url=server.url)
    server.faults[CHAT] = [(429, {"Retry-After": "4000"}, {})]
    failure = answer(engine, ask())["a"].failure
    assert "asks to wait 4000 s" in str(failure)


def test_an_empty_quota_is_not_retried(server):
    engine = build("m", base_url=server.url)
    server.faults[CHAT] = [(429, {}, {"error": {"message": "no money", "code": "insufficient_quota"}})]
    assert "no money" in str(answer(engine, ask())["a"].failure)
    assert len(server.bodies(CHAT)) == 2


def test_after_the_retries_the_request_fails_and_the_others_do_not(server):
    engine = build("m", base_url=server.url, retries=2)
    server.faults[CHAT] = ["die", "die", "die"]
    failure = answer(engine, ask("a"))["a"].failure
    assert isinstance(failure, ServerUnavailable)
    assert "no usable answer in 3 attempts" in str(failure)
    assert answer(engine, ask("b"))["b"].action is not None
    assert engine.usage["failures"] == 1


def test_a_full_context_ends_the_episode_and_other_refusals_are_errors(server):
    engine = build("m", base_url=server.url)
    words = "This model's maximum context length is 4096 tokens."
    server.faults[CHAT] = [
        (400, {}, {"error": {"message": words}}),
        (400, {}, {"error": {"message": "too big", "code": "context_length_exceeded"}}),
        (400, {}, {"error": {"message": "unknown field top_k"}}),
    ]
    assert isinstance(answer(engine, ask())["a"].failure, ContextFull)
    assert isinstance(answer(engine, ask())["a"].failure, ContextFull)
    other = answer(engine, ask())["a"].failure
    assert not isinstance(other, ContextFull)
    assert "unknown field top_k" in str(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "other"}, "404.*does not exist.*check the model's name"),
        ({"base_url": "http://127.0.0.1:9"}, "no usable answer in 4 attempts.*is base_url right"),
        ({"base_url": "ftp://x"}, "is no http address"),
        ({"base_url": "http://me:secret@x/v1"}, "holds a name or password"),
        ({"api": "completions"}, "needs engine_options.tokenizer"),
        ({"api": "responses"}, "api must be 'chat' or 'completions'"),
        ({"api_key_env": "NO_SUCH_KEY"}, "'NO_SUCH_KEY' .* is not set"),
        ({"prices": {"prompt": 1}}, "prices needs the keys prompt and completion"),
        ({"max_in_flight": 0}, "max_in_flight at least 1"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(server, options, message):
    with pytest.raises(UsageError, match=message):
        build(**{"model": "m", "base_url": server.url} | options)


def test_a_server_that_never_answers_the_first_request_is_waited_for_once_and_aloud(
    server, monkeypatch, caplog
):
    # with the defaults it was four times ten minutes without a word; what fails at once is still tried again
    monkeypatch.setattr("agentbench.engines.openai._PROBE_PATIENCE", 0.2)
    monkeypatch.setattr("agentbench.engines.openai._SAY_AFTER", 0.1)
    server.faults[CHAT] = ["slow"] * 4
    with pytest.raises(
        UsageError, match=r"in 1 attempt; the last: no answer within 0\.3 s; is base_url right"
    ):
        build("m", base_url=server.url, request_timeout=0.3)
    assert "has not answered the first short request for 0.1 s; one attempt may take 0.3 s" in caplog.text
    assert len(server.bodies(CHAT)) == 1
    server.faults[CHAT] = ["die"]
    caplog.clear()
    assert answer(build("m", base_url=server.url), ask())["a"].failure is None
    assert caplog.text == ""


# --- keys and limits --------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_never_shown(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    engine = build("m", base_url=server.url, api_key_env="MY_KEY")
    assert {key for _, _, key in server.seen} == {"Bearer sk-secret"}
    server.faults[CHAT] = [(401, {}, {"error": {"message": "Incorrect API key provided: sk-secret"}})]
    failure = answer(engine, ask())["a"].failure
    assert "Incorrect API key provided: (key)" in str(failure)
    assert "sk-secret" not in str(engine.info)
    server.faults[CHAT] = [(401, {}, {"error": {"message": "wrong key sk-secret"}})]
    with pytest.raises(UsageError, match="api_key_env") as refused:
        build("m", base_url=server.url, api_key_env="MY_KEY")
    assert "sk-secret" not in str(refused.value)


def test_no_more_requests_at_a_time_than_allowed(server):
    engine = build("m", base_url=server.url, max_in_flight=3)
    server.delay = 0.05
    answer(engine, *(ask(str(i)) for i in range(12)))
    assert 2 <= server.most_at_once <= 3


def test_requests_per_minute_space_the_starts(server):
    http = HttpClient(server.url, requests_per_minute=1200)  # one every 50 ms
    began = time.monotonic()
    futures = [http.start("/v1/models", None, lambda _: None, retries=0) for _ in range(5)]
    for future in futures:
        future.result()
    assert time.monotonic() - began >= 4 * 0.05
    http.close()


def test_cost_is_tokens_times_prices(server):
    engine = build("m", base_url=server.url, prices={"prompt": 2.0, "completion": 10.0})
    answer(engine, ask())
    # the probe and one request, 10 prompt and 4 completion tokens each: (20 * 2 + 8 * 10) / 1e6
    assert engine.usage["cost"] == pytest.approx(120e-6)
    assert (engine.usage["prompt_tokens"], engine.usage["completion_tokens"]) == (20, 8)


# --- evaluations ------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_reproducible_and_says_what_it_used(server, tmp_path):
    first = evaluate(config(tmp_path, server, "a"))
    evaluate(config(tmp_path, server, "b", concurrency=5))
    assert records(tmp_path / "a") == records(tmp_path / "b")
    turns = sum(len(episode.turns) for episode in read_episodes(tmp_path / "a"))
    assert first.usage["completion_tokens"] == 4 * turns  # without the probe at the start
    assert f"| engine: requests | {turns} |" in (tmp_path / "a" / "report.md").read_text()
    assert all(
        turn.action.text and not turn.action.token_ids
        for e in read_episodes(tmp_path / "a")
        for turn in e.turns
    )


def test_an_engine_used_before_counts_the_evaluation_alone(server, tmp_path):
    from agentbench.policies.build import build_policy
    from agentbench.registry import env_spec

    asked = config(tmp_path, server)
    policy = build_policy(asked, env_spec("corridor"), 5)
    evaluate(asked, policy=policy)
    again = evaluate(config(tmp_path, server, "again"), policy=policy)
    turns = sum(len(episode.turns) for episode in read_episodes(tmp_path / "again"))
    assert again.usage["requests"] == turns


def test_a_growing_conversation_is_sent_whole(server, tmp_path):
    server.chat = lambda messages, seed: "go left"
    evaluate(config(tmp_path, server, limit=1, prompt="agentbench.prompts:corridor/transcript"))
    last = server.bodies(CHAT)[-1]["messages"]
    (episode,) = read_episodes(tmp_path / "run")
    spoken = [text for turn in episode.turns for text in (turn.observation, "go left")][:-1]
    assert [message["content"].strip() for message in last] == [text.strip() for text in spoken]
    assert [message["role"] for message in last] == (["user", "assistant"] * len(spoken))[: len(spoken)]


def test_a_prompt_that_goes_on_inside_a_reply_is_refused(server, tmp_path):
    with pytest.raises(UsageError, match=r"layout: continuing.*growing or fresh"):
        evaluate(config(tmp_path, server, limit=1, prompt="agentbench.prompts:search_qa/continuing"))
    asked = [body["messages"][0]["content"] for body in server.bodies(CHAT)]
    assert set(asked) <= {"Say yes."}  # whether it answers at all; no task was played


def test_a_context_that_is_full_is_no_error(server, tmp_path):
    server.chat = lambda messages, seed: (
        (400, {"error": {"message": "maximum context length"}}) if len(messages) > 1 else "x"
    )
    summary = evaluate(config(tmp_path, server, prompt="agentbench.prompts:corridor/transcript"))
    assert summary.ends == {"context_full": 6}
    assert summary.errors == {}


def test_a_server_that_dies_leaves_errors_and_resume_ends_as_if_it_had_not(server, tmp_path):
    evaluate(config(tmp_path, server, "undisturbed"))
    fragile = FakeServer(chat=walk)
    enough = 8

    def stop_when_asked_enough():
        while len(fragile.seen) < enough:
            time.sleep(0.001)
        fragile.stop()

    fragile.delay = 0.01
    thread = threading.Thread(target=stop_when_asked_enough)
    thread.start()
    broken = evaluate(config(tmp_path, fragile, "disturbed"))
    thread.join()
    assert broken.withheld
    assert broken.overall is None
    assert set(broken.errors) == {"ServerUnavailable"}
    with FakeServer(chat=walk, port=fragile.port):
        summary = evaluate(config(tmp_path, fragile, "disturbed"), resume=True, retry_errors=True)
    assert summary.errors == {}
    assert records(tmp_path / "disturbed") == records(tmp_path / "undisturbed")
    # both sittings are counted, the attempts in vain included
    assert read_timings(tmp_path / "disturbed").usage["retries_connection"] >= 1
    assert summary.usage["requests"] > len(fragile.seen)


def test_options_that_the_engine_does_not_have_are_named(server, tmp_path):
    with pytest.raises(ConfigError, match="'basurl'; its options: api, api_key_env, base_url"):
        evaluate(config(tmp_path, server, engine_options={"basurl": "x"}))
    with pytest.raises(ConfigError, match="missing a required argument: 'model'"):
        evaluate(config(tmp_path, server, model_name_or_path=None))


def test_settings_that_need_token_ids_are_refused(server, tmp_path):
    with pytest.raises(ConfigError, match="guided choice needs token ids"):
        evaluate(config(tmp_path, server, guided=True))
    with pytest.raises(ConfigError, match="max_episode_tokens counts token ids"):
        evaluate(config(tmp_path, server, max_episode_tokens=10))


def test_training_on_text_is_refused(server, tmp_path):
    pytest.importorskip("torch")
    from agentbench.models.tiny import make_model, make_tokenizer
    from agentbench.training.config import TrainConfig
    from agentbench.training.loop import train

    folder = make_model(tmp_path / "m", make_tokenizer(tmp_path / "m", []), hidden=32, layers=1, heads=2)
    values = {"algorithm": "grpo", "output_dir": str(tmp_path / "t"), "model_name_or_path": str(folder)}
    values |= {"env": {"name": "corridor", "split": "train"}, "max_steps": 1}
    server.models.append(str(folder))
    values["rollout"] = {"engine": "openai", "engine_options": {"base_url": server.url}, "group_size": 2}
    with pytest.raises(UsageError, match="only what was sampled token by token can be trained on"):
        train(validate(TrainConfig, values))


def test_a_closed_engine_leaves_no_thread(server):
    before = threading.active_count()
    engine = build("m", base_url=server.url)
    engine.ask([ask()])
    engine.close()
    assert threading.active_count() <= before + 1  # the server may still be writing its answer


# --- odd answers ------------------------------------------------------------------------------------------------------

KEY = "sk-campaign-0123456789abcdefSECRET"


@pytest.mark.parametrize(
    ("body", "failure", "retried"),
    [
        ({"error": {"code": 502, "message": "upstream gave up"}}, "upstream gave up", True),
        ({"error": {"code": 401, "message": "no credentials"}}, "no credentials", False),
        (
            {"choices": [{"finish_reason": "error", "error": {"message": "provider fell over"}}]},
            "fell over",
            True,
        ),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "malformed answer", True),
        ({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}, "has no content", True),
        ({"choices": []}, "a list in it is empty", True),
    ],
)
def test_errors_inside_a_200_are_told_apart(server, body, failure, retried):
    engine = build("m", base_url=server.url, retries=1)
    server.faults[CHAT] = [(200, {}, body), (200, {}, body)]
    assert failure in str(answer(engine, ask())["a"].failure)
    assert len(server.bodies(CHAT)) == (3 if retried else 2)  # the probe, and one or two attempts


def test_a_context_that_is_full_is_seen_at_any_status(server):
    engine = build("m", base_url=server.url, context_words=["zu lang"])
    for status, words in (
        (500, "exceeds the available context size"),
        (422, "zu lang"),
        (200, "context length"),
    ):
        server.faults[CHAT] = [(status, {}, {"error": {"code": 400, "message": words}})]
        assert isinstance(answer(engine, ask())["a"].failure, ContextFull)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 10.0, "completion_tokens": "n/a"}, (10, 0)),
        ({"prompt_tokens": -5, "completion_tokens": 1e300}, (0, 0)),
        ({"prompt_tokens": [1], "completion_tokens": True}, (0, 0)),
        ({"prompt_tokens": 2**60, "completion_tokens": None}, (0, 0)),
        ("many", (0, 0)),
    ],
)
def test_counts_that_are_none_do_not_cost_the_reply(server, usage, counted):
    engine = build("m", base_url=server.url)
    before = engine.usage
    good = {"choices": [{"message": {"content": "look"}, "finish_reason": "stop"}], "usage": usage}
    server.faults[CHAT] = [(200, {}, good)]
    assert answer(engine, ask())["a"].action.text == "look"
    now = engine.usage
    assert tuple(now[name] - before[name] for name in ("prompt_tokens", "completion_tokens")) == counted


def test_a_body_that_is_not_what_it_says_is_one_failed_attempt(server):
    engine = build("m", base_url=server.url, retries=2)
    server.faults[CHAT] = [(200, {"Content-Encoding": "gzip"}, {"not": "gzip"})]
    assert answer(engine, ask())["a"].action is not None
    assert engine.usage["retries_connection"] == 1


def test_an_answer_without_end_is_cut_off(server, monkeypatch):
    from agentbench.engines import openai

    monkeypatch.setattr(openai, "_LARGEST_ANSWER", 2**20)
    engine = build("m", base_url=server.url, retries=0)
    huge = {"choices": [{"message": {"content": "x" * 2**21}, "finish_reason": "stop"}]}
    server.faults[CHAT] = [(200, {}, huge)]
    assert "an answer of more than 1 MiB" in str(answer(engine, ask())["a"].failure)


def test_whatever_breaks_in_a_request_belongs_to_that_request(server, monkeypatch):
    from agentbench.engines import openai

    def broken(*_):
        raise RuntimeError("a bug")

    engine = build("m", base_url=server.url)
    monkeypatch.setattr(openai, "read_reply", broken)
    assert "RuntimeError: a bug" in str(answer(engine, ask())["a"].failure)
    monkeypatch.undo()
    assert answer(engine, ask("b"))["b"].action is not None


def test_a_reply_is_waited_for_as_long_as_asked_and_can_be_dropped(server):
    engine = build("m", base_url=server.url)
    server.faults[CHAT] = ["slow"]
    engine.ask([ask("a")])
    began = time.monotonic()
    assert engine.poll(timeout=0.1) == []
    assert time.monotonic() - began < 5
    engine.drop(["a"])
    assert engine.poll(timeout=5) == []
    assert set(answer(engine, ask("a"))) == {"a"}  # the key is free again
    engine.close()


# --- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_has_the_fields_of_a_real_request(server, tmp_path):
    evaluate(config(tmp_path, server, temperature=0.3, top_p=0.9, top_k=7, max_new_tokens=33, limit=1))
    probe, real = server.bodies(CHAT)[1], server.bodies(CHAT)[-1]
    assert probe.keys() == real.keys()
    differ = {name for name in real if real[name] != probe[name]}
    assert differ == {"messages", "seed"}


def test_an_endpoint_that_only_streams_is_told_apart_and_can_be_used(server, tmp_path):
    def streaming(body):
        if not body.get("stream"):
            return 400, {"error": {"message": "Stream must be set to true"}}
        return 200, {
            "choices": [{"message": {"content": "<action>go left</action>"}, "finish_reason": "stop"}]
        }

    server._chat = streaming
    with pytest.raises(UsageError, match=r"extra_body: \{stream: true\}"):
        evaluate(config(tmp_path, server))
    assert evaluate(config(tmp_path, server, engine_options={"extra_body": {"stream": True}})).errors == {}


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("seed", r"extra_body: \{seed: null\}"),
        ("temperature", r"use --temperature 1, or .*\{temperature: null\}"),
        ("top_k", r"extra_body: \{top_k: null\}"),
    ],
)
def test_a_field_that_an_endpoint_refuses_is_named_and_can_be_left_out(server, tmp_path, field, hint):
    def strict(body):
        if field in body and body[field] != 1:
            return 400, {"error": {"message": f"Unsupported parameter: '{field}'"}}
        return 200, {
            "choices": [{"message": {"content": "<action>go left</action>"}, "finish_reason": "stop"}]
        }

    server._chat = strict
    with pytest.raises(UsageError, match=hint):
        evaluate(config(tmp_path, server, top_k=3))
    options = {"extra_body": {field: None}}
    summary = evaluate(config(tmp_path, server, top_k=3, engine_options=options))
    assert summary.errors == {}
    assert field not in server.bodies(CHAT)[-1]


def test_a_limit_that_the_context_cannot_hold_is_refused_at_the_start(server, tmp_path):
    server._chat = lambda body: (
        (400, {"error": {"message": "max_tokens is too large; maximum context length is 64"}})
        if body["max_tokens"] > 64
        else (200, {"choices": [{"message": {"content": "x"}}]})
    )
    with pytest.raises(UsageError, match="max_new_tokens 512 does not fit, lower it"):
        evaluate(config(tmp_path, server))


# --- keys and the machine's settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", " "])
def test_a_key_with_a_line_end_is_cleaned(server, monkeypatch, end):
    monkeypatch.setenv("MY_KEY", KEY + end)
    build("m", base_url=server.url, api_key_env="MY_KEY")
    assert server.seen[-1][2] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "key", [f"\u201c{KEY}\u201d", KEY + "\u200b", KEY + "\x01", KEY[:9] + "\n" + KEY[9:]]
)
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(server, monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(UsageError, match="MY_KEY holds a character that cannot be sent") as refused:
        build("m", base_url=server.url, api_key_env="MY_KEY")
    assert KEY[:8] not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"api_key_env": KEY},
        {"base_url": f"http://127.0.0.1:9/v1?api_key={KEY}"},
        {"base_url": "http://127.0.0.1:9/v1?api_key=hunter2"},
        {"base_url": f"http://127.0.0.1:9/v1#{KEY}"},
        {"base_url": f"http://127.0.0.1:9/v1/{KEY}"},
        {"extra_body": {"api_key": "hunter2hunter2"}},
        {"extra_body": {"user": KEY}},
        {"extra_body": {"metadata": {"headers": [{"Authorization": "hunter2hunter2"}]}}},
        {"extra_body": {"metadata": {"user": [KEY]}}},
        {"model": KEY},
        *({where: f"ghp_hunter2{KEY[-20:]}", **more} for where, more in (("api_key_env", {}), ("model", {}))),
        {"api_key_env": "a1b2c3d4hunter2e5f6a7b8"},
        {"api_key_env": "hunter2/with+signs=="},
        {"model": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.hunter2hunter2"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_without_showing_it(server, options):
    with pytest.raises(UsageError) as refused:
        build(**{"model": "m", "base_url": server.url} | options)
    assert KEY not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["skywork-o1-open-llama-3.1-8b", "hf-internal-testing/tiny-random-gpt2", "pkpdmodel-large-instruct-v2",
     "https://sketchengine-server-01.example.com/v1", "accounts/fireworks/models/qwen3-235b-a22b-instruct-2507"],
)  # fmt: skip
def test_names_that_begin_like_a_key_are_none(name):
    refuse_keys("the model's name", name)


@pytest.mark.parametrize(
    "fault",
    [
        (401, {}, {"error": {"message": f"Incorrect key {KEY}"}}),
        (400, {}, {"error": {"message": f"bad key {KEY[:12]} {KEY[12:]}"}}),
        (500, {}, {"error": {"message": "x" * 290 + KEY}}),
        (400, {}, {"error": {"message": "bad", "code": KEY}}),
        (200, {}, {"choices": [{"message": {"content": KEY}, "finish_reason": "stop"}]}),
        (200, {}, {"choices": [{"message": {"content": "x"}, "finish_reason": KEY}]}),
        (200, {}, {"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter", KEY: KEY}]}),
        (200, {}, {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": KEY}}),
        (200, {}, {"choices": [{"message": {"content": None, "reasoning": KEY}, "finish_reason": "stop"}]}),
        (200, {}, {"choices": KEY}),
    ],
)
def test_a_key_that_the_server_repeats_goes_nowhere(server, monkeypatch, fault):
    monkeypatch.setenv("MY_KEY", KEY)
    engine = build("m", base_url=server.url, api_key_env="MY_KEY", retries=0)
    server.faults[CHAT] = [fault]
    found = repr(answer(engine, ask())["a"]) + repr(engine.usage)
    assert not any(KEY[at : at + 12] in found for at in range(len(KEY) - 11))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("all_proxy", "socks5h://127.0.0.1:9"),
        ("http_proxy", "::::"),
        ("http_proxy", "ftp://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", "/etc/hostname"),
    ],
)
def test_settings_of_the_machine_that_cannot_work_are_one_line(server, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"with the environment variable .*{variable}"):
        HttpClient("http://models.invalid/v1")
    # this machine's own addresses need neither proxy nor certificate
    HttpClient(server.url).close()


@pytest.mark.parametrize(
    "options",
    [
        {"retries": "two"},
        {"retries": 1.5},
        {"prices": 3},
        {"prices": {"prompt": "a", "completion": "b"}},
        {"request_timeout": "soon"},
        {"request_timeout": float("nan")},
        {"max_in_flight": True},
        {"extra_body": [1]},
        {"base_url": 8000},
        {"base_url": "http://127.0.0.1:99999/v1"},
        {"base_url": ""},
    ],
)
def test_options_of_the_wrong_type_are_one_line(server, options):
    with pytest.raises(UsageError) as refused:
        build(**{"model": "m", "base_url": server.url} | options)
    assert "\n" not in str(refused.value)


def test_an_address_of_the_route_is_taken_for_that_of_the_protocol(server):
    engine = build("m", base_url=f"{server.url}/v1/chat/completions")
    assert engine.http.base_url == f"{server.url}/v1"
    assert answer(engine, ask())["a"].action is not None


# --- conversations ----------------------------------------------------------------------------------------------------


def test_an_empty_reply_does_not_poison_the_conversation(server, tmp_path):
    def strict(body):
        if any(message["role"] == "assistant" and not message["content"] for message in body["messages"]):
            return 400, {
                "error": {"message": "Assistant message must contain either 'content' or 'tool_calls'!"}
            }
        return 200, {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}

    server._chat = strict
    summary = evaluate(config(tmp_path, server, limit=2, prompt="agentbench.prompts:corridor/transcript"))
    assert (summary.ends, summary.invalid, summary.errors) == ({"max_turns": 2}, {"empty": 10}, {})
    assert summary.cut == 10
    assert {m["content"] for m in server.bodies(CHAT)[-1]["messages"] if m["role"] == "assistant"} == {
        "(no reply)"
    }
    assert {turn.action.text for e in read_episodes(tmp_path / "run") for turn in e.turns} == {""}


def test_a_thought_is_recorded_and_not_sent_again(server, tmp_path):
    message = {"content": "go left", "reasoning_content": "I go left."}
    server._chat = lambda body: (200, {"choices": [{"message": message, "finish_reason": "stop"}]})
    summary = evaluate(config(tmp_path, server, limit=1, prompt="agentbench.prompts:corridor/transcript"))
    assert summary.invalid == {}
    (episode,) = read_episodes(tmp_path / "run")
    assert {turn.action.text for turn in episode.turns} == {"<think>I go left.</think>go left"}
    assert {turn.env_action for turn in episode.turns} == {"go left"}
    said = [m["content"] for m in server.bodies(CHAT)[-1]["messages"] if m["role"] == "assistant"]
    assert set(said) == {"go left"}


def test_a_reply_that_begins_inside_the_thought_counts_as_thinking(server, tmp_path):
    server.chat = lambda messages, seed: "I go left.\n</think>\n\n<action>go left</action>"
    assert evaluate(config(tmp_path, server, limit=2)).invalid == {}


# --- time and patience ------------------------------------------------------------------------------------------------


def test_the_time_of_an_episode_bounds_waiting_for_its_model(server, tmp_path):
    def slow_once(messages, seed):
        if len(server.bodies(CHAT)) == 6:
            time.sleep(20)
        return walk(messages, seed)

    server.chat = slow_once
    began = time.monotonic()
    summary = evaluate(config(tmp_path, server, episode_seconds=3.0, retries=1))
    assert time.monotonic() - began < 15
    assert summary.errors == {"EpisodeTimeout": 1}
    assert summary.recorded == 6


def test_a_run_stops_when_nobody_answers_any_more(server, tmp_path):
    healthy = 12

    def revoked(body):
        if len(server.bodies(CHAT)) > healthy:
            return 401, {"error": {"message": "key revoked"}}
        return 200, {"choices": [{"message": {"content": "<action>go left</action>"}}]}

    server._chat = revoked
    values = {"limit": None, "give_up_after": 4, "retries": 1}
    with pytest.raises(EngineDown, match=r"^4 episodes in a row got no usable answer.*key revoked.*--resume"):
        evaluate(config(tmp_path, server, **values))
    recorded = read_episodes(tmp_path / "run")
    assert all(episode.ok for episode in recorded)
    assert "incomplete" in (tmp_path / "run" / "report.md").read_text()
    server._chat = lambda body: (200, {"choices": [{"message": {"content": "<action>go left</action>"}}]})
    summary = evaluate(config(tmp_path, server, **values), resume=True)
    assert (summary.errors, summary.recorded) == ({}, summary.planned)


def test_single_refusals_do_not_stop_a_run(server, tmp_path):
    def picky(body):
        if body["seed"] % 3 == 0 and body["seed"]:
            return 400, {"error": {"message": "filtered", "code": "content_filter"}}
        return 200, {"choices": [{"message": {"content": "<action>go left</action>"}}]}

    server._chat = picky
    summary = evaluate(config(tmp_path, server, limit=12, give_up_after=5, concurrency=1))
    assert summary.recorded == 12
    assert set(summary.errors) == {"RequestRefused"}
