"""OPAD: on-policy distillation at single decisions. States are drawn from episodes; the student decides anew in each.

A plan in step mode: roots are played (by the student, or by the expert as reference), the env is restored at chosen
turns, and the student samples its reply there; a frozen teacher's distribution is the target. Source: MAD-OPD,
arXiv:2605.01347, Eqs. 9-10, with one teacher and no debate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from agentbench.config import Section
from agentbench.registry import env_spec
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan

from .base import Algorithm
from .maths.divergences import Kind, check_kind
from .maths.reductions import Reduction
from .objectives import FullVocabulary
from .preconditions import require_one_teacher
from .references import distributions
from .teachers.open import open_whole_teacher


class OpadConfig(Section):
    """Keys of `opad`.

    Attributes:
        prefix: who plays up to the state: "onpolicy", the student itself, or "reference", the env's expert.
        anchors: which states of a root are drawn, see `agentbench.rollout.anchors`.
        states_per_episode: states drawn for each root, on average.
        steps: turns the student plays from a state; the paper scores one decision at a time.
        divergence: "auto" takes JSD where the env's replies are actions and reverse KL where they are programs
            (the paper's divergence principle).
        beta: weight of the teacher in "jsd".
        reduction: mean over a decision's tokens, summed over an episode's decisions, then mean.
    """

    prefix: Literal["onpolicy", "reference"] = "onpolicy"
    anchors: str = "uniform"
    states_per_episode: int = Field(default=1, ge=1)
    steps: int = Field(default=1, ge=1)
    divergence: Literal["auto"] | Kind = "auto"
    beta: float = 0.5
    reduction: Reduction = "turn_sum"

    @model_validator(mode="after")
    def _used(self) -> OpadConfig:
        if self.divergence != "auto":
            check_kind(self.divergence, self.beta)
        return self


class Opad(Algorithm):
    """On-policy distillation at sampled decision states; see `OpadConfig`."""

    def __init__(self, run: TrainConfig, settings: OpadConfig) -> None:
        require_one_teacher(run)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_whole_teacher(run.teachers[0], self.student)
        self.divergence: Kind = (
            _by_principle(run.env.name) if settings.divergence == "auto" else settings.divergence
        )

    def plan(self, step: int) -> RolloutPlan:
        """States drawn from roots, the student's decisions from there."""
        roots = (((0, "expert"),),) if self.settings.prefix == "reference" else None
        return replace(
            super().plan(step),
            mode="step",
            anchors=self.settings.anchors,
            anchors_per_root=self.settings.states_per_episode,
            roots=roots,
            steps_per_member=self.settings.steps,
        )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Lower the divergence at the decisions; turns before a state are context."""
        batch = self.collate(groups)
        old = self.probe(batch)
        objective = FullVocabulary(self.teacher, self.divergence, self.settings.beta)  # D(p(.|s_m), q(.|s_m))
        descent = self.descend(batch, objective, reduction=self.settings.reduction, step=step)  # sum over m
        return self.report(
            step, batch, descent, old=old, columns={"divergence": descent.columns["divergence"]}
        )


def _by_principle(env: str) -> Kind:
    """JSD keeps gradients bounded on drifted prefixes; reverse KL keeps to one implementation of a program."""
    return "reverse_kl" if env_spec(env).replies == "programs" else "jsd"


SPEC = TrainerSpec(
    id="opad",
    reference=distributions.opad,
    config=OpadConfig,
    build=Opad,
    needs=frozenset({"teacher"}),
    paper="OPAD in MAD-OPD, arXiv:2605.01347",
)
