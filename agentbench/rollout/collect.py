"""Carries out a RolloutPlan: names the episodes, runs them, and hands them back in groups.

Leaves out which tasks a step plays (`training.tasks`) and what is learnt from them (`trainers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..env import EnvSpec
from ..errors import UsageError
from ..policy import InstantPolicy, Policy
from ..types import REPLAY, Group, RolloutPlan, Trajectory, authors_in, derive_seed
from .anchors import pick_anchors
from .episode import Episode, Limits, Start
from .schedule import run_episodes


@dataclass(frozen=True)
class Stage:
    """Where plans are carried out; the same for a whole run.

    Attributes:
        spec: the environment.
        policies: author name -> policy.
        labeller: asked for a label on every turn when the plan wants labels.
        seed: of the run.
        recordings: task -> the episode that the author "replay" says again.
    """

    spec: EnvSpec
    policies: Mapping[str, Policy]
    seed: int
    concurrency: int = 64
    limits: Limits = field(default_factory=Limits)
    env_options: Mapping[str, Any] = field(default_factory=dict)
    labeller: InstantPolicy | None = None
    recordings: Mapping[str, Trajectory] = field(default_factory=dict)


def collect(plan: RolloutPlan, stage: Stage, tasks: Sequence[str], step: int, first: int = 0) -> list[Group]:
    """Run the episodes of one step.

    Args:
        plan: what the algorithm asks for.
        stage: env, policies and limits.
        tasks: one per group, in order; they decide the groups' keys.
        step: number of the step; with the run's seed it decides everything random.
        first: number of the first group, when several processes share a step's groups.
    Returns: groups in the order of `tasks` (episode mode) or of the anchors drawn (step mode).
    Raises: UsageError: the number of tasks is not the number of groups.
    """
    if len(tasks) != plan.groups:
        raise UsageError(f"the plan has {plan.groups} groups but {len(tasks)} tasks were given")
    if plan.mode == "episode":
        return _run(plan, stage, [(task, None) for task in tasks], step, plan.members, "", first)
    rooted = plan if plan.roots is None else replace(plan, authors=plan.roots, tasks={})
    roots = [
        member
        for group in _run(rooted, stage, [(task, None) for task in tasks], step, 1, "root-", first)
        for member in group.members
    ]
    wanted = plan.groups * plan.anchors_per_root
    draw = derive_seed(stage.seed, step, "anchors", first)
    anchors = pick_anchors(roots, wanted, plan.anchors, draw, most=plan.most_per_root)
    starts = [(start.trajectory.task, start) for start in anchors]
    # "every" may give a root as many anchors as it may have turns; numbers of other processes lie beyond them
    per_root = plan.max_turns or stage.spec.max_turns if plan.anchors == "every" else plan.anchors_per_root
    return _run(plan, stage, starts, step, plan.members, "", first * per_root)


def _run(
    plan: RolloutPlan,
    stage: Stage,
    starts: Sequence[tuple[str, Start | None]],
    step: int,
    members: int,
    prefix: str,
    first: int,
) -> list[Group]:
    episodes: list[Episode] = []
    keys: list[list[str]] = []
    for number, (task, start) in enumerate(starts, start=first):
        keys.append([f"{prefix}{step}/{number}/{member}" for member in range(members)])
        for member, key in enumerate(keys[-1]):
            episodes.append(_episode(plan, stage, task, start, step, number, member, key))
    done: dict[str, Trajectory] = {}
    labeller = stage.labeller if plan.labels else None
    for trajectory in run_episodes(
        episodes,
        stage.policies,
        concurrency=stage.concurrency,
        limits=stage.limits,
        env_options=stage.env_options,
        labeller=labeller,
    ):
        done[trajectory.id] = trajectory
    return [
        Group(
            key=task if start is None else f"{task}@{start.trajectory.id}:{start.turn}",
            anchor=0 if start is None else start.turn,
            members=tuple(done[key] for key in names),
        )
        for (task, start), names in zip(starts, keys, strict=True)
    ]


def _episode(
    plan: RolloutPlan,
    stage: Stage,
    task: str,
    start: Start | None,
    step: int,
    number: int,
    member: int,
    key: str,
) -> Episode:
    max_turns = plan.max_turns
    if start is not None and plan.steps_per_member is not None:
        whole = max_turns or stage.spec.max_turns
        max_turns = min(whole, start.turn + plan.steps_per_member)
    authors = plan.tasks.get(task, plan.authors[(number * plan.members + member) % len(plan.authors)])
    # A fork replays its root, so it needs the root's env seed; likewise whoever says a recording again.
    shared = derive_seed(stage.seed, step, number) if start is None else start.trajectory.seed
    if start is None and REPLAY in authors_in(authors):
        recorded = _recorded(stage, task)
        shared = recorded.seed
        if authors_in(authors) == {REPLAY}:  # nobody goes on where the recording ends
            whole = max_turns or stage.spec.max_turns
            max_turns = min(whole, len(recorded.turns))
    return Episode(
        spec=stage.spec,
        task=task,
        seed=shared,
        sampling_seed=derive_seed(stage.seed, step, key),
        repeat=member,
        id=key,
        authors=authors,
        start=start,
        max_turns=max_turns,
    )


def _recorded(stage: Stage, task: str) -> Trajectory:
    if task not in stage.recordings:
        raise UsageError(
            f"task {task!r} has no recorded episode to replay; recorded are {len(stage.recordings)} tasks "
            "(rollout.recordings). Record the tasks of the run (agentbench eval), or play fewer of them (env.num_tasks)"
        )
    return stage.recordings[task]
