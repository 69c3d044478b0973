"""Holds an algorithm's gradient against a plain reference and against itself, on the user's own student and teacher.

A small batch is played with the student, and the gradient of the first update on it is taken in float64, where no
rounding hides a mistake: against the algorithm's reference (`TrainerSpec.reference`), and with everything changed that
must not matter. Leaves out the references (each algorithm's package) and how gradients are taken (`Trainer.gradient`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import validate
from ..engine import TextEngine
from ..errors import ConfigError, UsageError
from ..registry import open_engine, trainer_spec
from ..rollout.collect import collect
from ..trainer import Trainer, TrainerSpec
from ..types import Failure, Group, Trajectory
from .authors import build_stage
from .check import check
from .config import SpeakerConfig, TeacherConfig, TrainConfig
from .loop import annotate
from .tasks import TaskOrder

TOLERANCE = 1e-5
"""Largest difference of two gradients of a parameter, as a share of the parameter's largest entry."""
_FLOOR = 1e-6
"""Parameters whose gradient is smaller than this share of the largest one are compared with that share of it."""
_WHOLE = 2**40

Gradient = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ObjectiveCheck:
    """One row of the table.

    Attributes:
        passed: None where it could not be made.
        deviation: largest difference of two gradients, relative to the parameter's largest entry.
        detail: the parameter it was found at, or why the check was left out.
    """

    name: str
    passed: bool | None
    deviation: float | None = None
    detail: str = ""


def small(config: TrainConfig) -> TrainConfig:
    """The same run made small and plain: two groups of two short episodes, one update, all weights, no clipping."""
    values = config.model_dump()
    values |= {
        "output_dir": "unused",
        "preset": None,
        "eval": None,
        "lora": None,
        "bf16": False,
        "fsdp": False,
        "num_processes": 1,
        "updates_per_step": 1,
        "rows_per_update": None,
        "max_grad_norm": 1e30,
        "tokens_per_micro_batch": _WHOLE,
        "report_to": (),
    }
    values["env"]["max_turns"] = min(config.env.max_turns or 4, 4)
    values["rollout"] |= {
        "tasks_per_step": 2,
        "group_size": min(config.rollout.group_size, 2),
        "max_new_tokens": min(config.rollout.max_new_tokens, 8),
    }
    return _with_brief_speakers(validate(TrainConfig, values))


def _with_brief_speakers(config: TrainConfig) -> TrainConfig:
    """Let teachers that speak say a few words; where the settings leave nobody to listen, a speaker is refused."""
    if "speaker" not in trainer_spec(config.algorithm).needs:
        return config
    given = [teacher.speaker or SpeakerConfig() for teacher in config.teachers]
    brief = [s.model_copy(update={"max_new_tokens": min(s.max_new_tokens, 8)}) for s in given]
    teachers = tuple(
        teacher.model_copy(update={"speaker": speaker})
        for teacher, speaker in zip(config.teachers, brief, strict=True)
    )
    made = config.model_copy(update={"teachers": teachers})
    try:
        check(made)
    except ConfigError:
        return config
    return made


def check_objective(
    config: TrainConfig, progress: Callable[[str], None] = lambda name: None
) -> list[ObjectiveCheck]:
    """Run every check; see `small` for what becomes of the configuration.

    Raises: UsageError: the configuration cannot work, or the algorithm's trainer gives no gradient.
    """
    config = small(config)
    spec, settings, _ = check(config)
    groups = with_rewards(play(config, spec, settings))
    bench = _Bench(config, spec, settings)
    progress("gradient")
    ours = bench.gradient(groups)
    checks = [_teaches(ours)]
    for name, check_of in _CHECKS.items():
        progress(name)
        checks.append(replace(check_of(bench, groups, ours), name=name))
    return checks


def play(config: TrainConfig, spec: TrainerSpec, settings: Any) -> list[Group]:
    """Play the episodes that the algorithm's plan asks for."""
    env = check(config)[2]
    trainer = spec.build(config, settings)
    engine = open_engine(config.rollout.engine, config.model_name_or_path, config.rollout.engine_options)
    if isinstance(engine, TextEngine):
        raise UsageError(
            f"engine {config.rollout.engine!r} gives text without token ids; use rollout.engine: hf"
        )
    try:
        plan = trainer.plan(0)
        tasks = env.tasks(config.env.split)[: config.env.num_tasks]
        order = TaskOrder(tasks, config.seed).at(0, plan.groups)
        stage = build_stage(config, env, trainer, engine, spec.authors)
        groups = collect(plan, stage, order, 0) if plan.groups else []
    finally:
        engine.close()
    broken = [member.error for group in groups for member in group.members if member.error is not None]
    if broken and not any(member.ok for group in groups for member in group.members):
        raise UsageError(f"every episode broke: {broken[0].type}: {broken[0].message}")
    return groups


def with_rewards(groups: Sequence[Group]) -> list[Group]:
    """Give members of a group the rewards 0 and 1 in turn: equal ones would leave nothing to compare."""
    return [_rewarded(group, lambda number: float(number % 2)) for group in groups]


def _rewarded(group: Group, reward: Callable[[int], float]) -> Group:
    members = []
    for number, member in enumerate(group.members):
        turns = [replace(turn, reward=0.0, penalty=0.0) for turn in member.turns]
        score = reward(number)
        if turns:
            turns[-1] = replace(turns[-1], reward=score)
        members.append(
            replace(member, turns=tuple(turns), score=score, success=score > 0 if member.ok else None)
        )
    return replace(group, members=tuple(members))


class _Bench:
    """Builds trainers of one configuration, each anew, in float64."""

    def __init__(self, config: TrainConfig, spec: TrainerSpec, settings: Any) -> None:
        self.config, self.spec, self.settings = config, spec, settings

    def changed(self, **changes: Any) -> TrainConfig:
        return self.config.model_copy(update=changes)

    def gradient(self, groups: Sequence[Group], **changes: Any) -> Gradient:
        """Of one update, with keys of the run changed."""
        with _double():
            trainer: Trainer = self.spec.build(self.changed(**changes), self.settings)
            take = getattr(trainer, "gradient", None)
            if take is None:
                raise UsageError(
                    f"the trainer of {self.spec.id!r} has no method gradient(groups), so its objective cannot be "
                    "looked at; derive it from agentbench.trainers.base.Algorithm, which has one"
                )
            with _silent():
                found: Gradient = take(groups)
        return found

    def read(self, groups: Sequence[Group], **changes: Any) -> list[Group]:
        """The groups with what teachers read in one update among the notes of their turns, as a run records it."""
        with _double(), _silent():
            trainer: Trainer = self.spec.build(self.changed(**changes), self.settings)
            episodes = {episode.id: episode for episode in annotate(groups, trainer.update(groups, 0))}
        return [
            replace(group, members=tuple(episodes[member.id] for member in group.members)) for group in groups
        ]

    def reference(self, groups: Sequence[Group], **changes: Any) -> Gradient | str:
        """The reference's gradient, or why there is none."""
        if self.spec.reference is None:
            return "this algorithm has no reference; only what must not matter was changed"
        try:
            with _double():
                read = self.read(groups, **changes)
                found: Gradient = self.spec.reference(self.changed(**changes), self.settings, read)
        except NotImplementedError as error:
            return f"the reference does not cover {error}"
        return found


@contextmanager
def _silent() -> Iterator[None]:
    """Without a run's warnings: a batch of a few tokens made for a check is no run."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _double() -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- the checks -------------------------------------------------------------------------------------------------------


def _teaches(ours: Gradient) -> ObjectiveCheck:
    size = _size(ours)
    detail = "" if size > 0 else "every gradient is zero: nothing below says anything"
    return ObjectiveCheck("the batch teaches", size > 0 and np.isfinite(size), None, detail)


def _reference(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    found = bench.reference(groups)
    return ObjectiveCheck("", None, detail=found) if isinstance(found, str) else compare(ours, found)


def _at_rest(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    """A teacher equal to the student, and equal rewards, leave nothing to learn, where the reference says so."""
    if not bench.config.teachers:
        return ObjectiveCheck("", None, detail="the algorithm has no teacher")
    same = tuple(
        TeacherConfig(model_name_or_path=bench.config.model_name_or_path, speaker=teacher.speaker)
        for teacher in bench.config.teachers
    )
    equal = [_rewarded(group, lambda number: 0.0) for group in groups]
    said = bench.reference(equal, teachers=same)
    if isinstance(said, str):
        return ObjectiveCheck("", None, detail=said)
    limit = TOLERANCE * _size(ours)
    if _size(said) > limit:
        return ObjectiveCheck("", None, detail="the method's own formula is not zero here")
    found = _size(bench.gradient(equal, teachers=same))
    return ObjectiveCheck("", found <= limit, found / max(_size(ours), 1e-300))


def _alone(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    return compare(bench.gradient(groups, tokens_per_micro_batch=1), ours)


def _split(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    rows = [_tokens(member) for group in groups for member in group.members]
    return compare(bench.gradient(groups, tokens_per_micro_batch=max(1, sum(rows) // 2)), ours)


def _order(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    if not groups:
        return ObjectiveCheck("", None, detail="the algorithm plays no episodes")
    turned = [replace(group, members=tuple(reversed(group.members))) for group in reversed(groups)]
    return compare(bench.gradient(turned), ours)


def _mask(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    """What is recorded of turns before a group's anchor is context: who said it, and how likely, must not matter."""
    anchored = [replace(group, anchor=max(group.anchor, 1)) for group in groups]
    if not groups or any(len(member.turns) <= group.anchor for group in anchored for member in group.members):
        return ObjectiveCheck("", None, detail="an episode has too few turns to keep one as context")

    def altered(member: Trajectory) -> Trajectory:
        first = member.turns[0]
        said = replace(first.action, logprobs=(-50.0,) * len(first.action.token_ids), author="someone")
        return replace(member, turns=(replace(first, action=said), *member.turns[1:]))

    changed = [replace(group, members=tuple(map(altered, group.members))) for group in anchored]
    return compare(bench.gradient(changed), bench.gradient(anchored))


def _broken(bench: _Bench, groups: Sequence[Group], ours: Gradient) -> ObjectiveCheck:
    """An episode that its infrastructure broke counts nowhere."""
    if not groups:
        return ObjectiveCheck("", None, detail="the algorithm plays no episodes")
    first = groups[0]
    lost = replace(
        first.members[0],
        id=f"{first.members[0].id}/broken",
        success=None,
        end="error",
        error=Failure("Broken", "made up by check-objective", "env"),
    )
    return compare(bench.gradient([replace(first, members=(*first.members, lost)), *groups[1:]]), ours)


_CHECKS: dict[str, Callable[[_Bench, Sequence[Group], Gradient], ObjectiveCheck]] = {
    "float64 reference": _reference,
    "teacher = student": _at_rest,
    "padding": _alone,
    "micro-batches": _split,
    "row order": _order,
    "mask": _mask,
    "broken episodes": _broken,
}


def compare(ours: Gradient, theirs: Gradient) -> ObjectiveCheck:
    """Compare two gradients parameter by parameter, relative to the largest entry of each."""
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())[0]
        return ObjectiveCheck("", False, None, f"parameter {odd!r} is in one of the gradients only")
    floor, worst, where = _FLOOR * _size(theirs), 0.0, ""
    for name, expected in theirs.items():
        scale = max(float(np.abs(expected).max(initial=0.0)), floor, 1e-300)
        gap = float(np.abs(ours[name] - expected).max(initial=0.0)) / scale
        if not gap <= worst:  # a NaN is the worst
            worst, where = gap, name
            if gap != gap:
                break
    return ObjectiveCheck("", worst <= TOLERANCE, worst, where)


def _size(gradient: Gradient) -> float:
    return max((float(np.abs(values).max(initial=0.0)) for values in gradient.values()), default=0.0)


def _tokens(member: Trajectory) -> int:
    return sum(len(turn.context_ids) + len(turn.action.token_ids) for turn in member.turns)
