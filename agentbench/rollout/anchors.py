"""Step-level sampling: which states of recorded episodes to branch from.

An anchor is (trajectory, turn): members of its group all start from the state that turn answered. Leaves out the
branching itself (`collect`, `rollout`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from ..errors import UsageError, unknown_name
from ..types import Trajectory, Turn
from .episode import Start

Rule = Callable[[Turn, int], float]


def _uniform(turn: Turn, length: int) -> float:
    return 1.0


def _late(turn: Turn, length: int) -> float:
    return (turn.index + 1) / length


def _uncertain(turn: Turn, length: int) -> float:
    said = turn.action.logprobs
    return -sum(said) / len(said) if said else 0.0


def _disagreement(turn: Turn, length: int) -> float:
    if "disagreement" not in turn.annotations:
        raise UsageError(
            "anchors by 'disagreement' need turns annotated by a trainer that measures it (atod); "
            "use 'uniform', 'late' or 'uncertain' with this one"
        )
    return turn.annotations["disagreement"]


ANCHOR_RULES: dict[str, Rule] = {
    "uniform": _uniform,
    "late": _late,
    "uncertain": _uncertain,
    "disagreement": _disagreement,
}
"""Weight of a turn: equal; growing with depth; mean negative log-prob of its tokens; a trainer's annotation."""


def pick_anchors(
    trajectories: Sequence[Trajectory], count: int, rule: str, seed: int, *, most: int | None = None
) -> list[Start]:
    """Draw anchors without repeating one, in proportion to the rule's weights.

    Args:
        trajectories: recorded episodes; those with infrastructure failures are passed over.
        count: anchors to draw; "every" ignores it and takes each turn once.
        rule: a name in `ANCHOR_RULES`, or "every".
        seed: of the draw.
        most: anchors of one trajectory at most; None sets no limit. With "every" a longer one keeps so many turns,
            drawn uniformly.
    Returns: at most `count` anchors, fewer when there are fewer turns.
    Raises: UnknownName: no such rule.
    """
    usable = [item for item in trajectories if item.ok]
    states = [(item, turn) for item in usable for turn in item.turns]
    rng = random.Random(seed)
    if rule == "every":
        kept = [item.turns if most is None else _some(item.turns, most, rng) for item in usable]
        return [Start(item, turn.index) for item, turns in zip(usable, kept, strict=True) for turn in turns]
    if rule not in ANCHOR_RULES:
        raise unknown_name("anchor rule", rule, [*ANCHOR_RULES, "every"])
    keyed: list[tuple[float, int, Start]] = []
    for item, turn in states:
        weight = ANCHOR_RULES[rule](turn, len(item.turns))
        draw = rng.random()
        # Weighted sampling without replacement: the largest draw**(1/weight) win (Efraimidis and Spirakis, 2006).
        keyed.append((draw ** (1 / weight) if weight > 0 else -1.0, len(keyed), Start(item, turn.index)))
    keyed.sort(key=lambda entry: entry[:2], reverse=True)
    starts = [start for key, _, start in keyed if key >= 0]
    return (starts if most is None else _at_most(starts, most))[:count]


def _some(turns: Sequence[Turn], most: int, rng: random.Random) -> list[Turn]:
    """Draw at most so many turns, in their order."""
    places = range(len(turns))
    return [turns[place] for place in sorted(rng.sample(places, min(most, len(turns))))]


def _at_most(starts: Sequence[Start], most: int) -> list[Start]:
    """Pass over anchors of trajectories that have their share already."""
    taken: Counter[str] = Counter()
    kept = []
    for start in starts:
        taken[start.trajectory.id] += 1
        if taken[start.trajectory.id] <= most:
            kept.append(start)
    return kept
