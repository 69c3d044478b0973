"""Weight updates: the engine answers with the new weights, with nothing kept of the old ones."""

import shutil

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from vllm_cases import ask, largest_error, load, scaled, score_error, some_ids  # noqa: E402

from agentbench.engine import sample  # noqa: E402
from agentbench.errors import ContractError, CorruptData  # noqa: E402
from agentbench.models.weights import weights_digest  # noqa: E402


@pytest.fixture(params=["tied", "untied", "bf16"])
def pair(request, folders):
    """An engine, and the same model in transformers to be changed; the engine's weights are put back afterwards."""
    engine = request.getfixturevalue(request.param)
    model = load(folders[request.param])
    old = {name: tensor.clone() for name, tensor in model.named_parameters()}
    yield engine, model, 2e-2 if request.param == "bf16" else 1e-4
    engine.load_weights(old.items())


def changed(model, seed=0):
    """Move every weight, each its own way."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return model


def test_after_an_update_replies_and_scores_are_the_new_models(pair):
    engine, model, tolerance = pair
    prompts = [some_ids(20 + 30 * i, i) for i in range(4)]
    assert score_error(model, engine, prompts[3]) < tolerance
    for step in range(3):
        version = engine.policy_version
        assert engine.load_weights(changed(model, step).named_parameters()) == version + 1
        actions = sample(engine, [ask(str(i), p, i, max_new_tokens=12) for i, p in enumerate(prompts)])
        assert {action.policy_version for action in actions} == {version + 1}
        assert max(largest_error(model, p, a) for p, a in zip(prompts, actions, strict=True)) < tolerance
        assert score_error(model, engine, prompts[3]) < tolerance
        assert engine.info["weights"] == weights_digest(model)


def test_an_update_shows_in_the_replies_to_a_cached_prompt(pair):
    engine, model, tolerance = pair
    prompt = some_ids(128, 77)
    for key in ("cold", "cached"):
        before, (old,) = engine.cached_tokens, sample(engine, [ask(key, prompt, 4, max_new_tokens=1)])
        found = engine.cached_tokens - before
    assert found == 96  # of 128 tokens, all blocks of 32 but the last, whose logits are needed
    engine.load_weights(changed(model).named_parameters())
    before = engine.cached_tokens
    (new,) = sample(engine, [ask("after", prompt, 4, max_new_tokens=1)])
    assert engine.cached_tokens == before
    assert largest_error(model, prompt, new) < tolerance
    assert largest_error(model, prompt, old) > 10 * tolerance


def test_running_requests_start_over_with_the_new_weights(tied, folders):
    model = load(folders["tied"])
    old = {name: tensor.clone() for name, tensor in model.named_parameters()}
    prompt = some_ids(50, 5)
    tied.submit([ask("long", prompt, 6, max_new_tokens=60), ask("short", prompt, 7, max_new_tokens=2)])
    assert [done.key for done in tied.poll()] == ["short"]
    version = tied.load_weights(changed(model).named_parameters())
    (done,) = tied.poll()
    assert done.action.policy_version == version
    assert len(done.action.token_ids) > 4
    assert largest_error(model, prompt, done.action) < 1e-4
    tied.load_weights(old.items())


def test_a_tied_weight_may_go_by_either_name_or_both(tied, folders):
    model = load(folders["tied"])
    named = dict(model.named_parameters())
    head = {"lm_head.weight": named["model.embed_tokens.weight"]}
    rest = {name: tensor for name, tensor in named.items() if name != "model.embed_tokens.weight"}
    for given in ({**rest, **head}, {**named, **head}):
        tied.load_weights(given.items())
        assert score_error(model, tied, some_ids(40)) < 1e-4
        assert tied.info["weights"] == weights_digest(model)


@pytest.mark.parametrize("wrong", ["unknown", "shape", "missing"])
def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(tied, folders, wrong):
    old = load(folders["tied"])
    named = dict(scaled(load(folders["tied"]), 1.5).named_parameters())
    name = "model.norm.weight"
    if wrong == "unknown":
        named["model.odd.weight"] = named[name]
    elif wrong == "shape":
        named[name] = named[name][:-1]
    else:
        del named[name]
    message = {
        "unknown": "no weight 'model.odd.weight'",
        "shape": r"'model.norm.weight' has shape \(63,\) and needs \(64,\)",
        "missing": "1 weights were not given, such as 'model.norm.weight'",
    }
    with pytest.raises(ContractError, match=message[wrong]):
        tied.load_weights(named.items())
    assert tied.info["weights"] == weights_digest(old)
    assert score_error(old, tied, some_ids(40)) < 1e-4


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_worker_loads_a_folder_by_name(request, folders, tmp_path, kind):
    """What a server does when it is told `load_from` over its RPC route."""
    engine, model = request.getfixturevalue(kind), changed(load(folders[kind]))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    answer = engine._backend.call("load_from", str(tmp_path), 7)
    engine._backend.drop_cache()
    assert answer == {"version": 7, "weights": weights_digest(model)}
    assert score_error(model, engine, some_ids(40)) < 1e-4
    back = engine._backend.call("load_from", str(folders[kind]), 8)
    engine._backend.drop_cache()
    assert back == {"version": 8, "weights": engine.info["weights"]}
    assert score_error(load(folders[kind]), engine, some_ids(40)) < 1e-4


def test_a_folder_of_another_model_is_refused_before_anything_changes(tied, folders, tmp_path):
    with pytest.raises(CorruptData, match=r"no \*\.safetensors"):
        tied._backend.call("load_from", str(tmp_path), 1)
    model = load(folders["tied"])
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    shutil.copy(folders["tied"] / "config.json", tmp_path)
    with pytest.raises(CorruptData, match=r"11 weights were not given, such as 'model\.layers\.1"):
        tied._backend.call("load_from", str(tmp_path), 1)
    assert score_error(model, tied, some_ids(40)) < 1e-4
