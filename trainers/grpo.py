"""GRPO for agents: every episode is compared with the others of its task, and all its tokens share the verdict.

Source: arXiv:2402.03300, with the conventions of verl-agent for multi-turn episodes (one sample per turn).
Leaves out credit for single steps (`gigpo`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TeacherConfig, TrainConfig
from agentbench.types import Group

from .advantages import GroupStats, Standardised, group_centred
from .base import Algorithm
from .batch import Batch
from .meters import Meters
from .surrogate import SurrogateConfig, descend_surrogate, require_comparable
from .teachers import LocalTeacher
from .turn_weights import per_token


class EpisodeAdvantageConfig(SurrogateConfig):
    """Keys of every method with a group-relative episode advantage.

    Attributes:
        group_stats: "turn": mean and std over all turns of the group, so longer episodes weigh more (the frameworks
            and the published runs); "trajectory": every episode counts once (the papers' formula).
        divide_by_std: off leaves the distance from the mean.
    """

    group_stats: GroupStats = "turn"
    divide_by_std: bool = True


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
        require_groups(run)
        require_comparable(run, settings)
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


def episode_advantage(batch: Batch, settings: EpisodeAdvantageConfig) -> Standardised:
    """Compare each episode's reward with its group's, per turn.

    With group_stats "turn" the penalty of an invalid reply lowers its own turn only, as in verl-agent; with
    "trajectory" it is part of the episode's reward.
    """
    table = (batch.group_M, batch.ok_M, batch.traj_N)
    if settings.group_stats == "trajectory":
        return group_centred(batch.score_M, *table, stats="trajectory", divide_by_std=settings.divide_by_std)
    free_M = batch.score_M.index_add(0, batch.traj_N, batch.penalty_N)
    return group_centred(
        free_M, *table, stats="turn", divide_by_std=settings.divide_by_std, penalty_N=batch.penalty_N
    )


def measure_groups(meters: Meters, episode: Standardised, batch: Batch) -> None:
    """Report how many groups teach nothing, and the size of the advantages."""
    meters.mean("zero_variance_share", 1.0 * episode.flat / max(1, episode.buckets))
    meters.mean("episode_advantage", episode.value_X.abs(), batch.ok_M[batch.traj_N])


def require_groups(run: TrainConfig) -> None:
    """Refuse groups of one: nothing to compare with."""
    if run.rollout.group_size < 2:
        raise UsageError(
            f"{run.algorithm} compares the episodes of one task; rollout.group_size is {run.rollout.group_size}, "
            "use 2 or more"
        )


def build(run: TrainConfig, settings: GrpoConfig) -> Grpo:
    """Make the trainer."""
    return Grpo(run, settings)


SPEC = TrainerSpec(
    id="grpo",
    config=GrpoConfig,
    build=build,
    paper="GRPO, arXiv:2402.03300; verl-agent conventions, arXiv:2505.10978",
)
