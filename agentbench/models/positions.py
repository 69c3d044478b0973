"""Rotary embeddings that depend on the longest row of a call, and how long rows may be before they do.

`transformers` takes the factors of LongRoPE, and the base of dynamic NTK scaling, by the largest position in a call:
past a limit they change for *all* positions, so a row's log-probs would depend on the rows beside it, and its early
turns on how long it grew later. Below the limit both are ordinary. Leaves out what is done about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_KINDS = ("longrope", "su", "dynamic")


@dataclass(frozen=True)
class Rescaling:
    """Positions of a model that change in long calls.

    Attributes:
        kind: its rope_type.
        limit: most tokens in a row that leave every position as it is.
    """

    kind: str
    limit: int


def rescaling(config: Any) -> Rescaling | None:
    """Find out whether a model's positions are rescaled in long calls; None when they never are.

    Args:
        config: of the text model.
    """
    found = [Rescaling(kind, _limit(config, rope, kind)) for rope, kind in _ropes(config) if kind in _KINDS]
    return min(found, key=lambda rescaled: rescaled.limit, default=None)


def _ropes(config: Any) -> list[tuple[dict[str, Any], str]]:
    """Every rope dictionary of a configuration, with its kind: one, or one per type of layer; old spelling too."""
    tables: list[Any] = []
    for name in ("rope_parameters", "rope_scaling"):
        table = getattr(config, name, None)
        if isinstance(table, dict):
            tables += [table, *(inner for inner in table.values() if isinstance(inner, dict))]
    return [(table, str(table.get("rope_type") or table.get("type") or "")) for table in tables]


def _limit(config: Any, rope: dict[str, Any], kind: str) -> int:
    longest = getattr(config, "max_position_embeddings", None) or 2**31
    if kind == "dynamic":  # grows from the configured length on
        return int(longest)
    original = rope.get("original_max_position_embeddings")
    original = original or getattr(config, "original_max_position_embeddings", None)
    return int(original or longest)
