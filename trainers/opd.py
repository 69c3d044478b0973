"""On-policy distillation: the student acts, a frozen teacher says how likely it finds each token the student chose.

Each sampled token is credited with log p - log q, one teacher number per token (Thinking Machines, 2025). Leaves out
divergences between whole distributions (`gkd`), rewards and weights per turn (`atod`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .base import Descent
from .batch.tables import Batch
from .maths.losses import importance_ratio, truncated_importance
from .objectives import TokenObjective
from .preconditions import require_sampled_distillation
from .references import sampled
from .student.student import Scores
from .surrogate import SampledDistillation, SampledDistillationConfig


class OpdConfig(SampledDistillationConfig):
    """Keys of `opd`, beside those of the surrogate.

    Attributes:
        coef: multiplies the advantage.
        clip: as in `SurrogateConfig`; off, since one update per batch is on-policy.
    """

    coef: float = Field(default=1.0, gt=0)
    clip: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _whole_distributions_are_gkd(cls, values: Any) -> Any:
        if isinstance(values, dict) and "loss" in values:
            loss = values["loss"]
            raise ValueError(
                f"'loss' is gone (it was {loss!r}): opd credits sampled tokens; for the divergence between whole "
                "distributions set algorithm: gkd, with trainer.support: full or top_k"
            )
        return values


class Opd(SampledDistillation):
    """On-policy distillation; see `OpdConfig`."""

    settings: OpdConfig

    def __init__(self, run: TrainConfig, settings: OpdConfig) -> None:
        require_sampled_distillation(run, settings)
        super().__init__(run, settings)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step towards the teacher on the student's own states."""
        batch = self.collate(groups)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        # Departure: the trainer's own log-probs, not the engine's, so that the ratio starts at 1.
        if self.one_update:
            descent = self._descend_on_policy(batch, teacher_BT, step)
            old = Scores(descent.columns["logp"], descent.columns["entropy"])  # log q_old(y_t)
            advantage_BT = self._advantage(teacher_BT, old.logp_BT, batch.turn_BT)
        else:
            old = self.student.score(batch)
            advantage_BT = self._advantage(teacher_BT, old.logp_BT, batch.turn_BT)
            descent = self.ascend(batch, old, advantage_BT, step=step)
        return self.report(
            step, batch, descent, old=old, teacher_BT=teacher_BT, columns={"advantage": advantage_BT}
        )

    def _advantage(self, teacher: Tensor, old: Tensor, turn: Tensor) -> Tensor:
        """A_t = -c (log q_old - log p), discount 0."""
        return self.settings.coef * self.gap(teacher, old, turn)

    def _descend_on_policy(self, batch: Batch, teacher_BT: Tensor, step: int) -> Descent:
        """Learn in one update: q_old is q, so the pass that learns gives its log-probs, and no ratio needs a clip."""
        cap = self.settings.importance_cap

        def loss(logp_X: Tensor, teacher_X: Tensor, behaviour_X: Tensor) -> Tensor:
            old_X = logp_X.detach()
            advantage_X = self._advantage(teacher_X, old_X, torch.zeros_like(old_X))
            if cap is not None:
                advantage_X = advantage_X * truncated_importance(old_X, behaviour_X, cap)
            return -importance_ratio(logp_X, old_X) * advantage_X

        objective = TokenObjective(loss, (teacher_BT, batch.behaviour_BT), self.settings.entropy_coef)
        return self.descend(
            batch, objective, reduction=self.settings.reduction, step=step, balance=self.balance(step)
        )


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"trainer": {"clip": None, "coef": 1.0}},
    # the baseline as ATOD's code runs it
    "released": {
        "rows_per_update": 256,
        "trainer": {"clip": 0.2, "dual_clip": 3.0, "entropy_coef": 0.001, "reduction": "token_mean"},
    },
}


SPEC = TrainerSpec(
    id="opd",
    reference=sampled.opd,
    config=OpdConfig,
    build=Opd,
    refuse=require_sampled_distillation,
    presets=PRESETS,
    needs=frozenset({"teacher"}),
    paper="On-Policy Distillation, Thinking Machines 2025",
)
