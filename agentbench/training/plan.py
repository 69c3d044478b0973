"""What a configuration would play, without playing it: the tasks of the first steps, and how much a whole run is.

The trainer is asked itself, so its models are opened as for training. Leaves out the episodes (`loop`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..env import EnvSpec
from ..evaluation.panels import load_panel
from ..trainer import Trainer
from ..types import Authors, Odds, RolloutPlan
from .check import check
from .config import TrainConfig
from .tasks import TaskOrder


def plan_lines(config: TrainConfig, steps: int) -> Iterator[str]:
    """Say which tasks the first steps play and who acts in them, then what the whole run comes to.

    Args:
        config: of a training run.
        steps: how many steps are told one by one.
    Raises: UsageError: the configuration cannot work.
    """
    spec, settings, env = check(config)
    trainer = spec.build(config.model_copy(update={"num_processes": 1}), settings)
    order = TaskOrder(env.tasks(config.env.split)[: config.env.num_tasks], config.seed)
    for step in range(min(steps, config.max_steps)):
        plan = trainer.plan(step)
        yield f"step {step + 1}: {_shape(plan, config, env)}"
        for number, task in enumerate(order.at(step * plan.groups, plan.groups)):
            yield f"  {task}{_who(plan, number, task)}"
    yield from _whole(config, env, trainer)


def _shape(plan: RolloutPlan, config: TrainConfig, env: EnvSpec) -> str:
    turns = plan.max_turns or config.env.max_turns or env.max_turns
    if plan.mode == "step":
        states = plan.groups * plan.anchors_per_root
        length = f"{plan.steps_per_member} turns" if plan.steps_per_member else "to the end"
        return (
            f"{plan.groups} roots of up to {turns} turns, {states} states drawn from them ({plan.anchors}), "
            f"{plan.members} branches each, {length}"
        )
    return f"{plan.groups} tasks × {plan.members} episodes of up to {turns} turns"


def _who(plan: RolloutPlan, number: int, task: str) -> str:
    """Who acts in a task's episodes, where it is not the student alone."""
    first = number * plan.members
    dealt = [
        plan.tasks.get(task, plan.authors[(first + member) % len(plan.authors)])
        for member in range(plan.members)
    ]
    named = list(dict.fromkeys(map(_hand_over, dealt)))
    labels = f", {plan.labels} asked on every turn" if plan.labels else ""
    return ("" if named == ["student"] else f"  by {'; '.join(named)}") + labels


def _hand_over(authors: Authors) -> str:
    named = [(turn, who if isinstance(who, str) else _odds(who)) for turn, who in authors]
    return ", ".join(name if turn == 0 else f"{name} from turn {turn + 1}" for turn, name in named)


def _odds(odds: Odds) -> str:
    total = sum(weight for _, weight in odds)
    return " or ".join(f"{name} ({weight / total:.0%})" for name, weight in odds)


def _whole(config: TrainConfig, env: EnvSpec, trainer: Trainer) -> Iterator[str]:
    episodes = replies = 0
    for step in range(config.max_steps):
        plan = trainer.plan(step)
        turns = plan.max_turns or config.env.max_turns or env.max_turns
        if plan.mode == "step":
            branches = plan.groups * plan.anchors_per_root * plan.members
            episodes += plan.groups + branches
            replies += plan.groups * turns + branches * (plan.steps_per_member or turns)
        else:
            episodes += plan.groups * plan.members
            replies += plan.groups * plan.members * turns
    tokens = replies * config.rollout.max_new_tokens
    yield f"{config.max_steps} steps: {episodes:,} episodes, at most {replies:,} replies and {tokens:,} sampled tokens"
    if config.eval is not None:
        every, last = config.eval.every, config.max_steps
        due = [0, *(step for step in range(1, last + 1) if step % every == 0 or step == last)]
        tasks = len(load_panel(config.eval.panel).resolve(env).tasks[: config.eval.limit])
        played = tasks * config.eval.repeats
        yield f"{len(due)} evaluations of {config.eval.panel}, {played} episodes each, after steps {_listed(due)}"


def _listed(steps: list[int]) -> str:
    names = [str(step) for step in steps]
    return ", ".join(names if len(names) < 12 else [*names[:4], "...", names[-1]])
