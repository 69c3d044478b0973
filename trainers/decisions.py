"""Decisions as samples: the states at which a student decides anew, and the divergence that suits its replies.

Source: OPAD in MAD-OPD, arXiv:2605.01347, Eqs. 9-10 and the divergence principle. Leaves out who teaches there (`opad`,
`mad_opd`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from agentbench.config import Section
from agentbench.errors import ConfigError
from agentbench.registry import env_spec
from agentbench.training.config import TrainConfig
from agentbench.types import REPLAY, Group, RolloutPlan

from .maths.divergences import Kind, check_kind
from .maths.reductions import Reduction

_AUTHORS = {"onpolicy": "student", "reference": "expert", "replay": REPLAY}


class DecisionConfig(Section):
    """Keys of the algorithms that learn from decisions.

    Attributes:
        prefix: who plays up to the state: "onpolicy", the student itself; "reference", the env's expert; "replay", the
            recorded episode of the task (`rollout.recordings`).
        anchors: which states of a root are drawn, see `agentbench.rollout.anchors`.
        states_per_episode: states drawn for each root, on average; anchors "every" takes all of them.
        most_states: states of one root at most, to bound the cost of long episodes; None sets no limit.
        steps: turns the student plays from a state; the paper scores one decision at a time.
        divergence: "auto" takes JSD where the env's replies are actions and reverse KL where they are programs
            (the paper's divergence principle).
        beta: weight of the teacher in "jsd".
        reduction: mean over a decision's tokens, summed over an episode's decisions, then mean.
    """

    prefix: Literal["onpolicy", "reference", "replay"] = "onpolicy"
    anchors: str = "uniform"
    states_per_episode: int = Field(default=1, ge=1)
    most_states: int | None = Field(default=None, ge=1)
    steps: int = Field(default=1, ge=1)
    divergence: Literal["auto"] | Kind = "auto"
    beta: float = 0.5
    reduction: Reduction = "turn_sum"

    @model_validator(mode="after")
    def _divergence(self) -> DecisionConfig:
        if self.divergence != "auto":
            check_kind(self.divergence, self.beta)
        if self.divergence in ("forward_kl", "reverse_kl") and "beta" in self.model_fields_set:
            raise ValueError("'beta' is used by divergence 'jsd' only; remove it")
        return self


def require_recordings(run: TrainConfig, settings: DecisionConfig) -> None:
    """Refuse a replayed prefix without recordings, and recordings that no prefix replays."""
    if (settings.prefix == "replay") != (run.rollout.recordings is not None):
        raise ConfigError(
            f"trainer.prefix = {settings.prefix!r} and rollout.recordings = {run.rollout.recordings!r} do not go "
            "together: prefix 'replay' needs recorded episodes (agentbench eval writes them), and the others use none"
        )


def decision_plan(whole: RolloutPlan, settings: DecisionConfig) -> RolloutPlan:
    """States drawn from the episodes of a plan, and the student's decisions from there."""
    return replace(
        whole,
        mode="step",
        anchors=settings.anchors,
        anchors_per_root=settings.states_per_episode,
        most_per_root=settings.most_states,
        roots=(((0, _AUTHORS[settings.prefix]),),),
        steps_per_member=settings.steps,
    )


def count_states(groups: Sequence[Group]) -> tuple[int, int]:
    """Number of states decided in, and of the episodes they were drawn from; a whole episode is its own root."""
    drawn = {
        (member.parent.trajectory if member.parent else member.id, group.anchor)
        for group in groups
        for member in group.members
        if member.ok
    }
    return len(drawn), len({root for root, _ in drawn})


def chosen_divergence(env: str, settings: DecisionConfig) -> Kind:
    """JSD keeps gradients bounded on drifted prefixes; reverse KL keeps to one implementation of a program."""
    if settings.divergence != "auto":
        return settings.divergence
    return "reverse_kl" if env_spec(env).replies == "programs" else "jsd"
