"""OPAD: on-policy distillation at single decisions. States are drawn from episodes; the student decides anew in each.

A plan in step mode: roots are played (by the student, or by the expert as reference), the env is restored at chosen
turns, and the student samples its reply there; a frozen teacher's distribution is the target. Source: MAD-OPD,
arXiv:2605.01347, Eqs. 9-10, with one teacher and no debate (`mad_opd` has both).
"""

from __future__ import annotations

from collections.abc import Sequence

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan

from .base import Algorithm
from .decisions import DecisionConfig, chosen_divergence, decision_plan
from .objectives import FullVocabulary
from .preconditions import require_one_teacher
from .teachers.open import open_whole_teacher


class OpadConfig(DecisionConfig):
    """Keys of `opad`: those of `DecisionConfig`."""


class Opad(Algorithm):
    """On-policy distillation at sampled decision states; see `OpadConfig`."""

    def __init__(self, run: TrainConfig, settings: OpadConfig) -> None:
        require_one_teacher(run)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_whole_teacher(run.teachers[0], self.student)
        self.divergence = chosen_divergence(run.env.name, settings)

    def plan(self, step: int) -> RolloutPlan:
        """States drawn from roots, the student's decisions from there."""
        return decision_plan(super().plan(step), self.settings)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Lower the divergence at the decisions; turns before a state are context."""
        batch = self.collate(groups)
        old = self.probe(batch)
        objective = FullVocabulary(self.teacher, self.divergence, self.settings.beta)  # D(p(.|s_m), q(.|s_m))
        descent = self.descend(batch, objective, reduction=self.settings.reduction, step=step)  # sum over m
        return self.report(
            step, batch, descent, old=old, columns={"divergence": descent.columns["divergence"]}
        )


SPEC = TrainerSpec(
    id="opad",
    config=OpadConfig,
    build=Opad,
    needs=frozenset({"teacher"}),
    paper="OPAD in MAD-OPD, arXiv:2605.01347",
)
