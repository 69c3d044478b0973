"""GRPO for agents: every episode is compared with the others of its task, and all its tokens share the verdict.

Source: arXiv:2402.03300, with the conventions of verl-agent for multi-turn episodes (one sample per turn).
Leaves out credit for single steps (`gigpo`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TeacherConfig, TrainConfig
from agentbench.types import Group

from .base import Algorithm
from .batch.tables import Batch
from .figures.meters import Meters
from .maths.turns import per_token
from .preconditions import require_comparable, require_groups
from .surrogate import EpisodeAdvantageConfig, descend_surrogate, episode_advantage, measure_groups
from .teachers.local import LocalTeacher


class GrpoConfig(EpisodeAdvantageConfig):
    """Keys of `grpo`.

    Attributes:
        ref_kl_coef: weight of the penalty on leaving the initial model; 0 loads no reference.
    """

    ref_kl_coef: float = Field(default=0.01, ge=0)


class Grpo(Algorithm):
    """Group-relative policy optimisation; see `GrpoConfig`."""

    def __init__(self, run: TrainConfig, settings: GrpoConfig) -> None:
        """Load the student, and its frozen initial copy when there is a penalty."""
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.reference: LocalTeacher | None = None
        if settings.ref_kl_coef > 0.0:
            self.reference = LocalTeacher(
                TeacherConfig(model_name_or_path=run.model_name_or_path), self.student
            )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step of the clipped surrogate on group-relative advantages."""
        batch = self.collate(groups)
        old = self.student.score(batch)
        meters = self.measure(batch)
        self.measure_student(meters, batch, old)
        advantage_N = self.advantage(batch, meters)
        reference_BT = self.reference.score(batch).logp_BT if self.reference is not None else None
        if reference_BT is not None:
            gap_BT = old.logp_BT - reference_BT
            meters.mean("reference_kl", gap_BT, batch.mask_BT)
        descent = descend_surrogate(
            self,
            self.settings,
            batch,
            old,
            per_token(advantage_N, batch.turn_BT),
            step=step,
            meters=meters,
            reference_BT=reference_BT,
            ref_kl_coef=self.settings.ref_kl_coef,
        )
        return self.report(meters, descent, step, batch.columns(advantage=advantage_N))

    def advantage(self, batch: Batch, meters: Meters) -> Tensor:
        """A_i = (R_i - mean) / (std + eps), one value per episode, copied to its turns."""
        episode = episode_advantage(batch, self.settings)
        measure_groups(meters, episode, batch)
        return episode.value_X


def refuse(run: TrainConfig, settings: GrpoConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_groups(run)
    require_comparable(run, settings.importance_cap)


def build(run: TrainConfig, settings: GrpoConfig) -> Grpo:
    """Make the trainer."""
    return Grpo(run, settings)


SPEC = TrainerSpec(
    id="grpo",
    config=GrpoConfig,
    build=build,
    refuse=refuse,
    paper="GRPO, arXiv:2402.03300; verl-agent conventions, arXiv:2505.10978",
)
