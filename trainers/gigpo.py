"""GiGPO: GRPO's episode advantage plus a step advantage among turns that started from the same observation.

Source: Group-in-Group Policy Optimization, arXiv:2505.10978. Leaves out grouping by similar observations; anchors are
exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .batch.tables import Batch
from .maths.advantages import step_centred
from .maths.turns import per_token
from .preconditions import require_rewards
from .references import sampled
from .surrogate import RELEASED, ReferenceConfig, Referenced, episode_advantage


class GigpoConfig(ReferenceConfig):
    """Keys of `gigpo`, beside those of `grpo`.

    Attributes:
        step_weight: of the step advantage.
        gamma: discount per turn of the returns that are compared.
        divide_by_std: of both advantages; the two published normalisations.
    """

    step_weight: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=0.95, ge=0, le=1)


class Gigpo(Referenced):
    """GRPO with step advantages; see `GigpoConfig`."""

    settings: GigpoConfig

    def __init__(self, run: TrainConfig, settings: GigpoConfig) -> None:
        require_rewards(run, settings)
        super().__init__(run, settings)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step of the clipped surrogate on episode and step advantages."""
        batch = self.collate(groups)
        old = self.student.score(batch)
        penalty, distance = self.held(batch, old)
        episode = episode_advantage(batch, self.settings)  # A_E
        step_N = self._step_advantage(batch)  # A_S
        advantage_N = episode.value_X + self.settings.step_weight * step_N  # A = A_E + w A_S, Eq. 8
        advantage_BT = per_token(advantage_N, batch.turn_BT)
        descent = self.ascend(batch, old, advantage_BT, step=step, beside=penalty)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            episode=episode,
            columns={"advantage": advantage_N},
            figures={**distance, **_anchor_figures(batch, step_N)},
        )

    def _step_advantage(self, batch: Batch) -> Tensor:
        """Compare the discounted return of each turn with those of the turns that share its anchor."""
        # Departure: an invalid reply's penalty is part of its turn's reward and so, discounted, of earlier returns;
        # verl-agent subtracts it from the return of its own turn only.
        return step_centred(
            batch.reward_N,
            batch.traj_N,
            batch.index_N,
            batch.anchor_N,
            batch.group_M,
            batch.ok_M,
            gamma=self.settings.gamma,
            divide_by_std=self.settings.divide_by_std,
        ).value_X


def _anchor_figures(batch: Batch, step_N: Tensor) -> dict[str, Tensor]:
    """How large the groups of equal observations are: singletons teach nothing."""
    healthy_N = batch.ok_M[batch.traj_N]
    pairs_N2 = torch.stack([batch.group_M[batch.traj_N], batch.anchor_N], dim=1)[healthy_N]
    _, size_A = torch.unique(pairs_N2, dim=0, return_counts=True)
    return {
        "anchor_size": size_A,
        "anchor_singleton_share": size_A == 1,
        "step_advantage": step_N.abs()[healthy_N],
    }


SPEC = TrainerSpec(
    id="gigpo",
    reference=sampled.gigpo,
    config=GigpoConfig,
    build=Gigpo,
    refuse=require_rewards,
    presets={"released": RELEASED},
    paper="GiGPO, arXiv:2505.10978",
)
