"""The engine for throughput: vLLM in this process, with token ids in and out and continuous batching.

Requests join and leave the running batch at any step; `poll` steps until something is finished. Conversations share
vLLM's prefix cache, which finds the longest common beginning by itself. A reply depends on its request and seed alone,
but for the rounding of logits, which batch mates can move. Leaves out vLLM's own interface (`adapter`) and what
happens to weights inside the worker (`worker`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ...engine import Completion, Engine, Request, check_keys, check_request
from ...errors import EngineFailure, UsageError
from ...models.vocabulary import Vocabulary
from ...types import Action, Finish
from ..stops import StopFinder
from .adapter import Backend, Piece, generation, scoring
from .choice import ends_once

_LOG = logging.getLogger(__name__)
_FINISHES = {"stop", "length"}


@dataclass(slots=True)
class _Job:
    """A request on its way, and what it has said so far."""

    request: Request
    parameters: Any
    deadline: float
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class VLLMEngine(Engine):
    """Samples from a vLLM engine of this process.

    Attributes:
        tokenizer: whose ids are spoken.
        max_context: prompt plus reply.
        policy_version: number of weight updates seen.
        generated_tokens: tokens sampled so far.
        prefilled_tokens: prompt tokens computed so far.
        cached_tokens: prompt tokens found in the prefix cache instead.
        vocabulary: ids that exist.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Any,
        *,
        name: str,
        vocabulary: Vocabulary,
        max_context: int,
        end_ids: Sequence[int],
        identity: dict[str, Any],
        request_timeout: float | None = None,
    ) -> None:
        """Wrap a started backend; `build` makes one from a model's name.

        Args:
            backend: speaks to vLLM.
            tokenizer: of the model.
            name: for the records.
            vocabulary: ids that exist; no other is read or sampled, and log-probs are normalised over these.
            max_context: prompt plus reply.
            end_ids: tokens that end a reply.
            identity: further entries of `info`: revision, dtype, weights.
            request_timeout: seconds from submission after which a request fails; None waits forever.
        """
        self.tokenizer = tokenizer
        self.max_context = max_context
        self.policy_version = 0
        self.generated_tokens = self.prefilled_tokens = self.cached_tokens = 0
        self._backend, self._name, self.vocabulary = backend, name, vocabulary
        self.restrict(vocabulary)
        self._end_ids, self._identity, self._timeout = list(end_ids), dict(identity), request_timeout
        self._stops = StopFinder(tokenizer)
        self._jobs: dict[str, _Job] = {}
        self._scored: dict[str, Piece | EngineFailure] = {}
        self._ready: list[Completion] = []
        self._count = 0

    @property
    def info(self) -> dict[str, Any]:
        """Say which model answers; `weights` is `loading.weights_digest`."""
        return {
            "name": "vllm",
            "model": self._name,
            "vllm": self._backend.version,
            "max_context": self.max_context,
            **self._identity,
        }

    # --- sampling -----------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests.

        Raises: UsageError: a request makes no sense; then none of them is queued.
        """
        for request in requests:
            check_request(request, self.vocabulary)
        check_keys(requests, (job.request.key for job in self._jobs.values()))
        jobs = [self._job(request) for request in requests]
        for job in jobs:
            used = len(job.request.token_ids)
            if used >= self.max_context:
                self._fail(
                    job, f"the prompt of {used} tokens leaves no room in max_context {self.max_context}"
                )
            else:
                self._start(job)

    def _job(self, request: Request) -> _Job:
        sampling, choices, prompt = request.sampling, request.choices, request.token_ids
        end_ids = sorted({*self._end_ids, *request.end_ids})
        if request.whole:
            raise UsageError(
                f"request {request.key!r} cannot be answered: vllm cannot weigh whole choices; use engine: hf"
            )
        if choices is not None and not all(ends_once(choice, end_ids) for choice in choices):
            raise UsageError(
                f"request {request.key!r} cannot be answered: vllm needs choices with one end token, their last; "
                "use engine: hf"
            )
        room = max(1, min(sampling.max_new_tokens, self.max_context - len(prompt)))
        parameters = generation(sampling, seed=request.seed, room=room, end_ids=end_ids, choices=choices)
        deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
        return _Job(request, parameters, deadline)

    def _start(self, job: _Job) -> None:
        """Hand a job to vLLM, from the beginning."""
        job.token_ids, job.logprobs = [], []
        id = self._new_id()
        try:
            self._backend.add(id, job.request.token_ids, job.parameters)
        except Exception as error:  # vLLM refuses this one request
            self._fail(job, f"{type(error).__name__}: {error}")
        else:
            self._jobs[id] = job

    def _new_id(self) -> str:
        self._count += 1
        return str(self._count)

    def poll(self, timeout: float | None = None) -> list[Completion]:
        """Work until something is finished, for `timeout` seconds or little more; [] when nothing is."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ready and self._jobs:
            if until is not None and time.monotonic() > until:
                break
            self._expire(time.monotonic())
            if self._jobs:
                self._step()
        ready, self._ready = self._ready, []
        return ready

    def _step(self) -> None:
        """Let vLLM compute one step, and take in what it brought."""
        try:
            pieces = self._backend.step()
        except Exception as error:  # nothing that ran can be trusted any more
            _LOG.warning("a step over %d requests failed", len(self._jobs), exc_info=error)
            self._break_all(f"{type(error).__name__}: {error}")
            return
        for piece in pieces:
            if piece.id in self._scored:
                self._scored[piece.id] = piece
            elif piece.id in self._jobs:
                self._take(piece)

    def _take(self, piece: Piece) -> None:
        job = self._jobs[piece.id]
        if not job.token_ids:
            self.cached_tokens += piece.cached_tokens
            self.prefilled_tokens += len(job.request.token_ids) - piece.cached_tokens
        before = len(job.token_ids)
        job.token_ids += piece.token_ids
        job.logprobs += piece.logprobs
        self.generated_tokens += len(piece.token_ids)
        if not all(map(math.isfinite, piece.logprobs)):
            self._backend.abort([piece.id])
            self._fail(self._jobs.pop(piece.id), "FloatingPointError: the model's logits are not finite")
        elif self._says_stop(job, before):
            if not piece.finish:
                self._backend.abort([piece.id])
            self._end(self._jobs.pop(piece.id), "stop")
        elif piece.finish in _FINISHES:
            self._end(self._jobs.pop(piece.id), cast("Finish", piece.finish))
        elif piece.finish:
            self._fail(self._jobs.pop(piece.id), f"vllm ended it for the reason {piece.finish!r}")

    def _says_stop(self, job: _Job, before: int) -> bool:
        """Whether one of the tokens since `before` completes a stop string; what a step brought beyond it is dropped.

        Looked for here and not by vLLM, which would have to turn every reply into text for it.
        """
        sampling = job.request.sampling
        if not sampling.stop or job.request.choices is not None:
            return False
        least = max(before + 1, sampling.min_new_tokens)
        length = self._stops.length(job.token_ids, sampling.stop, least)
        if length is None:
            return False
        del job.token_ids[length:], job.logprobs[length:]
        return True

    def _end(self, job: _Job, finish: Finish) -> None:
        ids = job.token_ids
        said = ids[:-1] if ids and ids[-1] in (*self._end_ids, *job.request.end_ids) else ids
        text = self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        action = Action(text, ids, job.logprobs, finish, self.policy_version)
        self._ready.append(Completion(job.request.key, action))

    def _fail(self, job: _Job, message: str) -> None:
        self._ready.append(Completion(job.request.key, failure=EngineFailure(message)))

    def _break_all(self, message: str) -> None:
        jobs, self._jobs = self._jobs, {}
        self._scored = {id: EngineFailure(message) for id in self._scored}
        for job in jobs.values():
            self._fail(job, message)
        self._backend.abort([*jobs, *self._scored])
        self._backend.drop_cache()  # it counts what the broken step should have computed

    def _expire(self, now: float) -> None:
        """Fail what has waited or run for too long."""
        late = [id for id, job in self._jobs.items() if job.deadline < now]
        self._backend.abort(late)
        for id in late:
            self._fail(self._jobs.pop(id), f"not answered within {self._timeout} seconds")

    def abort(self, keys: Iterable[str]) -> None:
        """Stop requests; each is answered with what it has said so far and finish "abort"."""
        wanted = set(keys)
        stopped = [id for id, job in self._jobs.items() if job.request.key in wanted]
        self._backend.abort(stopped)
        for id in stopped:
            self._end(self._jobs.pop(id), "abort")

    def drop(self, keys: Iterable[str]) -> None:
        """Stop requests; nothing more is heard of them."""
        gone = set(keys)
        self.abort(gone)
        self._ready = [item for item in self._ready if item.key not in gone]

    def release(self, slot: str) -> None:
        """Nothing to do: the prefix cache forgets what was used longest ago."""

    # --- scoring ------------------------------------------------------------------------------------------------------

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob in nats, at temperature 1, of each token but the first, given those before it.

        Raises: EngineFailure: it could not be computed.
        """
        (piece,) = self.score_rows([token_ids])
        assert piece.scores is not None
        found: list[float] = piece.scores[:, 0].tolist()
        return found

    def score_rows(self, rows: Sequence[Sequence[int]], top_k: int = 0) -> list[Piece]:
        """Score rows of at least two tokens; `Piece.scores` also holds the `top_k` likeliest.

        Raises: UsageError, EngineFailure: a row makes no sense, or could not be scored.
        """
        if any(not 2 <= len(row) <= self.max_context for row in rows):
            sizes = sorted(len(row) for row in rows)
            raise UsageError(
                f"vllm scores rows of 2 to {self.max_context} tokens, got {sizes[0]} to {sizes[-1]}"
            )
        if not all(bool(self.vocabulary.has(row).all()) for row in rows):
            raise UsageError(f"a row to score has an id outside the vocabulary of {self.vocabulary.count}")
        mine = [self._new_id() for _ in rows]
        waiting = Piece("", (), (), "", 0)
        self._scored = dict.fromkeys(mine, waiting)
        try:
            for id, row in zip(mine, rows, strict=True):
                self._backend.add(id, row, scoring(top_k))
            while any(found is waiting for found in self._scored.values()):
                self._step()
            found = [self._scored[id] for id in mine]
        finally:
            self._backend.abort(mine)
            self._scored = {}
        pieces = [piece for piece in found if isinstance(piece, Piece)]
        broken = next((item for item in found if isinstance(item, EngineFailure)), None)
        if broken is not None:
            raise broken
        if not all(
            piece.scores is not None and bool((piece.scores[:, 0] > -math.inf).all()) for piece in pieces
        ):
            raise EngineFailure("vllm gave no finite log-prob for a scored token")
        return pieces

    def restrict(self, vocabulary: Vocabulary) -> None:
        """Give no probability to ids outside `vocabulary` from now on, in sampling and in scoring."""
        self._backend.call("keep_ids", vocabulary.width, vocabulary.holes.tolist())

    # --- weights ------------------------------------------------------------------------------------------------------

    def load_weights(self, named_tensors: Iterable[tuple[str, Any]]) -> int:
        """Replace the weights and drop the prefix cache; running requests start over, so no reply mixes two policies.

        Raises: ContractError: a name or shape does not fit, or a weight was left out; the old weights are in place.
        """
        jobs, self._jobs = self._jobs, {}
        self._backend.abort(jobs)
        try:
            loaded = self._backend.call("load_named", named_tensors, self.policy_version + 1)
            self._identity["weights"] = loaded["weights"]
        finally:
            self._backend.drop_cache()
            self.policy_version += 1
            for job in jobs.values():
                self._start(job)
        return self.policy_version

    def sleep(self) -> None:
        """Give the accelerator's memory to others until `wake`; needs `build(..., sleeps=True)` on CUDA.

        Raises: UsageError: requests are under way, or this engine cannot sleep.
        """
        if self._jobs:
            raise UsageError(f"{len(self._jobs)} requests are under way; an engine sleeps only when idle")
        self._backend.sleep()

    def wake(self) -> None:
        """Take the memory again; answers are as before."""
        self._backend.wake()
