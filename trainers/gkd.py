"""Generalised knowledge distillation on the student's own states: a divergence between whole distributions.

At every sampled position the student's distribution is compared with the frozen teacher's, over the whole vocabulary or
on the teacher's K likeliest ids. Source: GKD, arXiv:2306.13649, with on-policy data only. Leaves out crediting single
sampled tokens (`opd`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from agentbench.config import Section
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .base import Algorithm
from .batch.tables import Batch
from .maths.divergences import Kind, TailMode, check_kind
from .maths.reductions import Reduction
from .objectives import FullVocabulary, Objective, TopK
from .preconditions import require_one_teacher
from .references import distributions
from .teachers.contract import Teacher, WholeTeacher
from .teachers.open import open_teacher, open_whole_teacher, require_whole


class GkdConfig(Section):
    """Keys of `gkd`.

    Attributes:
        support: "full" vocabulary, or the teacher's "top_k" likeliest ids.
        divergence: what is minimised; `beta` is the weight of the teacher in "jsd".
        kd_temperature: flattens both distributions.
        k: ids of "top_k"; `tail` says what becomes of the others.
        reduction: how tokens are averaged.
    """

    support: Literal["full", "top_k"] = "full"
    divergence: Kind = "reverse_kl"
    beta: float = 0.5
    kd_temperature: float = Field(default=1.0, gt=0)
    k: int = Field(default=64, ge=1)
    tail: TailMode = "tail"
    reduction: Reduction = "token_mean"

    @model_validator(mode="after")
    def _used(self) -> GkdConfig:
        """Refuse keys that would be ignored."""
        if self.support == "full":
            for key in sorted({"k", "tail"} & self.model_fields_set):
                raise ValueError(f"{key!r} is used by support 'top_k' only; remove it")
        if "beta" in self.model_fields_set and self.divergence != "jsd":
            raise ValueError("'beta' is used by divergence 'jsd' only; remove it")
        check_kind(self.divergence, self.beta)
        return self


class Gkd(Algorithm):
    """On-policy distillation of whole distributions; see `GkdConfig`."""

    def __init__(self, run: TrainConfig, settings: GkdConfig) -> None:
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.teacher: Teacher
        if settings.support == "full":
            self.teacher = open_whole_teacher(run.teachers[0], self.student)
        else:
            self.teacher = open_teacher(run.teachers[0], self.student, top_k=settings.k)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One gradient step on the divergence itself; no ratio, since the data is the student's own."""
        batch = self.collate(groups)
        old = self.probe(batch)
        descent = self.descend(batch, self._objective(batch), reduction=self.settings.reduction, step=step)
        divergence_BT = descent.columns["divergence"]  # D(q, p) at each sampled position
        figures = {name: x_BT for name, x_BT in descent.columns.items() if name == "support_mass"}
        return self.report(
            step, batch, descent, old=old, columns={"divergence": divergence_BT}, figures=figures
        )

    def _objective(self, batch: Batch) -> Objective:
        chosen = self.settings
        if chosen.support == "full":
            assert isinstance(self.teacher, WholeTeacher)
            return FullVocabulary(self.teacher, chosen.divergence, chosen.beta, chosen.kd_temperature)
        return TopK(
            self.teacher.score(batch, chosen.k),
            chosen.divergence,
            chosen.tail,
            chosen.beta,
            chosen.kd_temperature,
        )


def refuse(run: TrainConfig, settings: GkdConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run)
    if settings.support == "full":
        require_whole(*run.teachers)


SPEC = TrainerSpec(
    id="gkd",
    reference=distributions.gkd,
    config=GkdConfig,
    build=Gkd,
    refuse=refuse,
    needs=frozenset({"teacher"}),
    paper="GKD, arXiv:2306.13649",
)
