"""Everything that touches vLLM's programming interface: start-up, requests, steps. Leaves out the queue (`vllm`).

Supported are the versions in `SUPPORTED`; what the adapter relies on is pinned, one behaviour per test, in
`tests/vllm/test_adapter.py`. Engine and worker run in this process, under model runner V1, which CPUs have, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import random
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ContractError, MissingDependency, UsageError, missing_dependency
from ...types import SamplingParams
from .choice import choice_processor

SUPPORTED = ((0, 32), (0, 34))
"""The first supported version and the first that is not."""

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker in this process: tensors are handed over as they are
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the model's longest: see `Backend`
}
_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
_FREE = frozenset({"block_size", "enforce_eager"})
_ONE_PROCESS = frozenset({"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"})
_CPU_PREFILL = 2048


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought for one request.

    Attributes:
        token_ids: new ones.
        logprobs: of the new ones, under the distribution they were sampled from.
        finish: "" while it goes on, else vLLM's reason.
        cached_tokens: prompt tokens found in the prefix cache.
        scores: [T - 1, 1 + K] log-probs of a scored prompt: of each token but the first, then of the K likeliest.
        score_ids: the ids that `scores` speaks of.
    """

    id: str
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish: str
    cached_tokens: int
    scores: npt.NDArray[np.float32] | None = None
    score_ids: npt.NDArray[np.int64] | None = None


def check_version() -> str:
    """Find vLLM and return its version.

    The distribution has other names on CPU, so only the import tells.
    Raises: MissingDependency, UsageError: it is absent or not supported.
    """
    if importlib.util.find_spec("vllm") is None:
        raise missing_dependency("vllm", "vllm", "the engine 'vllm'")
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # before vLLM sets up its own
    try:
        with _quiet():
            import vllm
    except (ImportError, RuntimeError, OSError) as error:
        raise MissingDependency(
            f"vllm is installed but cannot be imported: {_first_line(error)}; see docs/vllm.md"
        ) from error
    version = str(vllm.__version__)
    first, end = SUPPORTED
    if not first <= vllm.__version_tuple__[:2] < end:
        low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
        raise UsageError(
            f"vllm {version} is installed; supported is >={low},<{high}: pip install 'vllm>={low},<{high}'"
        )
    return version


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about vLLM's own imports from its users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def on_cpu() -> bool:
    """Whether vLLM computes on the CPU here."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that vLLM would change without a word, in process or behind a server.

    Raises: UsageError.
    """
    if temperature and not 0.01 <= temperature <= 2.0:
        raise UsageError(
            f"vllm samples at temperature 0 or from 0.01 to 2.0, got {temperature}; use engine: hf"
        )


def generation(
    sampling: SamplingParams,
    *,
    seed: int,
    room: int,
    end_ids: Sequence[int],
    choices: tuple[tuple[int, ...], ...] | None = None,
) -> Any:
    """Parameters of a reply: `end_ids` alone end it, and log-probs are of the distribution sampled from.

    Raises: UsageError: vLLM cannot sample like this.
    """
    from vllm import SamplingParams as VLLMSamplingParams
    from vllm.sampling_params import RequestOutputKind

    check_temperature(sampling.temperature)
    return VLLMSamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=seed % 2**63,
        max_tokens=room,
        min_tokens=0 if choices is not None else min(sampling.min_new_tokens, room),
        stop_token_ids=list(end_ids),
        ignore_eos=True,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args=None if choices is None else {"choices": choices},
        skip_clone=True,  # they belong to one request; copying long lists of choices takes time
    )


def scoring(top_k: int) -> Any:
    """Parameters for scoring a prompt at temperature 1; the one token it must sample is thrown away."""
    from vllm import SamplingParams as VLLMSamplingParams
    from vllm.sampling_params import RequestOutputKind

    return VLLMSamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=top_k,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class Backend:
    """A vLLM engine of this process, driven step by step."""

    def __init__(
        self,
        folder: str,
        *,
        dtype: str,
        max_context: int,
        slots: int,
        prefill_tokens: int | None,
        cache_bytes: int | None,
        trust_remote_code: bool = False,
        sleeps: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Start it.

        Args:
            folder: local Hugging Face folder.
            dtype: float32, bfloat16 or float16.
            max_context: prompt plus reply. vLLM is told one more, because it insists on sampling a token after a scored
                prompt; no position beyond `max_context` is ever computed.
            slots: requests running at a time.
            prefill_tokens: prompt tokens computed in one step; None leaves it to vLLM.
            cache_bytes: memory for keys and values; None leaves it to vLLM.
            trust_remote_code: run Python code that comes with the model.
            sleeps: allow `sleep`.
            options: further keyword arguments of vLLM's `EngineArgs`.
        Raises: UsageError: vLLM refused.
        """
        self.version = check_version()
        self.cpu, self._sleeps = on_cpu(), sleeps
        if sleeps and self.cpu:
            raise UsageError("vllm cannot sleep on CPU: its sleep mode needs CUDA; remove sleeps")
        _refuse_many_processes()
        arguments: dict[str, Any] = {
            "model": folder,
            "tokenizer": folder,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # only the parameters of each request count
            "dtype": dtype,
            "max_model_len": max_context + 1,
            "max_num_seqs": slots,
            "max_num_batched_tokens": prefill_tokens,
            "kv_cache_memory_bytes": cache_bytes,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": -1,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "trust_remote_code": trust_remote_code,
            "worker_extension_cls": "agentbench.engines.vllm.worker.WeightLoader",
            "logits_processors": [choice_processor()],
            "enable_sleep_mode": sleeps,
        }
        if self.cpu:
            # A seeded request whose prompt is computed in pieces kills the engine on CPU; prompts fit into one step.
            arguments |= {"block_size": 32, "enforce_eager": True, "enable_chunked_prefill": False}
            arguments["max_num_batched_tokens"] = max(prefill_tokens or _CPU_PREFILL, max_context + 1, slots)
        options = options or {}
        fixed = sorted((arguments.keys() - _FREE | _ONE_PROCESS) & options.keys())
        if fixed:
            raise UsageError(f"vllm's option {fixed[0]!r} is set by this engine; remove it")
        self._engine = _start(arguments | options)

    def add(self, id: str, token_ids: Sequence[int], parameters: Any) -> None:
        """Queue a prompt of token ids."""
        self._engine.add_request(id, {"prompt_token_ids": list(token_ids)}, parameters)

    def step(self) -> list[Piece]:
        """Compute one step of everything that runs."""
        with self._own_random_state():
            return [_piece(output) for output in self._engine.step()]

    def abort(self, ids: Iterable[str]) -> None:
        """Stop requests; nothing more is heard of them."""
        self._engine.abort_request(list(ids))

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of `worker.WeightLoader` in the worker."""
        with self._own_random_state():
            return self._engine.collective_rpc(method, args=arguments)[0]

    def drop_cache(self) -> None:
        """Forget all keys and values; nothing may be running.

        Raises: ContractError: vLLM kept some.
        """
        if not self._engine.reset_prefix_cache():
            raise ContractError("vllm did not reset its prefix cache although no request was running")

    def sleep(self) -> None:
        """Give the accelerator's memory back; weights wait in the main memory."""
        self._must_sleep()
        self._engine.sleep(level=1)

    def wake(self) -> None:
        """Take the memory again."""
        self._must_sleep()
        self._engine.wake_up()

    def _must_sleep(self) -> None:
        if not self._sleeps:
            where = "on CPU, which has no sleep mode" if self.cpu else "unless it is built with sleeps: true"
            raise UsageError(f"this vllm engine cannot sleep {where}")

    @contextlib.contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Leave torch's generator on the CPU, which is the trainer's too, as it was: vLLM draws from it every step."""
        import torch

        state = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(state)


def _piece(output: Any) -> Piece:
    completion = output.outputs[0]
    found, prompt = completion.logprobs, output.prompt_logprobs
    scores = score_ids = None
    if prompt is not None and output.finished:
        rows = len(prompt) - 1
        scores = np.asarray(prompt.logprobs, np.float32).reshape(rows, -1)
        score_ids = np.asarray(prompt.token_ids, np.int64).reshape(rows, -1)
    return Piece(
        output.request_id,
        list(completion.token_ids),
        list(found.logprobs) if found else [],
        completion.finish_reason or "",
        output.num_cached_tokens or 0,
        scores,
        score_ids,
    )


def _start(arguments: dict[str, Any]) -> Any:
    """Start vLLM; what it does to the whole process on the way is undone."""
    import torch

    with _quiet():
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    set_num_threads = torch.set_num_threads
    os.environ.update(_ENVIRONMENT)
    _keep_groups()
    try:
        with _quiet():
            engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        _LIVING.add(engine)
        return engine
    except Exception as error:
        raise UsageError(f"vllm cannot serve {arguments['model']!r}: {_first_line(error)}") from error
    finally:
        torch.set_num_threads = set_num_threads
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


_LIVING: weakref.WeakSet[Any] = weakref.WeakSet()


def _keep_groups() -> None:
    """Make an engine that goes leave vLLM's process groups, which are global, to those that stay."""
    from vllm.v1.engine import core

    destroy = core.cleanup_dist_env_and_memory
    if getattr(destroy, "waits_for_the_last", False):
        return

    def destroy_with_the_last(*args: Any, **kwargs: Any) -> None:
        if not _LIVING:
            destroy(*args, **kwargs)

    destroy_with_the_last.waits_for_the_last = True  # type: ignore[attr-defined]
    core.cleanup_dist_env_and_memory = destroy_with_the_last


def _refuse_many_processes() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise UsageError(
            f"engine 'vllm' runs inside one training process, but {dist.get_world_size()} train together; "
            "use engine: hf, or a vLLM server"
        )


def _first_line(error: BaseException) -> str:
    """Type and message of an error, in one line: of pydantic's reports what is wrong, without the link."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "validation error" in "".join(lines[:1]):
        lines = [
            " ".join(line for line in lines[1:] if not line.startswith("For further")).split(" [type=")[0]
        ]
    text = " ".join(lines[:1]).rstrip(".")
    if "kv cache" in text.lower() or "cache blocks" in text:
        text += "; the options cache_bytes, slots and max_context set it"
    return f"{type(error).__name__}: {text}"
