"""ATOD: distillation that fades into reinforcement, weighted by turns.

Turns count more where student and teacher disagree or the student is unsure. OPD and GRPO are limiting cases.
Source: Annealed Turn-aware On-policy Distillation, arXiv:2606.27814.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .batch.tables import Batch
from .maths.schedules import ScheduleConfig, from_config
from .maths.turn_weights import (
    DisagreementUncertainty,
    TurnStatistics,
    disagreement_uncertainty,
    token_disagreement_uncertainty,
    turn_statistics,
)
from .maths.turns import per_token
from .preconditions import require_groups, require_sampled_distillation
from .references import sampled
from .student.student import Scores
from .surrogate import (
    EpisodeAdvantageConfig,
    SampledDistillation,
    SampledDistillationConfig,
    episode_advantage,
)


class AtodConfig(EpisodeAdvantageConfig, SampledDistillationConfig):
    """Keys of `atod`; schedules are a number or {kind, ...}, see `schedules`.

    Attributes:
        kappa: coefficient of the distillation advantage.
        rho: coefficient of the episode advantage.
        weights: "turn" (T-DUR), its "token" ablation, or "none".
        min_turns, min_gap, smoothing, mean_preserving, signal: see `turn_weights.DisagreementUncertainty`.
        first_step: s of the first update in the schedules: 0, or 1 as in the released code.
    """

    kappa: ScheduleConfig = Field(
        default_factory=lambda: {"kind": "linear", "start": 1.0, "end": 0.1, "steps": 80}
    )
    rho: ScheduleConfig = Field(
        default_factory=lambda: {"kind": "linear", "start": 1.0, "end": 2.0, "steps": 80}
    )
    weights: Literal["turn", "token", "none"] = "turn"
    min_turns: int = Field(default=3, ge=1)
    min_gap: float = Field(default=0.01, ge=0)
    smoothing: float = Field(default=0.0, ge=0, le=1)
    mean_preserving: bool = False
    signal: Literal["both", "disagreement", "uncertainty"] = "both"
    first_step: Literal[0, 1] = 0

    @model_validator(mode="after")
    def _used(self) -> AtodConfig:
        """Refuse schedules that make no sense and switches that would be ignored."""
        from_config(self.kappa), from_config(self.rho)
        switches = {"min_turns", "min_gap", "smoothing", "mean_preserving", "signal"} & self.model_fields_set
        if self.weights == "none" and switches:
            raise ValueError(f"{sorted(switches)[0]!r} is not used with weights 'none'; remove it")
        if self.weights == "token" and switches & {"min_turns", "mean_preserving"}:
            raise ValueError(
                "'min_turns' and 'mean_preserving' are not used with weights 'token'; remove them"
            )
        return self


class Atod(SampledDistillation):
    """Annealed turn-aware on-policy distillation; see `AtodConfig`."""

    settings: AtodConfig

    def __init__(self, run: TrainConfig, settings: AtodConfig) -> None:
        refuse(run, settings)
        super().__init__(run, settings)
        self.kappa, self.rho = self.schedule("kappa", settings.kappa), self.schedule("rho", settings.rho)
        self.switches = DisagreementUncertainty(
            min_turns=settings.min_turns,
            min_gap=settings.min_gap,
            smoothing=settings.smoothing,
            mean_preserving=settings.mean_preserving,
            signal=settings.signal,
        )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One iteration of the paper's algorithm box, after the rollout."""
        s = step + self.settings.first_step
        batch = self.collate(groups)
        old = self.student.score(batch)  # log q(y_t), entropy
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        turns = turn_statistics(old.logp_BT, teacher_BT, batch.turn_BT, batch.turns)  # d_k, h_k
        weight_BT, active = self._weights(batch, old, teacher_BT, turns)  # w_k = 1 - (1 - d_k)(1 - h_k)
        gap_BT = self.gap(teacher_BT, old.logp_BT, batch.turn_BT)
        distil_BT = self.kappa(s) * (weight_BT * gap_BT)  # kappa(s) w_k A_OPD
        episode = episode_advantage(batch, self.settings)  # A_GRPO
        reward_BT = self.rho(s) * per_token(episode.value_X, batch.turn_BT)  # rho(s) A_GRPO
        advantage_BT = distil_BT + reward_BT  # A_t = kappa(s) w_k A_OPD + rho(s) A_GRPO
        descent = self.ascend(batch, old, advantage_BT, step=step)  # Eq. 4
        return self.report(
            step,
            batch,
            descent,
            old=old,
            teacher_BT=teacher_BT,
            episode=episode,
            columns={
                "disagreement": turns.disagreement_N,
                "uncertainty": turns.uncertainty_N,
                "advantage": advantage_BT,
                **({} if self.settings.weights == "none" else {"weight": weight_BT}),
            },
            figures={
                "kappa": self.kappa(s),
                "rho": self.rho(s),
                # the paper's health figure: distillation outweighs reward early and is outweighed late
                "advantage_distillation": distil_BT.abs(),
                "advantage_reward": reward_BT.abs(),
                **active,
            },
        )

    def _weights(
        self, batch: Batch, old: Scores, teacher_BT: Tensor, turns: TurnStatistics
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """T-DUR: weight of each token's turn, d and h min-max normalised inside the trajectory; and a figure of it."""
        if self.settings.weights == "none":
            return torch.ones_like(teacher_BT), {}
        if self.settings.weights == "token":
            return token_disagreement_uncertainty(
                old.logp_BT, teacher_BT, batch.turn_BT, self.switches, everyone=self.team.concatenate
            ), {}
        weights = disagreement_uncertainty(turns, batch.traj_N, len(batch.ids_M), self.switches)
        return per_token(weights.weight_N, batch.turn_BT), {
            "weights_active_share": weights.active_M[batch.ok_M]
        }


def refuse(run: TrainConfig, settings: AtodConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_sampled_distillation(run, settings)
    require_groups(run)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "trainer": {
            "group_stats": "trajectory",
            "reduction": "trajectory_mean",
            "min_turns": 1,
            "min_gap": 0.0,
        }
    },
    "released": {
        "rows_per_update": 256,
        "trainer": {
            "group_stats": "turn",
            "reduction": "token_mean",
            "min_turns": 3,
            "min_gap": 0.01,
            "dual_clip": 3.0,
            "entropy_coef": 0.001,
            "first_step": 1,
        },
    },
}


SPEC = TrainerSpec(
    id="atod",
    reference=sampled.atod,
    config=AtodConfig,
    build=Atod,
    refuse=refuse,
    presets=PRESETS,
    needs=frozenset({"teacher"}),
    paper="ATOD, arXiv:2606.27814",
)
