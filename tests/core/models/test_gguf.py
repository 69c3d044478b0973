"""GGUF files: block formats by hand, and a whole model that answers as the one it was written from."""

import struct

import numpy as np
import pytest

from agentbench.cli import run
from agentbench.errors import CorruptData, UsageError
from agentbench.models.gguf import GGUF, _decoded, convert
from agentbench.models.loading import check_name, open_model

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'train'")


def half(number):
    return np.array([number], "<f2").tobytes()


def decoded(block, raw):
    return _decoded(block, np.frombuffer(raw, np.uint8)[None])[0].tolist()


def test_blocks_are_decoded_as_ggml_defines_them():
    # byte k holds number k in its low and number 16 + k in its high nibble
    nibbles = bytes([0x21, 0xF0, *[0] * 14])
    # 0.5 q + 3: q = 1, 0 and 2, 15
    q41 = decoded("Q4_1", half(0.5) + half(3.0) + nibbles)
    assert (q41[0], q41[1], q41[2], q41[16], q41[17], q41[18]) == (3.5, 3.0, 3.0, 4.0, 10.5, 3.0)
    # 0.5 (q - 8)
    q40 = decoded("Q4_0", half(0.5) + nibbles)
    assert (q40[0], q40[1], q40[16], q40[17]) == (-3.5, -4.0, -3.0, 3.5)
    q8 = decoded("Q8_0", half(0.25) + bytes([4, 252, *[0] * 30]))  # 252 is -4
    assert q8[:3] == [1.0, -1.0, 0.0]
    assert len(q41) == len(q40) == len(q8) == 32
    assert decoded("F16", half(-1.5)) == [-1.5]
    assert decoded("F32", struct.pack("<f", 0.1)) == [np.float32(0.1)]


# -- a whole file ------------------------------------------------------------------------------------------------------

WORDS = ["<unk>", "<s>", "</s>", "g", "o", "Ġ", "u", "p", "go", "up"]


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def field(name, value):
    if isinstance(value, str):
        return string(name) + struct.pack("<I", 8) + string(value)
    if isinstance(value, float):
        return string(name) + struct.pack("<If", 6, value)
    if isinstance(value, list):
        strings = isinstance(value[0], str)
        items = b"".join(string(item) if strings else struct.pack("<i", item) for item in value)
        return string(name) + struct.pack("<IIQ", 9, 8 if strings else 5, len(value)) + items
    return string(name) + struct.pack("<II", 4, value)


def write_gguf(path, fields, tensors):
    head, at = b"", 0
    for name, value in tensors.items():
        shape = value.shape[::-1]
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at)
        at += -(-value.nbytes // 32) * 32
    text = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    text += b"".join(field(name, value) for name, value in fields.items()) + head
    text += b"\0" * (-len(text) % 32)
    for value in tensors.values():
        raw = value.astype("<f4").tobytes()
        text += raw + b"\0" * (-len(raw) % 32)
    path.write_bytes(text)


def permuted(weight, heads):
    """As llama.cpp's converter stores query and key rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture
def written(tmp_path):
    """(file, the model it was written from, its fields and tensors)"""
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(2):
        for short, long in parts.items():
            value = weights[f"model.layers.{layer}.{long}.weight"]
            if short in ("attn_q", "attn_k"):
                value = permuted(value, 4 if short == "attn_q" else 2)
            tensors[f"blk.{layer}.{short}.weight"] = value
    fields = {
        "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 1, 1, 1, 1, 1], "tokenizer.ggml.merges": ["g o", "u p"],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2, "tokenizer.chat_template": "{{ messages[0].content }}",
    }  # fmt: skip
    path = tmp_path / "model.gguf"
    write_gguf(path, fields, tensors)
    return path, model, fields, tensors


def test_a_converted_model_answers_as_the_one_it_was_written_from(written, tmp_path):
    path, model, _, _ = written
    assert run(["model", "convert", str(path), str(tmp_path / "folder")]) == 0
    opened, tokenizer = open_model(str(tmp_path / "folder"), device="cpu")
    ids = torch.tensor([[1, 8, 5, 9, 3, 4, 2]])
    with torch.no_grad():
        torch.testing.assert_close(opened(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    assert tokenizer.encode("go up", add_special_tokens=False) == [8, 5, 9]
    assert tokenizer.encode("</s>", add_special_tokens=False) == [2]
    assert tokenizer.decode([8, 5, 9]) == "go up"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


@pytest.mark.parametrize("size", [0, 3, 40, 700, -40])
def test_a_torn_file_is_said_in_one_line(written, tmp_path, size):
    path = written[0]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptData, match=r"is not a whole GGUF file|ends inside tensor"):
        convert(path, tmp_path / "folder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'.*converted here is 'llama'"),
        ({"tokenizer.ggml.pre": "qwen2"}, "'gpt2' / 'qwen2'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(written, tmp_path, changes, message):
    path, _, fields, tensors = written
    write_gguf(path, fields | changes, tensors)
    with pytest.raises(UsageError, match=message):
        convert(path, tmp_path / "folder")


def test_unknown_blocks_and_tensors_are_named(written, tmp_path):
    path, _, fields, tensors = written
    source = GGUF(path)
    source._tensors["token_embd.weight"] = type(source._tensors["token_embd.weight"])((1,), 12, 0)
    with pytest.raises(
        UsageError, match=r"tensor 'token_embd\.weight' has GGUF type number 12; read are F32, F16"
    ):
        source.tensor("token_embd.weight")
    write_gguf(path, fields, tensors | {"blk.0.attn_q.bias": np.zeros((1, 4), np.float32)})
    with pytest.raises(UsageError, match=r"'blk\.0\.attn_q\.bias' that a plain Llama does not have"):
        convert(path, tmp_path / "folder")


def test_a_folder_with_a_gguf_only_is_named_with_the_way_out(written, capsys):
    path = written[0]
    for name in (str(path.parent), str(path)):
        with pytest.raises(UsageError, match=r"GGUF.*agentbench model convert"):
            check_name(name)
    (path.parent / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"weights as GGUF only \(model.gguf\)"):
        check_name(str(path.parent))
