"""What keeps a run from being a full, scored evaluation, in words: they stand wherever its numbers are shown.

Leaves out the numbers (`summary`) and the pages that show both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CorruptData
from ..foreign import shortened
from ..types import Trajectory
from .folder import CONFIG, run_config
from .own import Planned

if TYPE_CHECKING:
    from .summary import Summary


@dataclass(frozen=True, slots=True)
class Losses:
    """Episodes on record that are not scored.

    Attributes:
        missing: tasks whose data is corrupt, sorted.
        broken: the other infrastructure failures.
        error_rate: share of `broken` in the episodes that had data.
    """

    missing: tuple[str, ...]
    broken: tuple[Trajectory, ...]
    error_rate: float


def losses(episodes: Sequence[Trajectory]) -> Losses:
    """Tell apart, among the episodes on record, what could not be played and what broke."""
    missing = {item.task for item in episodes if _is_missing(item)}
    broken = tuple(item for item in episodes if not item.ok and not _is_missing(item))
    sound = sum(item.ok for item in episodes)
    rate = len(broken) / (len(broken) + sound) if broken else 0.0
    return Losses(tuple(sorted(missing)), broken, rate)


def remarks(summary: Summary) -> tuple[str, ...]:
    """Everything that a reader of a run's numbers has to know: of its panel, its reach, its data."""
    said = [*summary.plan.banners, *shortfalls(summary)]
    if summary.missing:
        names = ", ".join(summary.missing)
        said.append(f"{len(summary.missing)} tasks could not be played, their data is corrupt: {names}")
    return tuple(said)


def shortfalls(summary: Summary) -> tuple[str, ...]:
    """One sentence for each reason for which a run falls short; () where it does not."""
    return _sentences(summary.planned, summary.recorded, summary.error_rate, summary.max_error_rate)


def shortfalls_of(run: Path, plan: Planned, episodes: Sequence[Trajectory]) -> tuple[str, ...]:
    """The same of a run folder whose episodes were read already; nothing is computed from them."""
    planned, rate = plan.tasks * plan.repeats, losses(episodes).error_rate
    return _sentences(planned, len(episodes), rate, error_limit(run))


def _sentences(planned: int, recorded: int, error_rate: float, max_error_rate: float) -> tuple[str, ...]:
    said = []
    if recorded < planned:
        said.append(f"incomplete: {recorded} of {planned} episodes are on record (--resume goes on)")
    if error_rate > max_error_rate:
        said.append(
            f"headline withheld: {100 * error_rate:.1f} % of the episodes broke, "
            f"{100 * max_error_rate:.1f} % are allowed (--max-error-rate)"
        )
    return tuple(said)


def error_limit(run: Path) -> float:
    """The share of errors that a run allows.

    Raises: MissingData: it has no config.yaml. CorruptData: that holds no number.
    """
    limit = run_config(run).get("max_error_rate", 0.01)
    if not isinstance(limit, int | float):
        raise CorruptData(f"{run / CONFIG}: max_error_rate is {shortened(limit)}, no number")
    return float(limit)


def _is_missing(episode: Trajectory) -> bool:
    """Tell whether an episode could not be played because its data is corrupt."""
    return episode.error is not None and episode.error.type == "CorruptData"
