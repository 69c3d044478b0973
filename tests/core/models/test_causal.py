"""What is no causal language model is refused by name when it is opened; what is one passes in every precision."""

import logging

import pytest

from agentbench.errors import UsageError
from agentbench.models.loading import open_model
from agentbench.models.tiny import make_tokenizer

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'train'")

SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KEYS = {"num_key_value_heads": 2, "head_dim": 8}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), ["The red door is on the left."])


def write(folder, tokenizer, config, kind="AutoModelForCausalLM", dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)
        model = model.from_config(config) if kind.startswith("Auto") else model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


ENCODERS = {
    "BertForMaskedLM": lambda v: transformers.BertConfig(vocab_size=v, **SHAPE),
    "ElectraForMaskedLM": lambda v: transformers.ElectraConfig(vocab_size=v, embedding_size=32, **SHAPE),
    "BertGenerationDecoder": lambda v: transformers.BertGenerationConfig(vocab_size=v, **SHAPE),
    "Gemma3ForCausalLM": lambda v: transformers.Gemma3TextConfig(
        vocab_size=v, use_bidirectional_attention=True, **SHAPE, **KEYS
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_models_that_look_ahead_are_refused(kind, tokenizer, tmp_path):
    folder = write(tmp_path, tokenizer, ENCODERS[kind](len(tokenizer)), kind)
    with pytest.raises(
        UsageError, match=r"is not causal: its logits move by .* when later tokens follow"
    ) as refused:
        open_model(folder, device="cpu")
    assert ("is_decoder: true" in str(refused.value)) == (kind != "Gemma3ForCausalLM")


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4}  # fmt: skip
VIT = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
       "intermediate_size": 64}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("T5", T5, "model_type 't5'.* is an encoder-decoder"),
        ("MT5", T5, "model_type 'mt5'.* is an encoder-decoder"),
        ("Bart", BART, "model_type 'bart'.* is an encoder-decoder"),
        ("ViT", VIT, "model_type 'vit'.* is none of the causal language models"),
    ],
)
def test_other_models_are_refused_before_their_weights_are_read(kind, changes, words, tokenizer, tmp_path):
    config = getattr(transformers, f"{kind}Config")(**changes)
    if kind != "ViT":
        config.vocab_size = len(tokenizer)
    head = {"ViT": "ForImageClassification"}.get(kind, "ForConditionalGeneration")
    folder = write(tmp_path, tokenizer, config, f"{kind}{head}")
    next(tmp_path.glob("*.safetensors")).write_bytes(b"no weights")
    with pytest.raises(UsageError, match=words):
        open_model(folder, device="cpu")


DECODERS = {
    "llama": lambda v: transformers.LlamaConfig(vocab_size=v, **SHAPE),
    "experts": lambda v: transformers.Qwen3MoeConfig(
        vocab_size=v, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, **SHAPE, **KEYS
    ),
    "a decoder of an encoder's kind": lambda v: transformers.BertConfig(vocab_size=v, is_decoder=True, **SHAPE),
    "a window": lambda v: transformers.MistralConfig(vocab_size=v, sliding_window=4, **SHAPE, **KEYS),
    "a state": lambda v: transformers.Mamba2Config(
        vocab_size=v, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=16, n_groups=1,
        chunk_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "biased attention": lambda v: transformers.BloomConfig(vocab_size=v, hidden_size=32, n_layer=2, n_head=4),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_pass_in_every_precision(kind, dtype, tokenizer, tmp_path):
    folder = write(tmp_path, tokenizer, DECODERS[kind](len(tokenizer)))
    model, _ = open_model(folder, dtype=dtype, device="cpu")
    assert model.dtype == getattr(torch, dtype)


def test_a_folder_of_which_the_language_part_alone_is_opened_says_so(tokenizer, tmp_path, caplog):
    shape = {key: value for key, value in SHAPE.items() if key != "max_position_embeddings"}
    text = {
        **shape,
        **KEYS,
        "vocab_size": len(tokenizer),
        "layer_types": ["full_attention", "full_attention"],
    }
    sees = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 14,
    }
    config = transformers.Qwen3_5Config(text_config=text, vision_config=sees)
    folder = write(tmp_path, tokenizer, config, "Qwen3_5ForConditionalGeneration")
    with caplog.at_level(logging.WARNING):
        model, _ = open_model(folder, device="cpu")
    assert type(model).__name__ == "Qwen3_5ForCausalLM"
    assert "opens its language part alone (Qwen3_5ForCausalLM)" in caplog.text
