"""The default engine: any causal model of `transformers`, on CPU or CUDA, with caches kept between turns.

Every conversation owns a row of one cache for as long as there is room. Requests join and leave the
running batch at any step, and a new turn computes only the tokens that its row does not hold yet. A reply depends on
its request alone, not on the requests it runs with. Leaves out the running batch and its memory (`batch`), the
model's forward pass (`forward`), drawing tokens (`sampler`) and opening models (`loading`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from ...engine import Completion, Engine, Request, check_keys, check_request
from ...errors import EngineFailure, UsageError
from ...models.loading import end_ids, max_context_of, open_model
from ...models.vocabulary import embedded_rows, vocabulary_of
from ...models.weights import copy_weights, weights_digest
from ...types import Action
from ..stops import StopFinder
from .batch import Job, Outcome, SlotBatch
from .forward import CachedForward, Forward, FullForward, obstacle
from .probe import compare
from .sampler import existing_logits

_LOG = logging.getLogger(__name__)

_JOIN_SHARE = 0.25
_JOIN_STEPS = 8
_SCORED = 64


class HFEngine(Engine):
    """Samples from a `transformers` model.

    Attributes:
        tokenizer: whose ids are spoken.
        max_context: prompt plus reply.
        policy_version: number of weight updates seen.
        generated_tokens: tokens sampled so far.
        keeps_cache: whether keys and values are kept between steps and turns.
        vocabulary: ids that exist; no other is read or sampled, and log-probs are normalised over these.
    """

    weighs_choices = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "",
        revision: str | None = None,
        max_context: int | None = None,
        slots: int = 64,
        prefill_tokens: int = 2048,
        cache_bytes: int | None = None,
        request_timeout: float | None = None,
        keep_cache: bool | Literal["auto"] = "auto",
    ) -> None:
        """Wrap a model object, which may be shared with a trainer (tell of updates through `load_weights`).

        Args:
            model: a causal language model; used in eval mode, put back afterwards.
            tokenizer: its tokenizer.
            name: for the records; None takes the model's own.
            revision: for the records.
            max_context: None takes the model's longest.
            slots: conversations computed or kept at a time.
            prefill_tokens: prompt tokens computed in one forward pass.
            cache_bytes: memory for keys and values; None takes half of the free CUDA memory, or a quarter of all RAM.
            request_timeout: seconds from submission after which a request fails; None waits forever.
            keep_cache: whether keys and values are kept between steps and turns. "auto" tries it on a short text and
                computes every token from the start each time, with a logged warning, where that gives other results;
                False always does so; True keeps them without a trial.

        Raises: UsageError: something does not fit, such as a cache to be kept for a model that has none.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.policy_version = 0
        self.generated_tokens = 0
        self._name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
        self._revision = revision or getattr(model.config, "_commit_hash", None)
        self._config = model.config.get_text_config(decoder=True)
        self.max_context = max_context_of(self._config, max_context)
        self.vocabulary = vocabulary_of(tokenizer, embedded_rows(model), self._name)
        if slots < 1 or prefill_tokens < 1:
            raise UsageError(f"slots and prefill_tokens must be at least 1, got {slots} and {prefill_tokens}")
        self._timeout = request_timeout
        self._end_ids = end_ids(model, tokenizer, self.vocabulary)
        forward, token_bytes = self._choose_forward(keep_cache)
        self.keeps_cache = isinstance(forward, CachedForward)
        self._batch = SlotBatch(
            forward,
            slots=slots,
            max_context=self.max_context,
            prefill_tokens=prefill_tokens,
            token_limit=(cache_bytes or _free_bytes(model.device)) // max(1, token_bytes),
            end_ids=self._end_ids,
            vocabulary=self.vocabulary,
            stops=StopFinder(tokenizer),
        )
        self._waiting: list[Job] = []
        self._ready: list[Completion] = []
        self._submitted = 0
        self._steps_alone = 0
        self._digest: str | None = None

    def _choose_forward(self, keep_cache: bool | Literal["auto"]) -> tuple[Forward, int]:
        """Keep caches if the model's results stay the same; returns the bytes per kept token, too."""
        import torch

        if keep_cache not in (True, False, "auto"):
            raise UsageError(f"keep_cache must be auto, true or false, got {keep_cache!r}")
        if keep_cache is False:
            return FullForward(self.model), 0
        reason = obstacle(self._config, self.max_context)
        if not reason:
            try:
                with self._quiet_model():
                    found = compare(self.model, self.tokenizer, self.max_context)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a forward pass that knows of no such cache may raise anything
                reason = f"its forward pass refused the cache: {type(error).__name__}: {error}"
            else:
                if found is None:
                    reason = f"max_context={self.max_context} is too short to try it"
                elif found.holds or keep_cache is True:
                    return CachedForward(self.model), found.token_bytes
                else:
                    reason = f"{found}. If that is good enough, set the engine option keep_cache to true"
        if keep_cache is True:
            raise UsageError(
                f"keep_cache is true, but the cache of model {self._name!r} cannot be kept between steps: {reason}; "
                "leave the option out"
            )
        _LOG.warning(
            "%s: the cache of this model cannot be kept between steps, because %s. Every token is computed from the "
            "start, which is slow for long prompts.",
            self._name,
            reason,
        )
        return FullForward(self.model), 0

    @property
    def info(self) -> dict[str, Any]:
        """Say which model answers; `weights` is `loading.weights_digest`."""
        if self._digest is None:
            self._digest = weights_digest(self.model)
        return {
            "name": "hf",
            "model": self._name,
            "revision": self._revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "weights": self._digest,
            "max_context": self.max_context,
            "keeps_cache": self.keeps_cache,
        }

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens computed so far."""
        return self._batch.prefilled_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the cache instead, of the same conversation or of one that began alike."""
        return self._batch.cached_tokens

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests.

        Raises: UsageError: a request makes no sense; then none of them is queued.
        """
        for request in requests:
            check_request(request, self.vocabulary)
        running = (*self._waiting, *self._batch.running.values())
        check_keys(requests, (job.request.key for job in running))
        jobs = [self._job(request) for request in requests]
        for job in jobs:
            if job.room < job.least:
                used, limit = len(job.prompt), self.max_context
                self._fail(job, f"the prompt of {used} tokens leaves no room in max_context {limit}")
            else:
                self._waiting.append(job)

    def _job(self, request: Request) -> Job:
        sampling, prompt = request.sampling, np.asarray(request.token_ids, np.int64)
        self._submitted += 1
        deadline = float("inf") if self._timeout is None else time.monotonic() + self._timeout
        room = min(sampling.max_new_tokens, self.max_context - len(prompt))
        return Job(request, prompt, room, deadline, self._submitted)

    def poll(self, timeout: float | None = None) -> list[Completion]:
        """Work until something is finished, for `timeout` seconds or little more; [] when nothing is."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._quiet_model():
            while not self._ready and (self._waiting or self._batch.running):
                if until is not None and time.monotonic() > until:
                    break
                if self._timeout is not None:
                    self._expire(time.monotonic())
                if not (self._joins_now() and self._join()):
                    self._steps_alone += 1
                    self.generated_tokens += len(self._batch.running)
                    self._batch.step()
                self._collect()
        ready, self._ready = self._ready, []
        return ready

    def _joins_now(self) -> bool:
        """Whether to let waiting requests in before the next step; several at once are cheaper than one by one."""
        if not self._waiting or self._batch.full:
            return False
        enough = _JOIN_SHARE * len(self._batch.running)
        return len(self._waiting) >= enough or self._steps_alone >= _JOIN_STEPS

    def _join(self) -> bool:
        """Let waiting requests in, oldest first, and compute their prompts; False when none could get in."""
        joined = 0
        for job in list(self._waiting):
            if self._batch.is_busy(job.request.slot):
                continue  # one conversation has one row: its next request waits, those behind it do not
            if not self._batch.admit(job):
                break
            self._waiting.remove(job)
            joined += 1
        self._steps_alone = 0
        if joined:
            self.generated_tokens += joined
            self._batch.compute_prompts()
        return joined > 0

    def _collect(self) -> None:
        """Answer what has ended, and queue again what lost its row (seeds make it say the same once more)."""
        for outcome in self._batch.ended:
            self._ready.append(self._completion(outcome))
        if self._batch.displaced:
            self._waiting = sorted([*self._batch.displaced, *self._waiting], key=lambda job: job.order)
        self._batch.ended, self._batch.displaced = [], []

    def _completion(self, outcome: Outcome) -> Completion:
        key, ids, error = outcome.job.request.key, outcome.token_ids, outcome.error
        if error is not None:
            message = str(error) if isinstance(error, EngineFailure) else f"{type(error).__name__}: {error}"
            return Completion(key, failure=EngineFailure(message))
        ended = bool(ids) and (ids[-1] in self._end_ids or ids[-1] in outcome.job.request.end_ids)
        # the end token stays among the ids, since it was sampled and is trained on; the text is without it
        said = ids[:-1] if ended else ids
        text = self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(key, Action(text, ids, outcome.logprobs, outcome.finish, self.policy_version))

    def _expire(self, now: float) -> None:
        """Fail what has waited or run for too long."""
        message = f"not answered within {self._timeout} seconds"
        for job in [job for job in self._waiting if job.deadline < now]:
            self._waiting.remove(job)
            self._fail(job, message)
        for row in [row for row, job in self._batch.running.items() if job.deadline < now]:
            self._batch.fail(row, EngineFailure(message))

    def _fail(self, job: Job, message: str) -> None:
        self._ready.append(Completion(job.request.key, failure=EngineFailure(message)))

    def abort(self, keys: Iterable[str]) -> None:
        """Stop requests; each is answered with what it has said so far and finish "abort"."""
        wanted = set(keys)
        for job in [job for job in self._waiting if job.request.key in wanted]:
            self._waiting.remove(job)
            self._ready.append(self._completion(Outcome(job, [], [], "abort")))
        for row in [row for row, job in self._batch.running.items() if job.request.key in wanted]:
            self._batch.end(row, "abort")
        self._collect()

    def drop(self, keys: Iterable[str]) -> None:
        """Stop requests; nothing more is heard of them."""
        gone = set(keys)
        self.abort(gone)
        self._ready = [item for item in self._ready if item.key not in gone]

    def release(self, slot: str) -> None:
        """Forget the cache of a conversation; unknown slots are ignored."""
        self._batch.release(slot)

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob in nats, at temperature 1, of each token but the first, by one plain forward pass."""
        import torch

        ids_T = torch.tensor(list(token_ids), device=self.model.device)
        with self._quiet_model():
            logits_TV = self.model(input_ids=ids_T[None], use_cache=False).logits[0, :-1]
            found: list[float] = []
            for start in range(0, len(logits_TV), _SCORED):  # float32 of a large vocabulary is much memory
                part_TV = existing_logits(logits_TV[start : start + _SCORED].float(), self.vocabulary)
                said_T = ids_T[1 + start : 1 + start + len(part_TV)]
                found += part_TV.log_softmax(-1).gather(1, said_T[:, None])[:, 0].tolist()
        return found

    def load_weights(self, named_tensors: Iterable[tuple[str, Any]]) -> int:
        """Replace the weights and drop every cache; running requests start over, so no reply mixes two policies."""
        try:
            copy_weights(self.model, named_tensors)
        finally:  # also when it broke half-way: old keys fit no mixture of weights
            self._batch.clear()
            self._collect()
            self.policy_version += 1
            self._digest = None
        return self.policy_version

    @contextlib.contextmanager
    def _quiet_model(self) -> Iterator[None]:
        """Run without gradients and dropout; a shared model goes back to training mode."""
        import torch

        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.model.train()


def _free_bytes(device: Any) -> int:
    """Half of what is free on a CUDA device, or a quarter of all RAM."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 2)
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


def build(
    model: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    max_context: int | None = None,
    slots: int = 64,
    trust_remote_code: bool = False,
    revision: str | None = None,
    attn_implementation: str | None = None,
    cache_bytes: int | None = None,
    request_timeout: float | None = None,
    keep_cache: bool | Literal["auto"] = "auto",
) -> HFEngine:
    """Open a model and wrap it; the arguments are those of `loading.open_model` and `HFEngine`."""
    loaded, tokenizer = open_model(
        model,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        attn_implementation=attn_implementation,
    )
    return HFEngine(
        loaded,
        tokenizer,
        name=model,
        revision=revision,
        max_context=max_context,
        slots=slots,
        cache_bytes=cache_bytes,
        request_timeout=request_timeout,
        keep_cache=keep_cache,
    )
