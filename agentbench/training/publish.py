"""Hands new weights to the engine, and checks that it answers with them.

An engine may load weights without an error and still answer with old ones: a packed copy of a tied head, a stale prefix
cache. So after every push both sides score the same replies. Two precisions never agree quite, and how far they are
apart depends on the model; therefore it is measured once before the first update, when both sides hold the same
weights by construction, and afterwards only growth counts. Leaves out how weights travel (each engine's business).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..dialogue.segment import CONTEXT, segment
from ..engine import Engine, Scorer
from ..errors import TrainingError
from ..trainer import Trainer
from ..types import Group

PROBE_ROWS = 4
"""Rows that are scored, at most; among several processes, in each."""

PROBE_TOKENS = 512
"""A row is scored from this many tokens before its last reply's end; what both sides do not see cannot part them."""

START_FACTOR = 10.0
"""Before the first update the two may be this many times `tolerance` apart: other weights are nats apart."""

STEADY = 2.0
"""What was measured at the start is a mean over some hundred tokens, and varies from step to step."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Tokens [T] to be scored.

    Attributes:
        looked_at: positions of the tokens that count, never 0.
        own: whether the student said these; others' are weighted.
    """

    token_ids: list[int]
    looked_at: list[int]
    own: bool


class Publisher:
    """Pushes weights to an engine and looks whether they arrived.

    Attributes:
        start: mean absolute difference of log-probs over replies before the first update, in nats a token; None where
            nobody has looked.
    """

    def __init__(self, engine: Engine, trainer: Trainer, tolerance: float | None) -> None:
        """Bind the two sides.

        Args:
            engine: receives the weights; one that cannot score tokens is not checked.
            trainer: every process must make the same calls, and all pass a tolerance or none does.
            tolerance: how far the two may come apart, in nats a token, on top of what their precisions explain; None
                does not look.
        """
        self.engine, self.trainer, self.tolerance = engine, trainer, tolerance
        self.start: float | None = None

    def before(self, groups: Sequence[Group], step: int) -> None:
        """Measure, at the first call alone, how far the two sides are apart while they hold the same weights.

        Args:
            groups: episodes of this step, of which replies are the probe.
            step: named in the error.
        Raises: TrainingError: they are so far apart that they cannot hold the same weights.
        """
        if self.tolerance is None or self.start is not None or not isinstance(self.engine, Scorer):
            return
        gap = self._gap(groups)
        allowed = START_FACTOR * self.tolerance
        if not gap <= allowed:  # NaN is no agreement
            raise TrainingError(
                f"step {step}: before any update, engine {self._name} gives log-probs {gap:.3g} nats a token away from "
                f"the trainer's ({allowed:.3g} are allowed, {START_FACTOR:.0f} times rollout.publish_tolerance): it "
                "answers with another model, or in a much lower precision. See that both load the same weights"
            )
        self.start = gap

    def push(self, groups: Sequence[Group], step: int) -> float | None:
        """Load the trainer's weights into the engine and compare the two.

        Args:
            groups: episodes of this step, of which replies are the probe.
            step: named in the error.
        Returns: mean absolute difference of log-probs in nats a token, or None where nobody looked.
        Raises: TrainingError: the engine does not answer with the trainer's weights.
        """
        self.engine.load_weights(self.trainer.weights())
        if self.tolerance is None or not isinstance(self.engine, Scorer):
            return None
        gap, start = self._gap(groups), self.start or 0.0
        if not gap <= STEADY * start + self.tolerance:
            raise TrainingError(
                f"step {step}: after its weights were updated, engine {self._name} gives log-probs {gap:.3g} nats a "
                f"token away from the trainer's, and {start:.3g} before the first update (allowed: {STEADY:.0f} times "
                f"that, and rollout.publish_tolerance {self.tolerance}): it does not answer with the new weights. The "
                "last checkpoint is intact; try engine: hf"
            )
        return gap

    @property
    def _name(self) -> str:
        return repr(self.engine.info.get("name"))

    def _gap(self, groups: Sequence[Group]) -> float:
        scorer: Any = self.engine
        apart = weight = 0.0
        rows = _probe(self.engine, groups)
        if self.trainer.team.count > 1:  # sharded trainers run together, so each must score as many rows
            rows = [rows[place % len(rows)] for place in range(PROBE_ROWS)]
        for row in rows:
            trained = self.trainer.score_tokens(row.token_ids)
            served = scorer.score(row.token_ids)
            for at in row.looked_at:
                # of words that the student would not say, the log-prob is uncertain in low precision; weighted by their
                # probability, they tell the same as words that it did say
                counts = 1.0 if row.own else math.exp(min(0.0, trained[at - 1]))
                apart += counts * abs(trained[at - 1] - served[at - 1])
                weight += counts
        return apart / weight if weight else 0.0


def _probe(engine: Engine, groups: Sequence[Group]) -> list[_Row]:
    """The rows with most words of the student, else of others; text where there are none."""
    rows: list[_Row] = []
    for member in (member for group in groups for member in group.members):
        own = {turn.index for turn in member.turns if turn.action.author == "student"}
        for piece in segment(member):
            end = 1 + max(at for at, turn in enumerate(piece.turn_ids) if turn != CONTEXT)
            window = slice(max(0, end - min(PROBE_TOKENS, engine.max_context - 1)), end)
            turns = piece.turn_ids[window]
            said = [at for at, turn in enumerate(turns) if at and turn != CONTEXT]
            mine = [at for at in said if turns[at] in own]
            if said:
                rows.append(_Row(piece.token_ids[window], mine or said, own=bool(mine)))
    rows = sorted(rows, key=lambda row: (not row.own, -len(row.looked_at)))
    rows = [row for row in rows if row.own == rows[0].own][:PROBE_ROWS]
    if not rows:
        ids = engine.tokenizer.encode("0 1 2 3 4 5 6 7", add_special_tokens=False)
        rows = [_Row(ids, list(range(1, len(ids))), own=False)]
    return rows
