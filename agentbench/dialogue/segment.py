"""Turn segmentation: a trajectory as append-only token rows with a turn id for every token.

A new row starts wherever a prompt did not extend the tokens on record, so the two layouts of the field (one fresh
prompt per turn, one growing conversation) are the same thing here. Leaves out batching (`trainers.batch`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..types import Trajectory

CONTEXT = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """One token row.

    Attributes:
        token_ids: [T].
        turn_ids: [T]; index of the turn that sampled the token, -1 on context.
        logprobs: [T] nats, behaviour log-prob of the token; 0.0 on context.
    """

    token_ids: list[int]
    turn_ids: list[int]
    logprobs: list[float]


def segment(trajectory: Trajectory, keep: Collection[int] | None = None) -> list[Segment]:
    """Cut a trajectory into token rows.

    Args:
        trajectory: with token ids; turns of text-only authors contribute nothing.
        keep: turn indices whose tokens may be trained on; others become context. None keeps all.
    Returns: rows in order; a row without any kept token is left out.
    """
    rows: list[Segment] = []
    for turn in trajectory.turns:
        if turn.fresh or not rows:
            rows.append(Segment([], [], []))
        row = rows[-1]
        said = turn.action.token_ids
        kept = keep is None or turn.index in keep
        row.token_ids.extend(turn.context_ids)
        row.turn_ids.extend([CONTEXT] * len(turn.context_ids))
        row.logprobs.extend([0.0] * len(turn.context_ids))
        row.token_ids.extend(said)
        row.turn_ids.extend([turn.index if kept else CONTEXT] * len(said))
        row.logprobs.extend(turn.action.logprobs if kept else [0.0] * len(said))
    return [row for row in rows if any(turn != CONTEXT for turn in row.turn_ids)]
