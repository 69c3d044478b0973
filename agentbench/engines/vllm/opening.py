"""Start vLLM on a model: the engine plug-in's factory. Leaves out what the engine does (`engine`)."""

from __future__ import annotations

from typing import Any

from ...errors import EngineFailure, UsageError
from .adapter import Backend, check_version, on_cpu
from .engine import VLLMEngine
from .model import read_facts


def build(
    model: str,
    *,
    dtype: str = "auto",
    max_context: int | None = None,
    slots: int = 64,
    prefill_tokens: int | None = None,
    cache_bytes: int | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    request_timeout: float | None = None,
    sleeps: bool = False,
    vllm: dict[str, Any] | None = None,
) -> VLLMEngine:
    """Start vLLM on a model.

    Args:
        model: a local Hugging Face folder, or a hub id "org/name"; weights as safetensors.
        dtype: "auto" takes the checkpoint's (float16 becomes float32 on CPU), else float32, bfloat16 or float16.
        max_context: prompt plus reply; None takes the model's longest.
        slots: requests running at a time.
        prefill_tokens: prompt tokens computed in one step; None takes 2048 on CPU, where a whole prompt always fits,
            and vLLM's own number on CUDA.
        cache_bytes: memory for keys and values; None takes enough for all slots on CPU, but at most a quarter
            of all RAM; on CUDA vLLM's own share.
        trust_remote_code: run Python code that comes with the model.
        revision: branch, tag or commit on the hub.
        request_timeout: seconds from submission after which a request fails; None waits forever.
        sleeps: start so that `sleep` works (CUDA).
        vllm: further keyword arguments of vLLM's `EngineArgs`, over ours.
    Raises: UsageError: vLLM or the model cannot be used; says why.
    """
    check_version()
    if slots < 1 or (prefill_tokens is not None and prefill_tokens < 1):
        raise UsageError(f"slots and prefill_tokens must be at least 1, got {slots} and {prefill_tokens}")
    cpu = on_cpu()
    found = read_facts(model, dtype, max_context, revision, on_cpu=cpu, trust_remote_code=trust_remote_code)
    cache_bytes = found.cache_bytes(slots) if cache_bytes is None and cpu else cache_bytes
    backend = Backend(
        str(found.folder),
        dtype=found.dtype,
        max_context=found.max_context,
        slots=slots,
        prefill_tokens=prefill_tokens,
        cache_bytes=cache_bytes,
        trust_remote_code=trust_remote_code,
        sleeps=sleeps,
        options=vllm,
    )
    weights = backend.call("digest_of", str(found.folder))
    engine = VLLMEngine(
        backend,
        found.tokenizer,
        name=model,
        vocabulary=found.vocabulary,
        max_context=found.max_context,
        end_ids=found.end_ids,
        identity={"revision": found.revision, "dtype": found.dtype, "weights": weights},
        request_timeout=request_timeout,
    )
    try:
        engine.score([found.vocabulary.width - 1] * 2)  # some architectures fail only when they compute
    except EngineFailure as error:
        raise UsageError(
            f"vllm loaded {model!r} but cannot compute with it: {error}; use engine: hf"
        ) from error
    return engine
