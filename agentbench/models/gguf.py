"""Reads GGUF files and writes them as plain Hugging Face folders, in float32.

Knows the Llama architecture with the tokenizer of SmolLM2, and block formats that need no look-up tables; anything else
is refused by name. Leaves out where files come from (`catalog`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorruptData, UsageError, missing_dependency

Floats = npt.NDArray[np.float32]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCKS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}
"""Type number: name, numbers in a block, bytes of a block."""
_ALIGNMENT = 32

_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor lies: shape as numpy counts, type number, and byte offset in the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class GGUF:
    """One open file.

    Attributes:
        fields: its metadata by name.
        names: of its tensors, in order.
    """

    def __init__(self, path: Path) -> None:
        """Read everything but the tensors.

        Raises: CorruptData: not a GGUF file of version 2 or 3, or cut short.
        """
        self.path = path
        self.fields: dict[str, Any] = {}
        self._tensors: dict[str, _Tensor] = {}
        try:
            self._bytes = np.memmap(path, np.uint8, "r")
            self._read_head()
        except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
            raise CorruptData(f"{str(path)!r} is not a whole GGUF file: {error}") from error

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._tensors)

    def _read_head(self) -> None:
        self._at = 0
        if bytes(self._bytes[:4]) != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        self._at = 4
        version, tensors, fields = self._take("I"), self._take("Q"), self._take("Q")
        if version not in (2, 3):
            raise ValueError(f"version {version}, known are 2 and 3")
        for _ in range(fields):
            name = self._string()
            self.fields[name] = self._value(self._take("I"))
        found = []
        for _ in range(tensors):
            name = self._string()
            shape = tuple(self._take("Q") for _ in range(self._take("I")))
            found.append((name, shape[::-1], self._take("I"), self._take("Q")))
        alignment = int(self.fields.get("general.alignment", _ALIGNMENT))
        start = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in found:
            self._tensors[name] = _Tensor(shape, kind, start + offset)

    def _take(self, code: str) -> Any:
        size = struct.calcsize(code)
        (value,) = struct.unpack("<" + code, bytes(self._bytes[self._at : self._at + size]))
        self._at += size
        return value

    def _string(self) -> str:
        size = self._take("Q")
        raw = bytes(self._bytes[self._at : self._at + size])
        if len(raw) < size:
            raise ValueError("it ends inside a string")
        self._at += size
        return raw.decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._take("I"), self._take("Q")
            return [self._value(inner) for _ in range(count)]
        return self._take(_SCALARS[kind])

    def tensor(self, name: str) -> Floats:
        """One tensor as float32.

        Raises: UsageError: its block format is not known. CorruptData: the file ends before it does.
        """
        found = self._tensors[name]
        if found.kind not in _BLOCKS:
            known = ", ".join(block for block, _, _ in _BLOCKS.values())
            raise UsageError(
                f"{str(self.path)!r}: tensor {name!r} has GGUF type number {found.kind}; read are {known}. Convert the "
                "file with transformers: AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE).save_pretrained"
            )
        block, numbers, size = _BLOCKS[found.kind]
        count = int(np.prod(found.shape))
        raw = self._bytes[found.offset : found.offset + count // numbers * size]
        if len(raw) < count // numbers * size:
            raise CorruptData(f"{str(self.path)!r} ends inside tensor {name!r}")
        return _decoded(block, raw.reshape(-1, size)).reshape(found.shape)


def _decoded(block: str, raw: npt.NDArray[np.uint8]) -> Floats:
    """Blocks [N, bytes] as numbers. Source: ggml's formats; low nibbles are the first half of a block of 32."""
    if block == "F32":
        return raw.copy().view("<f4")
    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    if block == "F16":
        return scale
    if block == "Q8_0":
        return scale * raw[:, 2:].view(np.int8).astype(np.float32)
    nibbles = raw[:, 4:] if block == "Q4_1" else raw[:, 2:]
    whole = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32)
    if block == "Q4_0":
        return scale * (whole - 8)
    return scale * whole + raw[:, 2:4].copy().view("<f2").astype(np.float32)


def convert(path: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder: config, float32 weights, generation config, tokenizer.

    Args:
        path: the file.
        folder: made when absent; files of the same names are overwritten.
    Raises:
        UsageError: an architecture, tokenizer or block format that is not known here.
        CorruptData: the file is broken.
    """
    try:
        from safetensors.numpy import save_file
        from transformers import GenerationConfig, LlamaConfig
    except ImportError as error:
        raise missing_dependency(error.name or "transformers", "train", "converting a model") from error
    source = GGUF(path)
    kind = source.fields.get("general.architecture")
    splitter = source.fields.get("tokenizer.ggml.model"), source.fields.get("tokenizer.ggml.pre")
    if kind != "llama" or splitter != ("gpt2", "smollm"):
        raise UsageError(
            f"{str(path)!r} holds a model of architecture {kind!r} with tokenizer {splitter[0]!r} / {splitter[1]!r}; "
            "converted here is 'llama' with 'gpt2' / 'smollm'. Take the model's original folder, or convert with "
            "transformers: AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE).save_pretrained"
        )

    def number(name: str) -> Any:
        return source.fields[f"llama.{name}"]

    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(_renamed(source))
    config: Any = LlamaConfig
    special = {
        name: source.fields[f"tokenizer.ggml.{field}_token_id"]
        for name, field in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))
    }
    config(
        architectures=["LlamaForCausalLM"],
        hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=number("attention.head_count"),
        num_key_value_heads=number("attention.head_count_kv"),
        max_position_embeddings=number("context_length"),
        rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
        vocab_size=len(weights["model.embed_tokens.weight"]),
        rope_parameters={"rope_type": "default", "rope_theta": number("rope.freq_base")},
        tie_word_embeddings="lm_head.weight" not in weights,
        dtype="float32",
        **special,
    ).save_pretrained(str(folder))
    generation: Any = GenerationConfig
    generation(**special).save_pretrained(str(folder))
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    _save_tokenizer(source.fields, folder)


def _renamed(source: GGUF) -> Iterator[tuple[str, Floats]]:
    heads, kv_heads = (source.fields[f"llama.attention.{name}"] for name in ("head_count", "head_count_kv"))
    for name in source.names:
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        part = layer[2] if layer else name.removesuffix(".weight")
        known = _LAYER if layer else _TOP
        if part == "rope_freqs":
            continue  # computed from the configuration
        if part not in known:
            raise UsageError(f"{str(source.path)!r} holds a tensor {name!r} that a plain Llama does not have")
        value = source.tensor(name)
        if part in ("attn_q", "attn_k"):
            value = _unpermuted(value, heads if part == "attn_q" else kv_heads)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        yield f"{prefix}{known[part]}.weight", np.ascontiguousarray(value)


def _unpermuted(weight: Floats, heads: int) -> Floats:
    """Rows of a head, stored by llama.cpp as (half, pair), in the order (pair, half) of transformers."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _save_tokenizer(fields: Mapping[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    # "smollm" splits digits one by one before the byte-level pattern
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t, kind in zip(tokens, kinds, strict=True) if kind in (3, 4)]
    )

    def token(name: str) -> str:
        return str(tokens[fields[f"tokenizer.ggml.{name}_token_id"]])

    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=backend,
        bos_token=token("bos"),
        eos_token=token("eos"),
        unk_token=token("unknown"),
        pad_token=token("padding"),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"]
    tokenizer.save_pretrained(str(folder))
