"""Which records belong to a run: the episodes it set out to play, and no others. Computes no numbers (`summary`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ..errors import CorruptData
from ..foreign import shortened
from ..types import Trajectory, episode_seed
from .episodes import EPISODES, read_episodes
from .files import read_json
from .folder import CONFIG, VERSIONS, run_config


class Planned(Protocol):
    """What of an assignment says which episodes belong to it."""

    @property
    def id(self) -> str: ...
    @property
    def env(self) -> str: ...
    @property
    def tasks(self) -> int: ...
    @property
    def repeats(self) -> int: ...


def require_ours(
    episodes: Iterable[Trajectory],
    plan: Planned,
    where: Path,
    *,
    tasks: Iterable[str] | None,
    seed: int | None,
) -> None:
    """Refuse records that the run did not set out to make: lines of another run would be counted in silence.

    Args:
        episodes: as read from `where`.
        plan: what the run set out to play.
        where: named in the message.
        tasks: ids the run plays; None knows their number alone.
        seed: of the run; None is not known.
    Raises: CorruptData: names the first episode that is foreign and why.
    """
    listed = None if tasks is None else set(tasks)
    seen: set[str] = set()
    yes_no: set[bool] = set()
    for item in episodes:
        seen.add(item.task)
        problem = ""
        if item.env != plan.env:
            problem = f"is of env {item.env!r}, the run plays {plan.env!r}"
        elif (listed is not None and item.task not in listed) or len(seen) > plan.tasks:
            problem = f"is of no task of {plan.id}"
        elif not 0 <= item.repeat < plan.repeats:
            problem = f"is repeat {item.repeat} of {plan.repeats}"
        elif seed is not None and item.seed != episode_seed(seed, item.env, item.task, item.repeat):
            problem = f"has seed {item.seed}, which does not follow from the run's seed {seed}"
        elif item.ok and len(yes_no | {item.success is None}) > 1:
            problem = "has success null where others of the run have yes or no, or the reverse"
        if problem:
            raise CorruptData(
                f"{where}: the episode of task {shortened(item.task)} (repeat {item.repeat}) {problem}; "
                "it does not belong to this run, remove its line"
            )
        yes_no |= {item.success is None} if item.ok else set()


def read_run(run: Path, plan: Planned) -> list[Trajectory]:
    """Read the episodes of a run folder, all of them its own.

    Raises: MissingData, CorruptData: see `read_episodes` and `require_ours`.
    """
    episodes = read_episodes(run)
    tasks, seed = read_json(run / VERSIONS).get("tasks"), None
    if (run / CONFIG).exists():
        seed = run_config(run).get("seed", 0)
    if tasks is not None and not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
        raise CorruptData(f"{run / VERSIONS}: tasks must be a list of ids")
    require_ours(episodes, plan, run / EPISODES, tasks=tasks, seed=seed if type(seed) is int else None)
    return episodes
