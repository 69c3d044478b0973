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

from .maths.turn_weights import stepwise_damping, turn_statistics
from .maths.turns import per_token
from .preconditions import require_groups, require_sampled_distillation
from .references import sampled
from .surrogate import (
    EpisodeAdvantageConfig,
    SampledDistillation,
    SampledDistillationConfig,
    episode_advantage,
)


class SodConfig(EpisodeAdvantageConfig, SampledDistillationConfig):
    """Keys of `sod`, beside those of the surrogate and the group statistics.

    Attributes:
        coef: c, multiplies the distillation advantage.
        delta: a turn's weight is at most 1 + delta.
        reward: whether the episode advantage is added; off leaves step-wise distillation alone.
        clip_high: 0.28, as released.
    """

    coef: float = Field(default=1.0, gt=0)
    delta: float = Field(default=0.2, ge=0)
    reward: bool = True
    clip_high: float | None = Field(default=0.28, gt=0)


class Sod(SampledDistillation):
    """Step-wise on-policy distillation; see `SodConfig`."""

    settings: SodConfig

    def __init__(self, run: TrainConfig, settings: SodConfig) -> None:
        refuse(run, settings)
        super().__init__(run, settings)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One iteration of the paper's algorithm, after the rollout."""
        settings = self.settings
        batch = self.collate(groups)
        old = self.student.score(batch)  # log q(y_t)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        turns = turn_statistics(old.logp_BT, teacher_BT, batch.turn_BT, batch.turns)  # d_k
        weight_N = stepwise_damping(turns, batch.traj_N, batch.index_N, delta=settings.delta)  # w_k
        weight_BT = per_token(weight_N, batch.turn_BT)
        gap_BT = self.gap(teacher_BT, old.logp_BT, batch.turn_BT)
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


def refuse(run: TrainConfig, settings: SodConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_sampled_distillation(run, settings)
    if settings.reward:
        require_groups(run)


SPEC = TrainerSpec(
    id="sod",
    refuse=refuse,
    reference=sampled.sod,
    config=SodConfig,
    build=Sod,
    needs=frozenset({"teacher"}),
    paper="SOD, arXiv:2605.07725",
    presets={
        "paper": {"trainer": {"coef": 1.0, "delta": 0.2, "reward": True, "clip": 0.2, "clip_high": 0.28}}
    },
)
