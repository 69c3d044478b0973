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
from .preconditions import require_comparable, require_groups
from .references import sampled
from .surrogate import RELEASED, PolicyGradient, ReferenceConfig, episode_advantage, open_reference


class GigpoConfig(ReferenceConfig):
    """Keys of `gigpo`, beside those of `grpo`.

    Attributes:
        step_weight: of the step advantage.
        gamma: discount per turn of the returns that are compared.
        divide_by_std: of both advantages; the two published normalisations.
    """

    step_weight: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=0.95, ge=0, le=1)


class Gigpo(PolicyGradient):
    """GRPO with step advantages; see `GigpoConfig`."""

    settings: GigpoConfig

    def __init__(self, run: TrainConfig, settings: GigpoConfig) -> None:
        """Load the student, and its frozen initial copy when there is a penalty."""
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.reference = open_reference(run, settings, self.student)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step of the clipped surrogate on episode and step advantages."""
        batch = self.collate(groups)
        old = self.student.score(batch)
        reference_BT = None if self.reference is None else self.reference.score(batch).logp_BT
        episode = episode_advantage(batch, self.settings)  # A_E
        step_N = self._step_advantage(batch)  # A_S
        advantage_N = episode.value_X + self.settings.step_weight * step_N  # A = A_E + w A_S, Eq. 8
        descent = self.ascend(
            batch,
            old,
            per_token(advantage_N, batch.turn_BT),
            step=step,
            reference_BT=reference_BT,
            ref_kl_coef=self.settings.ref_kl_coef,
        )
        figures = {} if reference_BT is None else {"reference_kl": old.logp_BT - reference_BT}
        return self.report(
            step,
            batch,
            descent,
            old=old,
            episode=episode,
            columns={"advantage": advantage_N},
            figures={**figures, **_anchor_figures(batch, step_N)},
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


def refuse(run: TrainConfig, settings: GigpoConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_groups(run)
    require_comparable(run, settings.importance_cap)


SPEC = TrainerSpec(
    id="gigpo",
    reference=sampled.gigpo,
    config=GigpoConfig,
    build=Gigpo,
    refuse=refuse,
    presets={"released": RELEASED},
    paper="GiGPO, arXiv:2505.10978",
)
