"""Guided OPD: on some turns a guide acts in the student's place, and is imitated there; its share fades.

A weak student's own episodes are mostly states that nobody should be in. The guide, the teacher or the env's expert,
keeps them on the way: whoever acts, the reply enters the history that both go on from. Source: Guided-OPD,
arXiv:2606.15912. Leaves out a guide that acts on the student's reply (UOPD).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.engine import TextEngine
from agentbench.errors import ConfigError
from agentbench.policy import Policy
from agentbench.registry import open_engine
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.authors import Voice
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan

from .batch.tables import collate
from .maths.schedules import ScheduleConfig, from_config
from .preconditions import require_sampled_distillation
from .references import sampled
from .surrogate import SampledDistillation, SampledDistillationConfig


class GuidedOpdConfig(SampledDistillationConfig):
    """Keys of `guided-opd`, beside those of the surrogate.

    Attributes:
        guide: who acts beside the student: the first "teacher", or the run's "expert" (`rollout.demonstrator`).
        beta: probability that the guide acts on a turn, a schedule.
        coef: multiplies the distillation advantage of the student's turns.
        imitation: multiplies the cross-entropy on the guide's turns.
        engine, engine_options: of the guide "teacher", a second copy of it that speaks.
    """

    guide: Literal["teacher", "expert"] = "teacher"
    beta: ScheduleConfig = Field(
        default_factory=lambda: {"kind": "cosine", "start": 1.0, "end": 0.0, "steps": 200}
    )
    coef: float = Field(default=1.0, gt=0)
    imitation: float = Field(default=1.0, gt=0)
    engine: str = "hf"
    engine_options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _used(self) -> GuidedOpdConfig:
        from_config(self.beta)
        for key in sorted({"engine", "engine_options"} & self.model_fields_set):
            if self.guide != "teacher":
                raise ValueError(f"{key!r} is used by guide 'teacher' only; remove it")
        return self


class GuidedOpd(SampledDistillation):
    """On-policy distillation with a guide on some turns; see `GuidedOpdConfig`."""

    settings: GuidedOpdConfig

    def __init__(self, run: TrainConfig, settings: GuidedOpdConfig) -> None:
        require_sampled_distillation(run, settings)
        super().__init__(run, settings)
        self.beta = self.schedule("beta", settings.beta)

    def plan(self, step: int) -> RolloutPlan:
        """Whole episodes; on every turn the guide acts with probability beta(s), else the student."""
        beta = min(1.0, max(0.0, self.beta(step)))
        return replace(
            super().plan(step), authors=(((0, ((self.settings.guide, beta), ("student", 1.0 - beta))),),)
        )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Sampled reverse KL on the student's turns, cross-entropy on the guide's, under one denominator."""
        guide = self.settings.guide
        batch = collate(groups, self.student.pad_id, ("student", guide))
        said_N = torch.tensor([author == guide for author in batch.author_N], dtype=torch.bool)
        guided_BT = batch.mask_BT & said_N[batch.turn_BT.clamp(min=0)] if len(said_N) else batch.mask_BT
        own = replace(batch, turn_BT=torch.where(guided_BT, -1, batch.turn_BT))
        old = self.student.score(batch)  # log q(y_t)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        # A_t = c (log p - log q) on the student's turns
        advantage_BT = self.settings.coef * self.gap(teacher_BT, old.logp_BT, own.turn_BT)
        imitated_BT = self.settings.imitation * guided_BT  # -log q(y_t) on the guide's
        descent = self.ascend(batch, old, advantage_BT, step=step, imitated_BT=imitated_BT)
        return self.report(
            step,
            own,
            descent,
            old=old,
            teacher_BT=teacher_BT,
            columns={"advantage": advantage_BT},
            figures={
                "beta": self.beta(step),
                "imitated_share": 1.0 * guided_BT[batch.mask_BT],  # of the trained tokens
                **_success(groups, guide),
            },
        )


def _success(groups: Sequence[Group], guide: str) -> dict[str, Tensor | float]:
    """Success apart for the episodes in which the guide acted and those that are the student's alone."""
    found: dict[str, list[float]] = {"success_guided": [], "success_alone": []}
    for member in (member for group in groups for member in group.members):
        if member.success is not None:
            helped = any(turn.action.author == guide for turn in member.turns)
            found["success_guided" if helped else "success_alone"].append(float(member.success))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def authors(trainer: GuidedOpd, voice: Voice) -> Mapping[str, Policy]:
    """The teacher as an author: it speaks in the student's prompt, nothing added."""
    settings = trainer.settings
    if settings.guide != "teacher":
        return {}
    engine = open_engine(settings.engine, trainer.run.teachers[0].model_name_or_path, settings.engine_options)
    if isinstance(engine, TextEngine):
        raise ConfigError(f"trainer.engine = {settings.engine!r} gives no token ids, which imitation needs")
    return {"teacher": voice.model(engine, "teacher")}


SPEC = TrainerSpec(
    id="guided-opd",
    reference=sampled.guided_opd,
    config=GuidedOpdConfig,
    build=GuidedOpd,
    refuse=require_sampled_distillation,
    needs=frozenset({"teacher"}),
    authors=authors,
    paper="Guided-OPD, arXiv:2606.15912",
)
