"""LSM: local support matching. Student and teacher are compared on a few ids at each sampled position.

Source: Revisiting On-Policy Distillation, arXiv:2603.25562: truncated reverse KL on the teacher's K likeliest tokens,
both distributions conditioned on them, mean over the group's tokens, rollouts with top-p 0.9 (variant V1); and the
variants V2 to V5 of its Table A3. Leaves out a tail bucket and other divergences (`gkd` with support top_k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from agentbench.config import Section
from agentbench.errors import UsageError
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .base import Algorithm
from .batch.micro import Micro
from .batch.tables import Batch
from .kernels.fused import fused_sum
from .kernels.support import LocalSupportRule, StudentSupport, TeacherSupport
from .maths.local_support import SampledToken
from .maths.reductions import Reduction
from .preconditions import require_one_teacher, require_plain_sampling
from .references import distributions
from .student.hidden import Kernel
from .student.student import Student
from .teachers.contract import Teacher, TeacherScores, WholeTeacher, require_top_k
from .teachers.open import open_teacher, open_whole_teacher, require_whole


class LsmConfig(Section):
    """Keys of `lsm`.

    Attributes:
        k: size of the support, K.
        support: whose K likeliest tokens it is made of.
        sampled_token: "unused" (V1); a "member" of the support (V2 with the student's, V3 with the teacher's); or the
            one sample of the "tail" beside the exact terms of the support (V4, V5).
        masked_tokens: texts of single tokens whose first occurrence in a reply is not trained (format tokens such as
            "<", "think"), as the paper's option.
        reduction: mean over all tokens of the step, as in the paper.
    """

    k: int = Field(default=32, ge=1)
    support: Literal["teacher", "student"] = "teacher"
    sampled_token: SampledToken = "unused"
    masked_tokens: tuple[str, ...] = ()
    reduction: Reduction = "token_mean"


class Lsm(Algorithm):
    """Local support matching; see `LsmConfig`."""

    def __init__(self, run: TrainConfig, settings: LsmConfig) -> None:
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.teacher: Teacher
        if settings.support == "student":
            require_top_k(settings.k, self.student.vocabulary.count)
            self.teacher = open_whole_teacher(run.teachers[0], self.student)
        else:
            self.teacher = open_teacher(run.teachers[0], self.student, top_k=settings.k)
        self.masked = [self._only_id(text) for text in settings.masked_tokens]

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One gradient step on the truncated reverse KL; no policy gradient."""
        batch, settings = self.collate(groups), self.settings
        # the tail's sample is weighed by what it was sampled with
        old = self.student.score(batch) if settings.sampled_token == "tail" else self.probe(batch)
        outside: dict[str, Tensor] = {}
        source: TeacherScores | Teacher = self.teacher
        if settings.support == "teacher":
            source = scores = self.teacher.score(batch, settings.k)  # S(c): the teacher's K likeliest tokens
            assert scores.topk_ids_BTK is not None
            outside_BT = ~(scores.topk_ids_BTK == batch.tokens_BT[..., None]).any(dim=-1)
            outside["outside_support_share"] = 1.0 * outside_BT
        assert isinstance(source, TeacherScores | WholeTeacher)
        objective = LocalSupport(source, settings.k, settings.sampled_token, old.logp_BT)
        descent = self.descend(
            batch, objective, reduction=settings.reduction, step=step, keep_BT=self._kept(batch)
        )
        return self.report(
            step,
            batch,
            descent,
            old=old,
            columns={"divergence": descent.columns["divergence"]},
            figures={
                "support_mass": descent.columns["support_mass"],  # 1 - this is what V1 to V3 cannot see
                **outside,
            },
        )

    def _kept(self, batch: Batch) -> Tensor | None:
        """False on the first occurrence of each masked token in each turn."""
        if not self.masked:
            return None
        keep_BT = torch.ones_like(batch.mask_BT)
        for token in self.masked:
            hit_BT = (batch.tokens_BT == token) & batch.mask_BT
            for row in hit_BT.any(dim=1).nonzero()[:, 0].tolist():
                seen: set[int] = set()
                for place in hit_BT[row].nonzero()[:, 0].tolist():
                    turn = int(batch.turn_BT[row, place])
                    if turn not in seen:
                        seen.add(turn)
                        keep_BT[row, place] = False
        return keep_BT

    def _only_id(self, text: str) -> int:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise UsageError(
                f"trainer.masked_tokens: {text!r} is {len(ids)} tokens of this tokenizer, not one"
            )
        return int(ids[0])


@dataclass(frozen=True)
class LocalSupport:
    """Reverse KL on a support of K ids, see `maths.local_support`; distributions at temperature 1.

    Attributes:
        source: the teacher's scores with its K likeliest ids, or a local teacher that scores the student's own K.
        k: size of the support.
        old_BT: log-probs under which the tokens were sampled; read where the sampled token stands for the tail.
    """

    source: TeacherScores | WholeTeacher
    k: int
    sampled_token: SampledToken
    old_BT: Tensor
    names = ("divergence", "support_mass")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum coefficient times divergence; report the divergence and the student's mass on the support."""
        rule = LocalSupportRule(
            self._support(micro, student), self.sampled_token, micro.token_X, micro.pick(self.old_BT), coef_X
        )
        return lambda hidden_XD, head: fused_sum(rule, hidden_XD, head, student.vocab_size, 1.0, None)

    def _support(self, micro: Micro, student: Student) -> TeacherSupport | StudentSupport:
        if not isinstance(self.source, TeacherScores):
            return StudentSupport(self.source.linear_head(micro).ready(student.vocab_size), self.k)
        ids_BTK, logp_BTK = self.source.topk_ids_BTK, self.source.topk_logp_BTK
        assert ids_BTK is not None
        assert logp_BTK is not None
        return TeacherSupport(micro.pick(ids_BTK), micro.pick(logp_BTK), micro.pick(self.source.logp_BT))


def refuse(run: TrainConfig, settings: LsmConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run)
    if settings.support == "student":
        require_whole(*run.teachers)
    if settings.sampled_token == "tail":
        require_plain_sampling(run)  # a truncated sampler never shows the tail
    if settings.sampled_token != "unused" and run.rollout.temperature != 1.0:
        raise UsageError(
            "trainer.sampled_token compares the sampled token's probabilities at temperature 1; set "
            f"rollout.temperature: 1.0 (is {run.rollout.temperature}), or sampled_token: unused"
        )


SPEC = TrainerSpec(
    id="lsm",
    reference=distributions.lsm,
    config=LsmConfig,
    build=Lsm,
    refuse=refuse,
    presets={"paper": {"rollout": {"top_p": 0.9}, "trainer": {"k": 32, "reduction": "token_mean"}}},
    needs=frozenset({"teacher"}),
    paper="Revisiting On-Policy Distillation (LSM), arXiv:2603.25562",
)
