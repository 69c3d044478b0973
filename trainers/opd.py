"""On-policy distillation: the student acts, a frozen teacher says how it would have spoken on the same prompts.

Two families. "sampled": each sampled token is credited with log p - log q, one teacher number per token
(Thinking Machines, 2025). "full" and "top_k": a divergence between the two distributions at every sampled position
(GKD, arXiv:2306.13649). Leaves out rewards (`atod`) and weights per turn (`atod`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .base import Algorithm, Descent
from .batch.tables import Batch
from .maths.advantages import sampled_distillation
from .maths.divergences import Kind, TailMode, check_kind
from .maths.losses import importance_ratio, truncated_importance
from .maths.turns import turn_mean
from .objectives import FullVocabulary, Objective, TokenObjective, TopK
from .preconditions import require_comparable, require_one_teacher, require_plain_sampling
from .student.student import Scores
from .surrogate import SurrogateConfig, descend_surrogate
from .teachers.local import LocalTeacher
from .teachers.open import open_teacher


class OpdConfig(SurrogateConfig):
    """Keys of `opd`; those of `SurrogateConfig` but `reduction` belong to loss "sampled".

    Attributes:
        loss: "sampled" token advantage, "full" vocabulary divergence, or divergence on the teacher's "top_k" ids.
        coef: multiplies the sampled advantage.
        gap_clip: bound on the absolute log-ratio of a sampled token; None leaves it free.
        clip: as in `SurrogateConfig`; off, since one update per batch is on-policy.
        divergence: of "full" and "top_k".
        beta: weight of the teacher in "jsd".
        kd_temperature: flattens both distributions of "full" and "top_k".
        k: ids of "top_k"; `tail` says what becomes of the others.
    """

    loss: Literal["sampled", "full", "top_k"] = "sampled"
    coef: float = Field(default=1.0, gt=0)
    gap_clip: float | None = Field(default=None, gt=0)
    clip: float | None = Field(default=None, gt=0, le=1)
    divergence: Kind = "reverse_kl"
    beta: float = 0.5
    kd_temperature: float = Field(default=1.0, gt=0)
    k: int = Field(default=64, ge=1)
    tail: TailMode = "tail"

    @model_validator(mode="after")
    def _used(self) -> OpdConfig:
        """Refuse keys that the loss would ignore."""
        used = {
            "sampled": {"coef", "gap_clip", "clip", "clip_high", "importance_cap"},
            "full": {"divergence", "beta", "kd_temperature"},
            "top_k": {"divergence", "beta", "kd_temperature", "k", "tail"},
        }
        for key in sorted(self.model_fields_set - used[self.loss] - {"loss", "reduction"}):
            raise ValueError(f"{key!r} is not used by loss {self.loss!r}; remove it")
        if "beta" in self.model_fields_set and self.divergence != "jsd":
            raise ValueError("'beta' is used by divergence 'jsd' only; remove it")
        check_kind(self.divergence, self.beta)
        return self


class Opd(Algorithm):
    """On-policy distillation; see `OpdConfig`."""

    def __init__(self, run: TrainConfig, settings: OpdConfig) -> None:
        """Load student and teacher."""
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_teacher(run.teachers[0], self.student)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step towards the teacher on the student's own states."""
        if self.settings.loss != "sampled":
            return self._match_distributions(groups, step)
        batch = self.collate(groups)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        meters = self.measure(batch)
        # Departure: the trainer's own log-probs, not the engine's, so that the ratio starts at 1.
        if self.run.updates_per_step == 1:
            descent = self._descend_on_policy(batch, teacher_BT, step)
            old = Scores(descent.columns["logp"], descent.columns["entropy"])  # log q_old(y_t)
            advantage_BT = self._advantage(teacher_BT, old.logp_BT, batch.turn_BT)
        else:
            old = self.student.score(batch)
            advantage_BT = self._advantage(teacher_BT, old.logp_BT, batch.turn_BT)
            descent = descend_surrogate(
                self, self.settings, batch, old, advantage_BT, step=step, meters=meters
            )
        self.measure_student(meters, batch, old)
        self.measure_teacher(meters, batch, old, teacher_BT)
        advantage_N = turn_mean(advantage_BT, batch.turn_BT, batch.turns)
        return self.report(meters, descent, step, batch.columns(advantage=advantage_N))

    def _advantage(self, teacher: Tensor, old: Tensor, turn: Tensor) -> Tensor:
        """A_t = -c (log q_old - log p), discount 0."""
        gap = sampled_distillation(teacher, old, turn, clip=self.settings.gap_clip)
        return self.settings.coef * gap

    def _descend_on_policy(self, batch: Batch, teacher_BT: Tensor, step: int) -> Descent:
        """Learn in one update: q_old is q, so the pass that learns gives its log-probs, and no ratio needs a clip."""
        cap = self.settings.importance_cap

        def loss(logp_X: Tensor, teacher_X: Tensor, behaviour_X: Tensor) -> Tensor:
            old_X = logp_X.detach()
            advantage_X = self._advantage(teacher_X, old_X, torch.zeros_like(old_X))
            if cap is not None:
                advantage_X = advantage_X * truncated_importance(old_X, behaviour_X, cap)
            return -importance_ratio(logp_X, old_X) * advantage_X

        objective = TokenObjective(loss, (teacher_BT, batch.behaviour_BT))
        return self.descend(batch, objective, reduction=self.settings.reduction, step=step)

    def _match_distributions(self, groups: Sequence[Group], step: int) -> Update:
        """One gradient step on the divergence itself; no ratio, since it is on-policy once per batch."""
        batch = self.collate(groups)
        meters = self.measure(batch)
        self.measure_student(meters, batch)
        descent = self.descend(batch, self._objective(batch), reduction=self.settings.reduction, step=step)
        value_BT = descent.columns["divergence"]
        meters.mean("teacher_gap", value_BT, batch.mask_BT)
        meters.by_depth("teacher_distance", value_BT, batch)
        if "support_mass" in descent.columns:
            meters.mean("support_mass", descent.columns["support_mass"], batch.mask_BT)
        value_N = turn_mean(value_BT, batch.turn_BT, batch.turns)
        return self.report(meters, descent, step, batch.columns(divergence=value_N))

    def _objective(self, batch: Batch) -> Objective:
        chosen = self.settings
        if chosen.loss == "top_k":
            return TopK(
                self.teacher.score(batch, chosen.k),
                chosen.divergence,
                chosen.tail,
                chosen.beta,
                chosen.kd_temperature,
            )
        assert isinstance(self.teacher, LocalTeacher)
        return FullVocabulary(self.teacher, chosen.divergence, chosen.beta, chosen.kd_temperature)


def refuse(run: TrainConfig, settings: OpdConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run)
    if settings.loss == "sampled":
        require_plain_sampling(run)
        require_comparable(run, settings.importance_cap)
    if settings.loss == "full" and run.teachers[0].backend != "hf":
        raise UsageError(
            "loss 'full' compares whole distributions, which only a teacher with backend 'hf' can give, not "
            f"{run.teachers[0].backend!r}; use loss: top_k or sampled"
        )


def build(run: TrainConfig, settings: OpdConfig) -> Opd:
    """Make the trainer."""
    return Opd(run, settings)


SPEC = TrainerSpec(
    id="opd",
    config=OpdConfig,
    build=build,
    refuse=refuse,
    needs=frozenset({"teacher"}),
    paper="On-Policy Distillation, Thinking Machines 2025; GKD, arXiv:2306.13649",
)
