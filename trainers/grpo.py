"""GRPO for agents: every episode is compared with the others of its task, and all its tokens share the verdict.

Source: arXiv:2402.03300, with the conventions of verl-agent for multi-turn episodes (one sample per turn).
Leaves out credit for single steps (`gigpo`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .maths.turns import per_token
from .preconditions import require_rewards
from .references import sampled
from .surrogate import RELEASED, ReferenceConfig, Referenced, episode_advantage


class GrpoConfig(ReferenceConfig):
    """Keys of `grpo`: those of the surrogate, the group statistics and the reference."""


class Grpo(Referenced):
    """Group-relative policy optimisation; see `GrpoConfig`."""

    def __init__(self, run: TrainConfig, settings: GrpoConfig) -> None:
        require_rewards(run, settings)
        super().__init__(run, settings)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step of the clipped surrogate on group-relative advantages."""
        batch = self.collate(groups)
        old = self.student.score(batch)
        penalty, distance = self.held(batch, old)
        episode = episode_advantage(batch, self.settings)  # A_i = (R_i - mean) / (std + eps), one per episode
        advantage_BT = per_token(episode.value_X, batch.turn_BT)
        descent = self.ascend(batch, old, advantage_BT, step=step, beside=penalty)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            episode=episode,
            columns={"advantage": episode.value_X},
            figures=distance,
        )


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"trainer": {"group_stats": "trajectory", "reduction": "trajectory_mean", "ref_kl_coef": 0.04}},
    "released": RELEASED,
}


SPEC = TrainerSpec(
    id="grpo",
    reference=sampled.grpo,
    config=GrpoConfig,
    build=Grpo,
    refuse=require_rewards,
    presets=PRESETS,
    paper="GRPO, arXiv:2402.03300; verl-agent conventions, arXiv:2505.10978",
)
