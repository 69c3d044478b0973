"""SOD: step-wise on-policy distillation. Turns on which the teacher disagrees more than on the first count less.

Late turns of an agent lie in states that its own mistakes brought about, where the teacher's word is worth less: the
opposite of ATOD's weights. Source: SOD, arXiv:2605.07725, with its group-relative episode advantage beside.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .maths.advantages import sampled_distillation
from .maths.turn_weights import stepwise_damping, turn_statistics
from .maths.turns import per_token
from .preconditions import require_comparable, require_groups, require_one_teacher, require_plain_sampling
from .references import sampled
from .surrogate import EpisodeAdvantageConfig, PolicyGradient, episode_advantage
from .teachers.open import open_teacher


class SodConfig(EpisodeAdvantageConfig):
    """Keys of `sod`, beside those of the surrogate and the group statistics.

    Attributes:
        coef: c, multiplies the distillation advantage.
        delta: a turn's weight is at most 1 + delta.
        reward: whether the episode advantage is added; off leaves step-wise distillation alone.
        gap_clip: bound on the absolute log-ratio of a sampled token; None leaves it free.
        clip_high: 0.28, as released.
    """

    coef: float = Field(default=1.0, gt=0)
    delta: float = Field(default=0.2, ge=0)
    reward: bool = True
    gap_clip: float | None = Field(default=None, gt=0)
    clip_high: float | None = Field(default=0.28, gt=0)


class Sod(PolicyGradient):
    """Step-wise on-policy distillation; see `SodConfig`."""

    settings: SodConfig

    def __init__(self, run: TrainConfig, settings: SodConfig) -> None:
        require_one_teacher(run)
        require_plain_sampling(run)
        require_comparable(run, settings.importance_cap)
        if settings.reward:
            require_groups(run)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_teacher(run.teachers[0], self.student)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One iteration of the paper's algorithm, after the rollout."""
        settings = self.settings
        batch = self.collate(groups)
        old = self.student.score(batch)  # log q(y_t)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        turns = turn_statistics(old.logp_BT, teacher_BT, batch.turn_BT, batch.turns)  # d_k
        weight_N = stepwise_damping(turns, batch.traj_N, batch.index_N, delta=settings.delta)  # w_k
        weight_BT = per_token(weight_N, batch.turn_BT)
        gap_BT = sampled_distillation(teacher_BT, old.logp_BT, batch.turn_BT, clip=settings.gap_clip)
        advantage_BT = settings.coef * (weight_BT * gap_BT)  # c w_k (log p - log q)
        episode = episode_advantage(batch, settings) if settings.reward else None
        if episode is not None:
            advantage_BT = advantage_BT + per_token(episode.value_X, batch.turn_BT)  # A = A_GRPO + ...
        descent = self.ascend(batch, old, advantage_BT, step=step)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            teacher_BT=teacher_BT,
            episode=episode,
            columns={"disagreement": turns.disagreement_N, "weight": weight_BT, "advantage": advantage_BT},
            figures={"weights_at_limit_share": 1.0 * (weight_N >= 1.0 + settings.delta)},
        )


SPEC = TrainerSpec(
    id="sod",
    reference=sampled.sod,
    config=SodConfig,
    build=Sod,
    needs=frozenset({"teacher"}),
    paper="SOD, arXiv:2605.07725",
    presets={
        "paper": {"trainer": {"coef": 1.0, "delta": 0.2, "reward": True, "clip": 0.2, "clip_high": 0.28}}
    },
)
