"""OPAD: on-policy distillation at single decisions. States are drawn from episodes; the student decides anew in each.

A plan in step mode: roots are played (by the student, or by the expert as reference), the env is restored at chosen
turns, and the student samples its reply there; a frozen teacher's distribution is the target. Source: MAD-OPD,
arXiv:2605.01347, Eqs. 9-10, with one teacher and no debate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator

from agentbench.config import Section
from agentbench.errors import ConfigError
from agentbench.registry import env_spec
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import REPLAY, Group, RolloutPlan

from .base import Algorithm
from .maths.divergences import Kind, check_kind
from .objectives import FullVocabulary
from .preconditions import require_one_teacher
from .teachers.open import open_whole_teacher


class OpadConfig(Section):
    """Keys of `opad`.

    Attributes:
        prefix: who plays up to the state: "onpolicy", the student itself; "reference", the env's expert; "replay", the
            recorded episode of the task (`rollout.recordings`).
        anchors: which states of a root are drawn, see `agentbench.rollout.anchors`.
        states_per_episode: states drawn for each root, on average; "every" takes all of them.
        most_states: states of one root at most, to bound the cost of long episodes; None sets no limit.
        steps: turns the student plays from a state; the paper scores one decision at a time.
        divergence: "auto" takes JSD where the env's replies are actions and reverse KL where they are programs
            (the paper's divergence principle).
        beta: weight of the teacher in "jsd".
        step_reduce: after the mean over a decision's tokens: "mean" over all decisions of the step, as released,
            or the "sum" over an episode's decisions, then mean over episodes, as the paper's formula says.
    """

    prefix: Literal["onpolicy", "reference", "replay"] = "onpolicy"
    anchors: str = "uniform"
    states_per_episode: int = Field(default=1, ge=1)
    most_states: int | None = Field(default=None, ge=1)
    steps: int = Field(default=1, ge=1)
    divergence: Literal["auto"] | Kind = "auto"
    beta: float = 0.5
    step_reduce: Literal["mean", "sum"] = "mean"

    @model_validator(mode="after")
    def _used(self) -> OpadConfig:
        if self.divergence != "auto":
            check_kind(self.divergence, self.beta)
        return self


class Opad(Algorithm):
    """On-policy distillation at sampled decision states; see `OpadConfig`."""

    def __init__(self, run: TrainConfig, settings: OpadConfig) -> None:
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_whole_teacher(run.teachers[0], self.student)
        self.divergence: Kind = (
            _by_principle(run.env.name) if settings.divergence == "auto" else settings.divergence
        )

    def plan(self, step: int) -> RolloutPlan:
        """States drawn from roots, the student's decisions from there."""
        authors = {"onpolicy": "student", "reference": "expert", "replay": REPLAY}
        return replace(
            super().plan(step),
            mode="step",
            anchors=self.settings.anchors,
            anchors_per_root=self.settings.states_per_episode,
            most_per_root=self.settings.most_states,
            roots=(((0, authors[self.settings.prefix]),),),
            steps_per_member=self.settings.steps,
        )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Lower the divergence at the decisions; turns before a state are context."""
        batch = self.collate(groups)
        old = self.probe(batch)
        weight_BT = torch.full(batch.tokens_BT.shape, self._decisions(groups))
        objective = FullVocabulary(  # D(p(.|s_m), q(.|s_m))
            self.teacher, self.divergence, self.settings.beta, weight_BT=weight_BT
        )
        descent = self.descend(batch, objective, reduction="turn_mean", step=step)  # mean or sum over m
        return self.report(
            step, batch, descent, old=old, columns={"divergence": descent.columns["divergence"]}
        )

    def _decisions(self, groups: Sequence[Group]) -> float:
        """M: decisions of an episode on average over all processes, which makes a sum of the mean over decisions."""
        if self.settings.step_reduce == "mean":
            return 1.0
        made = [
            (member.parent.trajectory if member.parent else member.id, turn.index)
            for group in groups
            for member in group.members
            if member.ok
            for turn in member.turns[group.anchor :]
        ]
        decisions, roots = len(set(made)), len({root for root, _ in made})
        return self.team.sum(decisions) / max(1.0, self.team.sum(roots))


def refuse(run: TrainConfig, settings: OpadConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run)
    if (settings.prefix == "replay") != (run.rollout.recordings is not None):
        raise ConfigError(
            f"trainer.prefix = {settings.prefix!r} and rollout.recordings = {run.rollout.recordings!r} do not go "
            "together: prefix 'replay' needs recorded episodes (agentbench eval writes them), and the others use none"
        )


def _by_principle(env: str) -> Kind:
    """JSD keeps gradients bounded on drifted prefixes; reverse KL keeps to one implementation of a program."""
    return "reverse_kl" if env_spec(env).replies == "programs" else "jsd"


SPEC = TrainerSpec(
    id="opad",
    config=OpadConfig,
    build=Opad,
    refuse=refuse,
    needs=frozenset({"teacher"}),
    replays=True,
    paper="OPAD in MAD-OPD, arXiv:2605.01347",
)
