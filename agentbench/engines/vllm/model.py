"""What has to be known of a model before vLLM is started on it, read from its files. Leaves out vLLM itself.

Names, end tokens, longest context and dtype follow the same rules as in the engine `hf`, so that switching engines
changes no result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...errors import CorruptData, UsageError, missing_dependency
from ...models.loading import DTYPES, check_name, end_ids, max_context_of, open_tokenizer
from ...models.vocabulary import Vocabulary, vocabulary_of

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py")
_BLOCK = 32


@dataclass(frozen=True)
class ModelFacts:
    """A model's folder and what it says.

    Attributes:
        revision: the commit, when it came from the hub.
        vocabulary: ids that exist.
        max_context: prompt plus reply.
        end_ids: tokens that end a reply.
        token_bytes: of the keys and values of one token.
    """

    folder: Path
    revision: str | None
    tokenizer: Any
    dtype: str
    vocabulary: Vocabulary
    max_context: int
    end_ids: tuple[int, ...]
    token_bytes: int

    def cache_bytes(self, slots: int) -> int:
        """Memory for the keys and values of so many full conversations, but at most a quarter of all RAM."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min(slots * (self.max_context + 2 * _BLOCK) * self.token_bytes, memory // 4)


def read_facts(
    model: str,
    dtype: str,
    max_context: int | None,
    revision: str | None,
    *,
    on_cpu: bool,
    trust_remote_code: bool = False,
) -> ModelFacts:
    """Find a model, downloading it when it is on the hub, and read what it says of itself.

    Args:
        model: a local Hugging Face folder, or a hub id "org/name".
        dtype: "auto" takes the checkpoint's (float16 becomes float32 on CPU), else a name in `loading.DTYPES`.
        max_context: None takes the model's longest.
        revision: branch, tag or commit on the hub.
        on_cpu: whether it will run on the CPU.
        trust_remote_code: run Python code that comes with the model.
    Raises: UsageError: it does not exist, does not fit together, or cannot have what is asked for.
    """
    folder, commit = _local_folder(model, revision)
    tokenizer = open_tokenizer(folder, trust_remote_code=trust_remote_code)
    config, generation = _configs(folder, trust_remote_code)
    text = config.get_text_config(decoder=True)
    vocabulary = vocabulary_of(tokenizer, int(text.vocab_size), model)
    kind = _dtype(dtype, config, on_cpu)
    return ModelFacts(
        folder=folder,
        revision=revision or commit,
        tokenizer=tokenizer,
        dtype=kind,
        vocabulary=vocabulary,
        max_context=max_context_of(text, max_context),
        end_ids=tuple(end_ids(SimpleNamespace(generation_config=generation), tokenizer, vocabulary).tolist()),
        token_bytes=_token_bytes(text, kind),
    )


def _local_folder(model: str, revision: str | None) -> tuple[Path, str | None]:
    if check_name(model):
        return Path(model).expanduser(), None
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_dependency("huggingface_hub", "train", "a model from the hub") from error
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=list(_FILES)))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UsageError(f"cannot fetch {model!r}: {type(error).__name__}: {reason}") from error
    return folder, folder.name


def _configs(folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model's configuration, and that of its generation as transformers would make it."""
    from transformers import AutoConfig, GenerationConfig

    generation: Any = GenerationConfig
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        if (folder / "generation_config.json").is_file():
            return config, generation.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise CorruptData(f"cannot read the configuration of {str(folder)!r}: {reason}") from error
    return config, generation.from_model_config(config)


def _dtype(name: str, config: Any, on_cpu: bool) -> str:
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"no dtype {name!r}; allowed: auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    found = str(getattr(config, "dtype", None)).removeprefix("torch.")
    if found not in DTYPES:
        raise UsageError(
            f"config.json names no dtype that vllm can use ({found}); pass dtype: float32 or bfloat16"
        )
    return "float32" if found == "float16" and on_cpu else found


def _token_bytes(config: Any, dtype: str) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * (4 if dtype == "float32" else 2))
