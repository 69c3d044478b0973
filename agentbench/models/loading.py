"""Opens a causal language model and its tokenizer, replaces its weights, and tells weights apart; one-line errors.

Leaves out what is done with them (`hf`, `agentbench.trainers`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorruptData, UsageError, missing_dependency
from .causal import check_causal, check_kind
from .vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
_TOKENIZER = ("tokenizer*", "vocab.*", "spiece.model")
_GGUF_HELP = (
    "take the model's original folder, or write one: agentbench model convert FILE.gguf FOLDER (Llama architecture), "
    "or transformers' from_pretrained(FOLDER, gguf_file=FILE) and save_pretrained"
)
DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
"""Every name of a dtype that is understood, and torch's."""


def open_model(
    model: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> tuple[Any, Any]:
    """Load a model, ready to answer (eval mode, on its device), and its tokenizer.

    Args:
        model: a local Hugging Face folder, or a hub id "org/name".
        dtype: "auto" takes the checkpoint's (float16 becomes float32 on CPU), else float32, bfloat16 or float16.
        device: "auto" takes CUDA when there is one, else the CPU.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the model.
        attn_implementation: "sdpa" or "eager"; None lets transformers choose.
    Returns: (model, tokenizer).
    Raises:
        MissingDependency: torch or transformers is not installed.
        CorruptData: the files are there but cannot be used.
        UsageError: nothing of that name, the folder lacks something, or it is no causal language model.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise missing_dependency(error.name or "transformers", "train", "the engine 'hf'") from error
    local = check_name(model)
    if local:
        model = str(Path(model).expanduser())
    where = device_of(device)
    wanted = _dtype(dtype)
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if local or not hub_reachable():
        source["local_files_only"] = True
    with quiet_transformers():
        config = _load(model, "configuration", AutoConfig.from_pretrained, source)
        check_kind(config, model)
        tokenizer = _load(model, "tokenizer", AutoTokenizer.from_pretrained, source)
        if attn_implementation is not None:
            source["attn_implementation"] = attn_implementation
        loaded, report = _load(
            model,
            "weights",
            AutoModelForCausalLM.from_pretrained,
            {**source, "dtype": wanted, "output_loading_info": True},
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CorruptData(
            f"the weights of {model!r} lack {len(missing)} tensors, such as {missing[0]!r}; "
            "they would be random; save the whole model with save_pretrained"
        )
    if dtype == "auto" and where.type == "cpu" and loaded.dtype == torch.float16:
        loaded = loaded.float()
    if wanted == torch.float32 and any(
        p.dtype in (torch.bfloat16, torch.float16) for p in loaded.parameters()
    ):
        loaded = loaded.float()  # what was stored in 8 bits comes in bfloat16, whatever was asked for
    if loaded.config.model_type != config.model_type:
        _LOG.warning(
            "%s: transformers opens its language part alone (%s); what else the folder holds is not trained, and not "
            "in checkpoints",
            model,
            type(loaded).__name__,
        )
    loaded = loaded.to(where).eval()
    check_causal(loaded, tokenizer, model)
    return loaded, tokenizer


def quantisation(model: str) -> str:
    """How a model's weights are quantised, such as "fp8" or "gptq"; "" where they are not.

    Raises: UsageError, CorruptData: its configuration cannot be read.
    """
    found = getattr(_config(model, None), "quantization_config", None) or {}
    return (
        str((found if isinstance(found, dict) else found.to_dict()).get("quant_method", "")) if found else ""
    )


def _config(model: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    local = check_name(model)
    options = {"revision": revision, **({"local_files_only": True} if local or not hub_reachable() else {})}
    name = str(Path(model).expanduser()) if local else model
    return _load(name, "configuration", AutoConfig.from_pretrained, options)


def kept_dtype(model: str, *, asked: str = "auto", device: str = "auto", revision: str | None = None) -> str:
    """The dtype in which `open_model` keeps a model's weights, without loading them: float32, bfloat16 or float16.

    Args:
        model: as in `open_model`, and so are the others.
        asked: dtype that was asked for.
    Raises: UsageError, CorruptData: no such dtype, or its configuration cannot be read.
    """
    import torch

    local = check_name(model)
    name = str(Path(model).expanduser()) if local else model
    found = _dtype(asked)
    if found == "auto":
        config = _config(model, revision)
        found = config.dtype or config.get_text_config(decoder=True).dtype or _first_dtype(name, local)
        if found == torch.float16 and device_of(device).type == "cpu":
            found = torch.float32
    return str(found).removeprefix("torch.")


def _first_dtype(model: str, local: bool) -> str:
    """What a folder's first weight is kept in; transformers goes by it where config.json is silent."""
    kinds = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    path = next(iter(sorted(Path(model).glob("*.safetensors"))), None) if local else None
    if path is None:
        return "float32"
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found = (str(file.get_slice(name).get_dtype()) for name in file.keys())  # noqa: SIM118  (no mapping)
        return next((kinds[kind] for kind in found if kind in kinds), "float32")


def open_tokenizer(folder: Path | str, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a local folder alone.

    Raises: CorruptData: it cannot be loaded.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_dependency("transformers", "train", "a tokenizer") from error
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    with quiet_transformers():
        return _load(str(folder), "tokenizer", AutoTokenizer.from_pretrained, options)


def find_tokenizer(name: str, needed_by: str) -> Any:
    """Load the tokenizer of a folder or hub id for an engine that has no model here.

    Args:
        name: local folder or hub id.
        needed_by: what wants it, for the error when transformers is missing.
    Raises: MissingDependency, UsageError: it cannot be loaded.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_dependency("transformers", "train", needed_by) from error
    try:
        here = Path(name).is_dir()
        return AutoTokenizer.from_pretrained(name, local_files_only=here or not hub_reachable())
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UsageError(
            f"cannot load the tokenizer of {name!r}: {type(error).__name__}: {first}; name a local folder or hub id "
            "in engine_options.tokenizer"
        ) from error


def check_name(model: str) -> bool:
    """Check a model's name before anything is loaded; returns whether it is a local folder."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return True
    if folder.suffix == ".gguf" and folder.is_file():
        raise UsageError(f"{model!r} is a GGUF file, and a Hugging Face folder is wanted; {_GGUF_HELP}")
    if folder.is_file():
        raise UsageError(f"{model!r} is a file; give the folder that holds config.json and the weights")
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise UsageError(
            f"no folder {model!r}, and it is not a hub id of the form 'org/name'; give the path of a Hugging Face "
            "folder (config.json, weights, tokenizer) or a hub id such as 'Qwen/Qwen3-0.6B'"
        )
    return False


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UsageError(f"{str(folder)!r} holds a LoRA adapter only; merge it into its base model")
        found = sorted(folder.glob("*.gguf"))
        if found:
            raise UsageError(f"{str(folder)!r} holds a model as GGUF only ({found[0].name}); {_GGUF_HELP}")
        raise UsageError(f"{str(folder)!r} is not a Hugging Face model folder: it has no config.json")
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        if gguf := sorted(folder.glob("*.gguf")):
            raise UsageError(f"{str(folder)!r} holds its weights as GGUF only ({gguf[0].name}); {_GGUF_HELP}")
        raise UsageError(
            f"{str(folder)!r} has no weights (*.safetensors); save the model with save_pretrained"
        )
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZER):
        raise UsageError(
            f"{str(folder)!r} has no tokenizer (tokenizer.json); save one there with "
            "AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(FOLDER)"
        )


def _load(model: str, what: str, load: Any, options: dict[str, Any]) -> Any:
    """Call a `from_pretrained`; whatever it raises becomes one line."""
    try:
        return load(model, **options)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        here = Path(model).is_dir()
        if options.get("local_files_only") and not here:
            raise UsageError(
                f"cannot load the {what} of {model!r}: it is not in this machine's cache, and the hub cannot be "
                "reached; give the path of a local folder, or see agentbench model list"
            ) from error
        kind = CorruptData if here else UsageError
        raise kind(f"cannot load the {what} of {model!r}: {type(error).__name__}: {first}") from error


@functools.cache
def hub_reachable() -> bool:
    """Whether the model hub answers at all: asked once, since each of its own many tries takes long to give up."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=5.0)
    except (
        httpx.TransportError,
        ImportError,
        ValueError,
    ):  # a proxy of a kind that httpx cannot use is a ValueError
        return False
    return True


def device_of(name: str, key: str = "device") -> Any:
    """The torch device of a name; `key` says in the error where the name stands.

    Raises: UsageError: there is none of this name on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no {key} {name!r}; allowed: auto, cpu, cuda, cuda:0 ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{key} {name!r} was asked for, but torch sees no CUDA device; take cpu")
    return device


def _dtype(name: str) -> Any:
    import torch

    if name == "auto":
        return "auto"
    if name not in DTYPES:
        raise UsageError(f"no dtype {name!r}; allowed: auto, {', '.join(DTYPES)}")
    return getattr(torch, DTYPES[name])


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing progress bars inside the block."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def end_ids(model: Any, tokenizer: Any, vocabulary: Vocabulary | None = None) -> npt.NDArray[np.int64]:
    """Every token that ends a reply: the model's end tokens, the tokenizer's, and ChatML's where the template has it.

    Args:
        model: anything with a `generation_config`.
        tokenizer: of the model.
        vocabulary: ids that exist; one that does not cannot end anything. None keeps all.
    Raises: UsageError: there is none, so no reply would ever end.
    """
    found: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for source in (getattr(generation, "eos_token_id", None), tokenizer.eos_token_id):
        found.update([source] if isinstance(source, int) else source or [])
    if "<|im_end|>" in str(getattr(tokenizer, "chat_template", "")):
        marker = tokenizer.encode("<|im_end|>", add_special_tokens=False)
        found.update(marker if len(marker) == 1 else [])
    if vocabulary is not None:
        found = {token for token in found if vocabulary.has(token)}
    if not found:
        raise UsageError("model and tokenizer name no end token; set eos_token_id in generation_config.json")
    return np.array(sorted(found), np.int64)


def max_context_of(config: Any, asked: int | None) -> int:
    """The longest context of a model, or the shorter one asked for.

    Raises: UsageError: the model cannot have it, or names none and none was asked for.
    """
    longest: Any = getattr(config, "max_position_embeddings", None)
    longest = longest if longest is None or longest > 0 else None  # some write -1 for "any number"
    if asked is None and longest is None:
        raise UsageError("this model names no longest context (max_position_embeddings); pass max_context")
    if asked is not None and (asked < 2 or (longest is not None and asked > longest)):
        raise UsageError(f"max_context must be from 2 to {longest or 'any number'}, got {asked}")
    return int(asked or longest)
