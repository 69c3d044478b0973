"""GiGPO: GRPO's episode advantage plus a step advantage among turns that started from the same observation.

Source: Group-in-Group Policy Optimization, arXiv:2505.10978. Leaves out grouping by similar observations; anchors are
exact.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from agentbench.trainer import TrainerSpec
from agentbench.training.config import TrainConfig

from .batch.tables import Batch
from .figures.meters import Meters
from .grpo import Grpo, GrpoConfig, refuse
from .maths.advantages import step_centred
from .surrogate import episode_advantage, measure_groups


class GigpoConfig(GrpoConfig):
    """Keys of `gigpo`, beside those of `grpo`.

    Attributes:
        step_weight: of the step advantage.
        gamma: discount per turn of the returns that are compared.
        divide_by_std: of both advantages; the two published normalisations.
    """

    step_weight: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=0.95, ge=0, le=1)


class Gigpo(Grpo):
    """GRPO with step advantages; see `GigpoConfig`."""

    settings: GigpoConfig

    def __init__(self, run: TrainConfig, settings: GigpoConfig) -> None:
        """Load the student, and its frozen initial copy when there is a penalty."""
        super().__init__(run, settings)
        self.settings = settings

    def advantage(self, batch: Batch, meters: Meters) -> Tensor:
        """A = A_episode + w A_step, per turn."""
        episode = episode_advantage(batch, self.settings)
        measure_groups(meters, episode, batch)
        # Departure: an invalid reply's penalty is part of its turn's reward and so, discounted, of earlier returns;
        # verl-agent subtracts it from the return of its own turn only.
        step = step_centred(
            batch.reward_N,
            batch.traj_N,
            batch.index_N,
            batch.anchor_N,
            batch.group_M,
            batch.ok_M,
            gamma=self.settings.gamma,
            divide_by_std=self.settings.divide_by_std,
        )
        healthy_N = batch.ok_M[batch.traj_N]
        pairs_N2 = torch.stack([batch.group_M[batch.traj_N], batch.anchor_N], dim=1)[healthy_N]
        _, size_A = torch.unique(pairs_N2, dim=0, return_counts=True)
        meters.mean("anchor_size", size_A)
        meters.mean("anchor_singleton_share", size_A == 1)
        meters.mean("step_advantage", step.value_X.abs(), healthy_N)
        return episode.value_X + self.settings.step_weight * step.value_X


def build(run: TrainConfig, settings: GigpoConfig) -> Gigpo:
    """Make the trainer."""
    return Gigpo(run, settings)


SPEC = TrainerSpec(
    id="gigpo", config=GigpoConfig, build=build, refuse=refuse, paper="GiGPO, arXiv:2505.10978"
)
