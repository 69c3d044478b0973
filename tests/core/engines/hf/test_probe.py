"""Whether caches may be kept: right ones in every precision, wrong ones in none."""

import logging

import numpy as np
import pytest
from real_like import make_real_like

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import HFEngine, build
from agentbench.engines.hf.forward import CachedForward
from agentbench.engines.hf.probe import compare
from agentbench.engines.scripted import ByteTokenizer
from agentbench.errors import UsageError
from agentbench.models.loading import open_model
from agentbench.types import SamplingParams

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'train'")

DTYPES = ("float32", "bfloat16", "float16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_real_like(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=DTYPES)
def opened(request, folder):
    return open_model(str(folder), dtype=request.param, device="cpu")


@pytest.fixture(scope="module")
def low(folder):
    return open_model(str(folder), dtype="bfloat16", device="cpu")


def conversation(engine, text, reply=12):
    """Two turns of greedy answers: ids and log-probs of each."""
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    actions = []
    for turn in range(2):
        sampling = SamplingParams(temperature=0, max_new_tokens=reply, min_new_tokens=reply)
        (action,) = sample(engine, [Request(str(turn), tuple(ids), sampling, 0, slot="s")])
        ids += [*action.token_ids, *engine.tokenizer.encode(" go left", add_special_tokens=False)]
        actions.append(action)
    return actions


def test_caches_are_kept_for_real_like_weights_in_every_precision(opened):
    engine = HFEngine(*opened)
    assert engine.keeps_cache
    said = conversation(engine, "You are in the middle of a room.")
    assert engine.cached_tokens > 0
    # the replies are likely under a plain pass, too: in the precision's own noise
    row = engine.tokenizer.encode("You are in the middle of a room.", add_special_tokens=False)
    row += said[0].token_ids
    plain = engine.score(row)[-len(said[0].token_ids) :]
    assert np.abs(np.array(plain) - np.array(said[0].logprobs)).mean() < 0.05


def patched(extend=None, inputs=None):
    """A fault of the cache: `extend(cached)` before each pass, or `inputs` of the model's forward changed."""

    class Faulty(CachedForward):
        def extend(self, tokens, rows, starts, ends, last=1):
            if extend is not None and starts.max() > 0:
                extend(self.cache)
            return super().extend(tokens, rows, starts, ends, last)

        def _logits(self, token_BQ, position_BQ, width, last):
            model = self.model
            forward = model.forward
            if inputs is not None:
                model.forward = lambda **given: forward(**inputs(given))
            try:
                return super()._logits(token_BQ, position_BQ, width, last)
            finally:
                if inputs is not None:
                    del model.forward

    return Faulty


def held(cache):
    """Every buffer as [rows, capacity, numbers]."""
    return [
        buffer[: cache.trash].view(cache.rows, cache.capacity, -1)
        for pair in cache._layers.values()
        for buffer in pair
    ]


def loses_a_token(cache):
    for buffer in held(cache):
        buffer[:, 3] = 0


def swaps_rows(cache):
    for buffer in held(cache):
        buffer[[0, 1]] = buffer[[1, 0]].clone()


def no_mask(given):
    return {**given, "attention_mask": given["attention_mask"] * 0}


def shifted(given):
    alone = given["input_ids"].shape[1] == 1
    return {**given, "position_ids": given["position_ids"] + int(alone)}


def forgets(given):
    """Looks back at 12 tokens only."""
    mask, position = given["attention_mask"].clone(), given["position_ids"]
    far = torch.arange(mask.shape[-1]) < position[:, :, None] - 12
    return {**given, "attention_mask": mask.masked_fill(far[:, None], torch.finfo(mask.dtype).min)}


FAULTS = {
    "a token is lost": patched(extend=loses_a_token),
    "conversations are mixed up": patched(extend=swaps_rows),
    "the mask is ignored": patched(inputs=no_mask),
    "positions are one too high": patched(inputs=shifted),
    "old tokens are forgotten": patched(inputs=forgets),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # float16 is slow on CPU, and lies between the two
def test_a_faulty_cache_is_found(folder, dtype, fault, monkeypatch):
    model, tokenizer = open_model(str(folder), dtype=dtype, device="cpu")
    monkeypatch.setattr("agentbench.engines.hf.probe.CachedForward", FAULTS[fault])
    with torch.no_grad():
        found = compare(model, tokenizer, 2048)
    assert not found.holds, str(found)


def test_results_that_are_no_numbers_never_agree(low, monkeypatch):
    broken = patched(extend=lambda cache: [buffer.fill_(float("nan")) for buffer in held(cache)])
    monkeypatch.setattr("agentbench.engines.hf.probe.CachedForward", broken)
    with torch.no_grad():
        assert not compare(*low, 2048).holds


@pytest.mark.parametrize("context", [6, 11, 13, 20])
def test_a_short_context_is_enough(low, context):
    with torch.no_grad():
        assert compare(*low, context).holds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", [1, 2])
def test_untrained_models_keep_their_caches(layers, dtype):
    config = transformers.Qwen3Config(
        vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).eval()
    assert HFEngine(model, ByteTokenizer()).keeps_cache


class Wordless(ByteTokenizer):
    """Knows none of the words it is shown."""

    def encode(self, text, add_special_tokens=False):
        return [1] * len(text.split())


def test_a_tokenizer_without_the_words_is_probed_with_ids_from_all_over(low):
    model, _ = low
    with torch.no_grad():
        found = compare(model, Wordless(), 2048)
    assert found.holds
    assert found.control > 0


# -- the option --------------------------------------------------------------------------------------------------------


def test_the_user_may_keep_or_drop_caches(folder, monkeypatch, caplog):
    assert not build(str(folder), device="cpu", keep_cache=False).keeps_cache
    monkeypatch.setattr("agentbench.engines.hf.probe.CachedForward", FAULTS["a token is lost"])
    with caplog.at_level(logging.WARNING):
        assert not build(str(folder), device="cpu").keeps_cache
    assert "its answers move by" in caplog.text
    assert "set the engine option keep_cache to true" in caplog.text
    assert build(str(folder), device="cpu", keep_cache=True).keeps_cache


def test_a_cache_that_cannot_be_kept_is_not_kept_by_order():
    config = transformers.MistralConfig(
        vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=16, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(UsageError, match=r"keep_cache is true, but .* it forgets after 16 tokens"):
        HFEngine(model, ByteTokenizer(), keep_cache=True)
    with pytest.raises(UsageError, match="keep_cache must be auto, true or false, got 'yes'"):
        HFEngine(model, ByteTokenizer(), keep_cache="yes")
