"""OPAD: on-policy distillation at single decisions (step-level sampling).

A plan in step mode: roots are played (by the student, by the expert as reference, or as recorded), the env is restored
at chosen turns, and the student samples its reply there; a frozen teacher's distribution is the target. Source:
MAD-OPD, arXiv:2605.01347, Eqs. 9-10, with one teacher and no debate (`mad_opd` has both).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan

from .base import Algorithm
from .decisions import DecisionConfig, chosen_divergence, count_states, decision_plan, require_recordings
from .objectives import FullVocabulary
from .preconditions import require_one_teacher
from .references import distributions
from .teachers.open import open_whole_teacher, require_whole


class OpadConfig(DecisionConfig):
    """Keys of `opad`, beside those of `DecisionConfig`.

    Attributes:
        step_reduce: "mean": every state is a sample of its own, as released; "sum": the states of an episode are added
            up, then mean over episodes, as the paper's formula says.
    """

    step_reduce: Literal["mean", "sum"] = "mean"


class Opad(Algorithm):
    """On-policy distillation at sampled decision states; see `OpadConfig`."""

    def __init__(self, run: TrainConfig, settings: OpadConfig) -> None:
        refuse(run, settings)
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
        states, roots = map(self.team.sum, count_states(groups))
        # the sum over M of an episode's states, from the mean over all states
        scale = states / max(1.0, roots) if self.settings.step_reduce == "sum" else 1.0
        objective = FullVocabulary(  # D(p(.|s_m), q(.|s_m))
            self.teacher,
            self.divergence,
            self.settings.beta,
            weight_BT=torch.full(batch.tokens_BT.shape, scale),
        )
        descent = self.descend(batch, objective, reduction=self.settings.reduction, step=step)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            columns={"divergence": descent.columns["divergence"]},
            figures={"states_per_root": states / max(1.0, roots)},
        )


def refuse(run: TrainConfig, settings: OpadConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run)
    require_whole(*run.teachers)
    require_recordings(run, settings)


SPEC = TrainerSpec(
    id="opad",
    reference=distributions.opad,
    config=OpadConfig,
    build=Opad,
    refuse=refuse,
    needs=frozenset({"teacher"}),
    replays=True,
    paper="OPAD in MAD-OPD, arXiv:2605.01347",
)
