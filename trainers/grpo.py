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
from .preconditions import require_comparable, require_groups
from .references import sampled
from .surrogate import RELEASED, PolicyGradient, ReferenceConfig, episode_advantage, open_reference


class GrpoConfig(ReferenceConfig):
    """Keys of `grpo`: those of the surrogate, the group statistics and the reference."""


class Grpo(PolicyGradient):
    """Group-relative policy optimisation; see `GrpoConfig`."""

    settings: GrpoConfig

    def __init__(self, run: TrainConfig, settings: GrpoConfig) -> None:
        """Load the student, and its frozen initial copy when there is a penalty."""
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.reference = open_reference(run, settings, self.student)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step of the clipped surrogate on group-relative advantages."""
        batch = self.collate(groups)
        old = self.student.score(batch)
        reference_BT = None if self.reference is None else self.reference.score(batch).logp_BT
        episode = episode_advantage(batch, self.settings)  # A_i = (R_i - mean) / (std + eps), one per episode
        descent = self.ascend(
            batch,
            old,
            per_token(episode.value_X, batch.turn_BT),
            step=step,
            reference_BT=reference_BT,
            ref_kl_coef=self.settings.ref_kl_coef,
        )
        return self.report(
            step,
            batch,
            descent,
            old=old,
            episode=episode,
            columns={"advantage": episode.value_X},
            figures={} if reference_BT is None else {"reference_kl": old.logp_BT - reference_BT},
        )


def refuse(run: TrainConfig, settings: GrpoConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_groups(run)
    require_comparable(run, settings.importance_cap)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"trainer": {"group_stats": "trajectory", "reduction": "trajectory_mean", "ref_kl_coef": 0.04}},
    "released": RELEASED,
}


SPEC = TrainerSpec(
    id="grpo",
    reference=sampled.grpo,
    config=GrpoConfig,
    build=Grpo,
    refuse=refuse,
    presets=PRESETS,
    paper="GRPO, arXiv:2402.03300; verl-agent conventions, arXiv:2505.10978",
)
