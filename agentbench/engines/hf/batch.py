"""The running batch: which requests have rows, growing and sharing the memory, and one step for all of them.

Leaves out the queue and everything about text (`hf`), the model (`forward`) and drawing tokens (`sampler`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine import Request
from ...models.vocabulary import Vocabulary
from ...types import Finish
from ..stops import StopFinder
from .forward import Forward
from .sampler import ChoiceTable, IntArray, RowSettings, existing_logits, sample_rows
from .table import SlotTable
from .whole import draw, weigh

_LOG = logging.getLogger(__name__)

_CAPACITY_STEP = 64
_FIRST_ROWS = 4
_MASK_LIMIT = 2**26
"""Entries [queries, keys] of one attention mask: long pieces of prompt over a long cache would need gigabytes."""
_SHARED = 32
"""Prompts with fewer tokens in common are not worth a copy."""


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way.

    Attributes:
        prompt: its ids [P].
        room: how many tokens the reply may have.
        deadline: on the monotonic clock, in seconds.
        order: when it was submitted.
    """

    request: Request
    prompt: IntArray
    room: int
    deadline: float
    order: int

    @property
    def least(self) -> int:
        """Tokens of a reply that there must be room for: of the longest choice, where wholes are weighed."""
        choices = self.request.choices
        return max(map(len, choices)) if choices is not None and self.request.whole else 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: what it said and why it stopped, or the error that ended it."""

    job: Job
    token_ids: list[int]
    logprobs: list[float]
    finish: Finish = "stop"
    error: Exception | None = None


class SlotBatch:
    """Runs jobs on the rows of one cache.

    Attributes:
        running: job by row.
        ended: outcomes that nobody has taken yet.
        displaced: jobs that lost their row to older ones when memory ran out; they have to start over.
        prefilled_tokens: prompt tokens computed so far.
        cached_tokens: prompt tokens that were found in the cache instead.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        slots: int,
        max_context: int,
        prefill_tokens: int,
        token_limit: int,
        end_ids: IntArray,
        vocabulary: Vocabulary,
        stops: StopFinder,
    ) -> None:
        """Start empty and small.

        Args:
            forward: computes logits.
            slots: most rows there may be.
            max_context: most tokens in a row.
            prefill_tokens: prompt tokens computed in one forward pass.
            token_limit: most tokens in all rows together; one row may always be as long as it needs.
            end_ids: tokens that end a reply.
            vocabulary: ids that may be sampled.
            stops: finds the texts that end it.
        """
        rows = min(_FIRST_ROWS, slots)
        self.running: dict[int, Job] = {}
        self.ended: list[Outcome] = []
        self.displaced: list[Job] = []
        self.prefilled_tokens = self.cached_tokens = 0
        self._forward = forward
        self._slots, self._max_context, self._prefill_tokens = slots, max_context, prefill_tokens
        self._token_limit = token_limit
        self._end_ids, self._stops, self._vocabulary = end_ids, stops, vocabulary
        self._table = SlotTable(rows, _CAPACITY_STEP)
        self._settings = RowSettings.empty(rows)
        self._choices = ChoiceTable(rows)
        self._move(np.arange(rows), rows, _CAPACITY_STEP)

    @property
    def full(self) -> bool:
        """Whether no further job can run now."""
        return len(self.running) >= self._row_limit(self._table.capacity)

    def is_busy(self, slot: str) -> bool:
        """Whether a conversation has a job running."""
        row = self._table.find(slot)
        return row is not None and bool(self._table.busy[row])

    def admit(self, job: Job) -> bool:
        """Give a job a row, if one can be had; its prompt is computed by `compute_prompts`."""
        try:
            self._reserve(len(job.prompt) + job.least)
            row = self._row_for(job.request.slot)
        except Exception as error:
            self._break_all(error)
            self.ended.append(Outcome(job, [], [], "abort", error))
            return True
        if row is None:
            return False
        self.running[row] = job
        self._settings.put(row, job.request.sampling, job.request.seed, job.room)
        self._choices.put(row, None if job.request.whole else job.request.choices)
        self._table.begin(row, job.prompt)
        if not self._forward.keeps:  # the table believes that the last turn's tokens are held
            self._table.length[row] = 0
        return True

    def compute_prompts(self) -> None:
        """Compute the prompts of jobs just admitted.

        Where several begin alike (the members of a group), the first is computed and the others copy from it.
        """
        fresh = sorted(row for row in self.running if self._settings.position[row] == 0)
        if not self._forward.keeps:
            self.prefilled_tokens += int(self._table.known[fresh].sum())
            return self._advance(np.array(fresh, np.int64))
        firsts: dict[bytes, int] = {}
        for row in fresh:
            if self._table.length[row] < _SHARED:
                firsts.setdefault(self._table.tokens[row, :_SHARED].tobytes(), row)
        # the members of a group wait for their first: copying keys costs far less than computing them again
        later = [row for row in fresh if self._table.length[row] < _SHARED and row not in firsts.values()]
        for rows in ([row for row in fresh if row not in later], later):
            rows = [row for row in rows if row in self.running]
            for row in rows:
                self._borrow(row)
            self.cached_tokens += int(self._table.length[rows].sum())
            self.prefilled_tokens += int((self._table.known[rows] - self._table.length[rows]).sum())
            if rows:
                self._prefill(np.array(rows, np.int64))

    def _borrow(self, row: int) -> None:
        """Copy the beginning of a prompt from the row that holds most of it, if that saves work."""
        donor, shared = self._table.donor(row)
        if shared - self._table.length[row] >= _SHARED:
            self._forward.copy(donor, row, shared)
            self._table.length[row] = shared

    def _prefill(self, rows: IntArray) -> None:
        """Compute prompts, similar lengths together, long ones piece by piece."""
        table = self._table
        piece = max(1, min(self._prefill_tokens, _MASK_LIMIT // table.capacity))
        for row in rows:
            # a long prompt goes alone: beside it short ones would be padded to its length
            while table.known[row] - table.length[row] > piece and int(row) in self.running:
                self._advance(row[None], until=table.length[row][None] + piece)
        rows = np.array([row for row in rows if int(row) in self.running], np.int64)
        work = table.known[rows] - table.length[rows]
        group: list[int] = []
        # shortest first, so that neighbours are padded by little; an error fails one group and not the others
        for index in np.argsort(work, kind="stable"):
            if group and (len(group) + 1) * work[index] > piece:
                self._advance(np.sort(rows[group]))
                group = []
            group.append(int(index))
        if group:
            self._advance(np.sort(rows[group]))

    def step(self) -> None:
        """Sample one token for every running job."""
        if not self.running:
            return
        try:
            self._reserve(int(self._table.known[list(self.running)].max()) + 1)
        except Exception as error:
            self._break_all(error)
        else:
            self._advance(np.array(sorted(self.running)))

    def end(self, row: int, finish: Finish) -> None:
        """End a running job with what it has said so far; its row keeps the cache for the next turn."""
        job, table = self.running.pop(row), self._table
        said = slice(len(job.prompt), int(table.known[row]))
        outcome = Outcome(job, table.tokens[row, said].tolist(), table.logprobs[row, said].tolist(), finish)
        self.ended.append(outcome)
        table.finish(row)

    def release(self, slot: str) -> None:
        """Forget a conversation's cache."""
        self._table.release(slot)

    def clear(self) -> None:
        """Forget everything; running jobs have to start over."""
        for row in list(self.running):
            self._displace(row)
        for row in range(self._table.rows):
            self._table.drop(row)
            self._forward.clear(row)

    # -- memory ------------------------------------------------------------------------------------

    def _row_for(self, slot: str) -> int | None:
        """Find a row: an idle one, else a new one, else that of the conversation that has been idle longest."""
        row = self._table.acquire(slot, evict=False)
        limit = self._row_limit(self._table.capacity)
        if row is None and self._table.rows < limit:
            self._move(np.arange(self._table.rows), min(limit, 2 * self._table.rows), self._table.capacity)
            row = self._table.acquire(slot, evict=False)
        return self._table.acquire(slot, evict=True) if row is None else row

    def _row_limit(self, capacity: int) -> int:
        return max(1, min(self._slots, self._token_limit // capacity))

    def _reserve(self, tokens: int) -> None:
        """Make rows long enough; where memory ends, idle caches go first, then the youngest jobs start over."""
        if tokens <= self._table.capacity:
            return
        # by half at least: a cache that grew by one step at a time would be copied as often as it has steps
        wanted = min(self._max_context, max(tokens, self._table.capacity * 3 // 2))
        capacity = -(-wanted // _CAPACITY_STEP) * _CAPACITY_STEP
        rows = min(self._table.rows, self._row_limit(capacity))
        oldest = sorted(self.running, key=lambda row: self.running[row].order)
        for row in reversed(oldest[rows:]):
            self._displace(row)
        self._move(np.array(self._table.by_worth(oldest[:rows])[:rows], np.int64), rows, capacity)

    def _move(self, source: IntArray, rows: int, capacity: int) -> None:
        """Resize every table and the cache alike, keeping the rows `source`."""
        self._forward.move(source, rows, capacity)
        self._table.move(source, rows, capacity)
        self._settings = self._settings.take(source, rows)
        self._choices.move(source, rows)
        self.running = {new: self.running[int(old)] for new, old in enumerate(source) if old in self.running}

    def _displace(self, row: int) -> None:
        self.displaced.append(self.running.pop(row))
        self._table.finish(row)

    # -- computing ---------------------------------------------------------------------------------

    def _advance(self, rows: IntArray, until: IntArray | None = None) -> None:
        """Compute what is known of `rows` and sample one token each; with `until`, compute that far only."""
        table = self._table
        ends = table.known[rows] if until is None else until
        try:
            logits = self._forward.extend(table.tokens, rows, table.length[rows], ends)[:, -1]
            table.length[rows] = ends
            if until is None:
                whole = np.array([self.running[int(row)].request.whole for row in rows], bool)
                for some, work in ((~whole, self._sample), (whole, self._weigh)):
                    if some.any():
                        work(rows[some], logits if some.all() else logits[np.flatnonzero(some)])
        except Exception as error:  # of the model or the device: these jobs fail, the others go on
            self._break(rows, error)

    def _sample(self, rows: IntArray, logits: Any) -> None:
        """Draw one token per row and end the jobs whose reply ends with it."""
        import torch

        table, settings = self._table, self._settings.take(rows)
        guided = self._choices.guided[rows]
        logits = existing_logits(logits, self._vocabulary)
        early = np.flatnonzero((settings.position < settings.min_tokens) & ~guided)
        for at in early:  # as below: the engine's own end tokens are banned by `sample_rows`
            if own := list(self.running[int(rows[at])].request.end_ids):
                logits[int(at), own] = float("-inf")
        ids, logps = sample_rows(
            logits,
            settings,
            end_ids=torch.from_numpy(self._end_ids).to(logits.device),
            allowed_RV=self._choices.allowed(rows, settings.position, logits),
            guided_R=guided,
        )
        new, logprobs = ids.cpu().numpy(), logps.cpu().numpy()
        table.tokens[rows, table.known[rows]] = new
        table.logprobs[rows, table.known[rows]] = logprobs
        table.known[rows] += 1
        self._settings.position[rows] += 1
        complete = self._choices.advance(rows, settings.position, new)
        ended = (new[:, None] == self._end_ids).any(-1)
        for place, owner in enumerate(rows):  # a chat template's own end token belongs to its requests alone
            ended[place] |= int(new[place]) in self.running[int(owner)].request.end_ids
        # a guided reply is over when its choice is, whatever tokens that holds
        stopped = np.where(guided, complete, ended)
        stopped |= np.array([self._says_stop(int(row)) for row in rows], bool)
        # NaN sorts anywhere and would be sampled as if it were a token: such a job fails, and its row is wiped
        finite = np.isfinite(logprobs)
        over = stopped | (settings.position + 1 >= settings.max_tokens)
        for index in np.flatnonzero(over & finite):
            self.end(int(rows[index]), "stop" if stopped[index] else "length")
        if not finite.all():
            self._break(rows[~finite], FloatingPointError("the model's logits are not finite"))

    def _weigh(self, rows: IntArray, logits: Any) -> None:
        """Choose a whole reply for each row; its log-prob among the choices stands at its first token."""
        table = self._table
        requests = [self.running[int(row)].request for row in rows]
        choices = [request.choices or () for request in requests]
        scores = weigh(
            self._forward, table.tokens, rows, table.known[rows], choices, logits, self._vocabulary
        )
        broken = [not np.isfinite(of_row).all() for of_row in scores]
        for row, request, of_row, bad in zip(rows, requests, scores, broken, strict=True):
            if bad:
                continue
            at, logp = draw(of_row, request.sampling.temperature, request.seed)
            reply = (request.choices or ())[at]
            said = slice(int(table.known[row]), int(table.known[row]) + len(reply))
            table.tokens[row, said] = reply
            table.logprobs[row, said] = [logp] + [0.0] * (len(reply) - 1)
            table.known[row] = said.stop
            self.end(int(row), "stop")
        if any(broken):
            self._break(rows[broken], FloatingPointError("the model's logits are not finite"))

    def _says_stop(self, row: int) -> bool:
        """Whether the reply on a row ends with a stop string; each string is looked for in the last tokens alone."""
        job, known = self.running[row], int(self._table.known[row])
        sampling, start = job.request.sampling, len(job.prompt)
        if not sampling.stop or job.request.choices is not None or known - start < sampling.min_new_tokens:
            return False
        return self._stops.ends(self._table.tokens[row, start:known].tolist(), sampling.stop)

    def _break(self, rows: IntArray, error: Exception) -> None:
        """Fail the jobs on `rows` and forget their caches, which may hold anything."""
        import torch

        _LOG.warning("a forward pass over %d requests failed", len(rows), exc_info=error)
        for row in (row for row in map(int, rows) if row in self.running):  # others have their answer
            self.fail(row, error)
            self._table.drop(row)
            self._forward.clear(row)
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()

    def _break_all(self, error: Exception) -> None:
        """Fail every running job and give all memory back: resizing the cache stopped half-way."""
        self._forward.reset()
        self._break(np.array(sorted(self.running), np.int64), error)
        for row in range(self._table.rows):
            self._table.drop(row)

    def fail(self, row: int, error: Exception) -> None:
        """End a running job with an error."""
        self.ended.append(Outcome(self.running.pop(row), [], [], "abort", error))
        self._table.finish(row)
