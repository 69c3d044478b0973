"""The hf engine's models: opening them, other architectures, new weights, and forward passes that fail."""

import json
import logging
import re
import sys

import httpx
import numpy as np
import pytest
from floats import NATS, assert_same_actions

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import HFEngine, build
from agentbench.engines.scripted import ByteTokenizer
from agentbench.errors import ContractError, CorruptData, EngineFailure, UsageError
from agentbench.models.loading import hub_reachable
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.types import SamplingParams

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'train'")

SHAPE = {
    "vocab_size": 264, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def sharpen(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    return model.eval()


def random_model(config, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sharpen(transformers.AutoModelForCausalLM.from_config(config))


def qwen(seed=0, **changes):
    return random_model(transformers.Qwen3Config(**{**SHAPE, "head_dim": 8, **changes}), seed)


def ask(key="a", prompt=(5, 6, 7), seed=0, slot="", **sampling):
    return Request(key, tuple(prompt), SamplingParams(**{"max_new_tokens": 8, **sampling}), seed, slot=slot)


def assert_matches_plain_forward(engine, turns=3):
    """Grow three ragged conversations and score every reply with a forward pass without cache."""
    source = np.random.default_rng(0)
    rows = [source.integers(3, 256, size).tolist() for size in (3, 21, 34)]
    for turn in range(turns):
        requests = [ask(str(i), row, 10 * i + turn, f"s{i}") for i, row in enumerate(rows)]
        for row, action in zip(rows, sample(engine, requests), strict=True):
            start = len(row)
            row += action.token_ids
            with torch.no_grad():
                logits = engine.model(torch.tensor([row]), use_cache=False).logits[0, :, :259].double()
            wanted = logits.log_softmax(-1)[range(start - 1, len(row) - 1), list(action.token_ids)]
            np.testing.assert_allclose(action.logprobs, wanted, atol=1e-4)
            row += source.integers(3, 256, 4).tolist()


# -- ids that do not exist ---------------------------------------------------------------------


class Holed(ByteTokenizer):
    """Bytes 100 to 199 are no tokens."""

    def get_vocab(self):
        return {str(index): index for index in range(len(self)) if not 100 <= index < 200}


class Longer(ByteTokenizer):
    """One added token more than the model has rows for."""

    def __init__(self):
        super().__init__()
        self.added_tokens_decoder = {264: "<image>"}

    def get_vocab(self):
        return {str(index): index for index in (*range(len(self)), 264)}


@pytest.mark.parametrize("kind", [ByteTokenizer, Holed, Longer])
@pytest.mark.parametrize("keep_cache", [True, False])
def test_only_ids_that_exist_are_sampled_and_normalised_over(kind, keep_cache):
    tokenizer = kind()
    real = [i for i in range(259) if not (kind is Holed and 100 <= i < 200)]
    model = qwen(seed=3)
    engine = HFEngine(model, tokenizer, keep_cache=keep_cache)
    prompt = (5, 6, 7)
    requests = [ask(str(i), prompt, i, max_new_tokens=6, temperature=1.0) for i in range(40)]
    actions = sample(engine, requests)
    assert {token for action in actions for token in action.token_ids} <= set(real)
    for action in actions[:4]:
        row = [*prompt, *action.token_ids]
        with torch.no_grad():
            logits = model(torch.tensor([row]), use_cache=False).logits[0].double()
        masked = torch.full_like(logits, float("-inf"))
        masked[:, real] = logits[:, real]
        wanted = masked.log_softmax(-1)[range(2, len(row) - 1), list(action.token_ids)]
        np.testing.assert_allclose(action.logprobs, wanted, atol=1e-5)
        np.testing.assert_allclose(engine.score(row)[2:], wanted, atol=1e-5)
    with pytest.raises(UsageError, match="its prompt has id 261 outside the vocabulary"):
        engine.submit([ask(prompt=(5, 261))])


def test_a_model_whose_only_end_token_has_no_row_is_refused():
    model = qwen()
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = ""
    model.generation_config.eos_token_id = tokenizer.eos_token_id = 263
    with pytest.raises(UsageError, match="name no end token"):
        HFEngine(model, tokenizer)


# -- architectures -----------------------------------------------------------------------------

KEPT = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "learned positions": lambda: transformers.GPT2Config(
        vocab_size=264, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "mixture of experts": lambda: transformers.Qwen3MoeConfig(
        **SHAPE, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "window as long as the context": lambda: transformers.MistralConfig(**SHAPE, sliding_window=128),
}
RECOMPUTED = {
    "sliding window": (
        lambda: transformers.Qwen3Config(
            **SHAPE, head_dim=8, use_sliding_window=True, sliding_window=16, max_window_layers=1
        ),
        "forgets after 16 tokens",
    ),
    "single window": (
        lambda: transformers.MistralConfig(**SHAPE, sliding_window=16),
        "max_context=16 would do",
    ),
    "no positions, biased attention": (
        lambda: transformers.BloomConfig(vocab_size=264, hidden_size=32, n_layer=2, n_head=4),
        "its forward pass refused the cache",
    ),
}


def deepseek_v4():
    shape = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
    return transformers.DeepseekV4Config(
        **shape,
        head_dim=8,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        q_lora_rank=16,
        layer_types=["heavily_compressed_attention", "compressed_sparse_attention"],
        mlp_layer_types=["moe", "moe"],
    )


RAGGED = {
    "a state without a mask": lambda: transformers.RwkvConfig(
        vocab_size=264, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, context_length=128
    ),
    "matrix memories": lambda: transformers.xLSTMConfig(
        vocab_size=264, hidden_size=32, num_hidden_layers=2, num_heads=4, pad_token_id=0, eos_token_id=2
    ),
    "recurrence and a window": lambda: transformers.RecurrentGemmaConfig(
        vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=8,
        num_key_value_heads=1, lru_width=32, attention_window_size=16, pad_token_id=0, eos_token_id=2,
    ),
    "compressed blocks": deepseek_v4,
    "positions from the padding token on": lambda: transformers.RobertaConfig(
        **{**SHAPE, "pad_token_id": 1}, is_decoder=True
    ),
    "selective states": lambda: transformers.FalconMambaConfig(
        vocab_size=264, hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0, eos_token_id=2
    ),
}  # fmt: skip
"""Models for which padding in front of a row, or positions counted from 0, are not harmless."""


@pytest.mark.parametrize("name", RAGGED)
def test_rows_of_a_batch_are_computed_as_if_they_were_alone(name):
    engine = HFEngine(random_model(RAGGED[name]()), ByteTokenizer(), max_context=128)
    assert not engine.keeps_cache
    assert_matches_plain_forward(engine)


def test_a_forward_pass_may_refuse_the_cache_with_any_exception(caplog):
    """Such as XLM, which asserts that there is none."""
    model = qwen()
    forward = model.forward

    def asserting(past_key_values=None, cache=None, **inputs):
        assert past_key_values is None and cache is None  # noqa: PT018
        return forward(**inputs)

    model.forward = asserting
    assert not HFEngine(model, ByteTokenizer()).keeps_cache
    assert "its forward pass refused the cache: AssertionError" in caplog.text


def longrope():
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    return random_model(
        transformers.Phi3Config(**SHAPE, rope_parameters=rope, original_max_position_embeddings=32)
    )


def test_rows_on_both_sides_of_longrope_do_not_see_each_other():
    model = longrope()
    engine = HFEngine(model, ByteTokenizer(), max_context=128)
    short, long = tuple(range(5, 25)), tuple(range(5, 65))
    alone = sample(engine, [ask("a", short, 3, temperature=1.0)])[0]
    beside = sample(engine, [ask("b", long, 4), ask("a", short, 3, temperature=1.0), ask("c", long, 5)])[1]
    assert alone.token_ids == beside.token_ids
    np.testing.assert_allclose(alone.logprobs, beside.logprobs, atol=1e-5)
    # each token under the factors of the row as long as it was then: 20 to 27 tokens, all below 32
    row = [*short, *alone.token_ids]
    with torch.no_grad():
        logits = model(torch.tensor([row]), use_cache=False).logits[0, :, :259].double()
    wanted = logits.log_softmax(-1)[range(19, len(row) - 1), list(alone.token_ids)]
    np.testing.assert_allclose(alone.logprobs, wanted, atol=1e-5)


def test_the_cache_of_longrope_is_kept_below_its_limit():
    engine = HFEngine(longrope(), ByteTokenizer(), max_context=32)
    assert engine.keeps_cache
    short = HFEngine(longrope(), ByteTokenizer(), max_context=33)
    assert not short.keeps_cache


@pytest.mark.parametrize("name", KEPT)
def test_caches_are_kept_for_plain_decoders(name):
    engine = HFEngine(random_model(KEPT[name]()), ByteTokenizer())
    assert engine.keeps_cache
    assert_matches_plain_forward(engine)
    assert engine.cached_tokens > 0


@pytest.mark.parametrize("name", RECOMPUTED)
def test_other_models_are_computed_from_the_start_and_it_is_said(name, caplog):
    config, reason = RECOMPUTED[name]
    with caplog.at_level(logging.WARNING):
        engine = HFEngine(random_model(config()), ByteTokenizer(), max_context=128)
    assert reason in caplog.text
    assert not engine.keeps_cache
    assert engine.info["keeps_cache"] is False
    assert_matches_plain_forward(engine)
    assert engine.cached_tokens == 0


def test_a_model_that_ignores_the_mask_is_found_out(caplog):
    model = qwen()
    forward = model.forward

    def careless(attention_mask=None, **inputs):
        masked = attention_mask is not None and attention_mask.ndim == 4
        return forward(attention_mask=attention_mask * 0 if masked else attention_mask, **inputs)

    model.forward = careless
    assert not HFEngine(model, ByteTokenizer()).keeps_cache
    assert re.search(r"its answers move by .* nats when it is used", caplog.text)


# -- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tie", [True, False])
def test_new_weights_replace_the_old_ones_and_drop_every_cache(tie):
    old, new = qwen(0, tie_word_embeddings=tie), qwen(1, tie_word_embeddings=tie)
    engine = HFEngine(old, ByteTokenizer())
    before = sample(engine, [ask(slot="s")])[0]
    digest = engine.info["weights"]
    assert engine.load_weights(new.named_parameters()) == 1
    assert engine.policy_version == 1
    assert (old.lm_head.weight is old.model.embed_tokens.weight) == tie
    after = sample(engine, [ask(slot="s")])[0]
    assert engine.cached_tokens == 0
    fresh = HFEngine(new, ByteTokenizer())
    wanted = sample(fresh, [ask(slot="s")])[0]
    assert after.token_ids == wanted.token_ids
    assert after.logprobs == pytest.approx(wanted.logprobs, abs=NATS)
    assert (before.policy_version, after.policy_version) == (0, 1)
    assert after.token_ids != before.token_ids
    assert engine.info["weights"] == fresh.info["weights"] != digest


def test_tied_weights_may_come_under_either_name():
    old, new = qwen(0, tie_word_embeddings=True), qwen(1, tie_word_embeddings=True)
    named = dict(new.named_parameters())
    named["lm_head.weight"] = named.pop("model.embed_tokens.weight")
    HFEngine(old, ByteTokenizer()).load_weights(named.items())
    assert torch.equal(old.model.embed_tokens.weight, new.model.embed_tokens.weight)


def test_weights_that_do_not_fit_are_refused():
    engine = HFEngine(qwen(), ByteTokenizer())
    with pytest.raises(ContractError, match="no weight 'nonsense'"):
        engine.load_weights([("nonsense", torch.zeros(1))])
    with pytest.raises(ContractError, match=r"has shape \(1,\) and needs \(32,\)"):
        engine.load_weights([("model.norm.weight", torch.zeros(1))])
    with pytest.raises(ContractError, match=r"weights were not given, such as 'model.embed_tokens.weight'"):
        engine.load_weights([("model.norm.weight", torch.ones(32))])


def test_a_running_reply_starts_over_under_new_weights():
    new = qwen(1)
    engine = HFEngine(qwen(0), ByteTokenizer())
    long = ask("long", max_new_tokens=40, min_new_tokens=40)
    engine.submit([long, ask("short", max_new_tokens=2)])
    engine.poll()
    engine.load_weights(new.state_dict().items())
    (done,) = engine.poll()
    wanted = sample(HFEngine(new, ByteTokenizer()), [long])[0]
    assert done.action.token_ids == wanted.token_ids
    assert done.action.policy_version == 1


def test_a_model_in_training_is_shared_without_dropout_and_handed_back():
    model = qwen(attention_dropout=0.5)
    wanted = sample(HFEngine(model, ByteTokenizer()), [ask()])
    model.train()
    engine = HFEngine(model, ByteTokenizer())
    assert_same_actions(sample(engine, [ask()]), wanted)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


# -- failures ----------------------------------------------------------------------------------


def poll_all(engine, count):
    done = {}
    while len(done) < count:
        done.update({completion.key: completion for completion in engine.poll()})
    return done


def test_a_forward_pass_that_raises_fails_its_requests_and_no_others(caplog):
    model = qwen()
    engine = HFEngine(model, ByteTokenizer())
    requests = [ask("x", slot="x"), ask("y", (9, 9), slot="y")]
    wanted = sample(engine, requests)
    forward = model.forward

    def broken(**inputs):
        raise RuntimeError("out of luck")

    model.forward = broken
    engine.submit(requests)
    done = poll_all(engine, 2)
    assert {str(completion.failure) for completion in done.values()} == {"RuntimeError: out of luck"}
    assert all(isinstance(completion.failure, EngineFailure) for completion in done.values())
    assert "out of luck" in caplog.text
    model.forward = forward
    cached = engine.cached_tokens
    assert_same_actions(sample(engine, requests), wanted)
    assert engine.cached_tokens == cached  # what a failed pass may have left half-written is not used


def test_logits_that_are_not_finite_fail_their_own_row_only():
    model = qwen()
    engine = HFEngine(model, ByteTokenizer())
    wanted = sample(engine, [ask("good", (9, 9))])[0]
    forward = model.forward

    def poisoned(**inputs):
        output = forward(**inputs)
        output.logits[(inputs["input_ids"] == 77).any(-1)] = float("nan")
        return output

    model.forward = poisoned
    engine.submit([ask("bad", (77, 77), slot="b"), ask("good", (9, 9))])
    done = poll_all(engine, 2)
    assert "not finite" in str(done["bad"].failure)
    assert done["good"].action.token_ids == wanted.token_ids


@pytest.mark.parametrize("when", ["joining", "running"])
def test_a_cache_that_cannot_grow_fails_what_runs_and_is_usable_afterwards(when, monkeypatch):
    engine = HFEngine(qwen(), ByteTokenizer())
    small, large = ask("small", slot="s"), ask("large", range(3, 73), slot="l")
    wanted = sample(engine, [small])
    cache = engine._batch._forward.cache

    def refuses(*_):
        raise torch.OutOfMemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "move", refuses)
        request = (
            large if when == "joining" else ask("long", range(3, 43), min_new_tokens=40, max_new_tokens=40)
        )
        engine.submit([request])
        assert "no memory left" in str(poll_all(engine, 1)[request.key].failure)
    assert_same_actions(sample(engine, [small]), wanted)
    assert_same_actions(sample(engine, [large]), sample(HFEngine(engine.model, ByteTokenizer()), [large]))


# -- opening -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    make_model(tmp_path, make_tokenizer(tmp_path, ["go"]), hidden=16, layers=1, heads=2, kv_heads=1)
    return tmp_path


def remove(*patterns):
    def apply(folder):
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return apply


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def unknown_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nothing-known"}))


def only_adapter(folder):
    remove("*.safetensors")(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (remove("token*", "*.jinja"), UsageError, "has no tokenizer .*save_pretrained"),
        (remove("*.safetensors"), UsageError, "has no weights"),
        (remove("config.json"), UsageError, "has no config.json"),
        (only_adapter, UsageError, "LoRA adapter only; merge it"),
        (drop_a_weight, CorruptData, "lack 1 tensors, such as 'model.norm.weight'"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"junk"),
            CorruptData,
            "cannot load the weights",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            CorruptData,
            "cannot load the tokenizer",
        ),
        (unknown_type, CorruptData, "cannot load"),
    ],
)
def test_broken_folders_are_refused_in_one_line(folder, damage, error, message):
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        build(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such/folder", "gpt2", "./model", "/nowhere", "~/nothing", "a b/c"])
def test_names_that_are_neither_folder_nor_hub_id_never_reach_the_network(name):
    with pytest.raises(UsageError, match="not a hub id of the form 'org/name'"):
        build(name)


def test_an_unreachable_hub_is_asked_once_and_said_in_one_line(monkeypatch, tmp_path):
    asked = []

    def no_network(url, **options):
        asked.append(options["timeout"])
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(httpx, "head", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub_reachable.cache_clear()
    for _ in range(2):
        with pytest.raises(
            UsageError, match="not in this machine's cache, and the hub cannot be reached"
        ) as said:
            build("nobody/nothing")
        assert "\n" not in str(said.value)
    assert asked == [5.0]
    hub_reachable.cache_clear()


def test_wrong_options_are_refused(folder):
    with pytest.raises(UsageError, match="is a file; give the folder"):
        build(str(folder / "config.json"))
    with pytest.raises(UsageError, match="no dtype 'int3'; allowed: auto, float32"):
        build(str(folder), dtype="int3")
    with pytest.raises(UsageError, match="no device 'abacus'"):
        build(str(folder), device="abacus")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "eos_token": None}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="name no end token"):
        build(str(folder), device="cpu")


def test_half_precision_checkpoints_become_float32_on_cpu(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    model.save_pretrained(folder)
    assert build(str(folder), device="cpu").info["dtype"] == "float32"
    assert build(str(folder), device="cpu", dtype="fp16").info["dtype"] == "float16"


def test_without_torch_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"agentbench-opd\[train\]"):
        build(str(folder))
