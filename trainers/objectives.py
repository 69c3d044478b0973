"""Objectives: what one update minimises, as kernels on hidden states and head.

An objective makes, for each micro-batch and its token coefficients, the kernel that sums the loss and finishes its
gradient chunk by chunk. All coefficients are known before the forward, so the result does not depend on how rows are
cut. Owns the sampled-token objective, the divergence on the full vocabulary or the teacher's top K, and their mixture.
Leaves out coefficients (`losses`), accumulation (`base`) and the formulas (`divergences`, `fused`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .batch.micro import Micro
from .kernels.divergence import divergence
from .kernels.fused import fused_sum
from .kernels.head import Head
from .kernels.support import SupportRule
from .kernels.tokens import token_loss
from .maths.divergences import Kind, TailMode
from .student.hidden import Kernel, Outputs
from .student.student import Student
from .teachers.contract import TeacherScores
from .teachers.local import LocalTeacher


class Objective(Protocol):
    """Minimised by `Algorithm.descend`."""

    @property
    def names(self) -> tuple[str, str]:
        """What the two token columns are that the kernel returns beside the loss."""
        ...

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Make the kernel: (hidden_XD, head) -> (loss, first_X, second_X)."""
        ...


@dataclass(frozen=True)
class TokenObjective:
    """A function of each trained token's log-prob.

    Attributes:
        loss: (logp_X, *columns) -> loss_X, unreduced.
        columns: token columns of the batch that the loss reads, in the order of its arguments.
    """

    loss: Callable[..., Tensor]
    columns: tuple[Tensor, ...] = ()
    names = ("logp", "entropy")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum coefficient times loss; report log-prob and entropy."""
        picked = tuple(micro.pick(x_BT) for x_BT in self.columns)

        def run(hidden_XD: Tensor, head: Head) -> Outputs:
            result = token_loss(
                hidden_XD,
                head,
                micro.token_X,
                lambda logp_C, rows: coef_X[rows] * self.loss(logp_C, *(x_X[rows] for x_X in picked)),
                vocab_size=student.vocab_size,
                temperature=student.temperature,
            )
            return result.loss, result.logp_N, result.entropy_N

        return run


@dataclass(frozen=True)
class Mixed:
    """Two objectives of one batch under one denominator, each on its own tokens.

    What the student said is distilled, say, and what another author said is imitated.

    Attributes:
        first: reports the columns; `second` must report the same ones.
        second_BT: whether a token belongs to `second`.
    """

    first: Objective
    second: Objective
    second_BT: Tensor

    @property
    def names(self) -> tuple[str, str]:
        return self.first.names

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Add up both sums; every token is reported by its own objective."""
        second_X = micro.pick(self.second_BT)
        shares = [(~second_X, self.first), (second_X, self.second)]
        kernels = [
            (where_X, objective.kernel(micro.only(where_X), coef_X[where_X], student))
            for where_X, objective in shares
            if where_X.any() or objective is self.first
        ]

        def run(hidden_XD: Tensor, head: Head) -> Outputs:
            total, columns = hidden_XD.new_zeros(()), [coef_X.new_zeros(coef_X.shape) for _ in self.names]
            for where_X, kernel in kernels:
                loss, *reported = kernel(hidden_XD[where_X], head)
                total = total + loss
                for column_X, own_X in zip(columns, reported, strict=True):
                    column_X[where_X] = own_X.detach().to(column_X.dtype)
            return total, *columns

        return run


@dataclass(frozen=True)
class FullVocabulary:
    """A divergence from a local teacher over the whole vocabulary.

    Attributes:
        weight_BT: multiplies each token's divergence; None leaves it.
    """

    teacher: LocalTeacher
    kind: Kind
    beta: float = 0.5
    kd_temperature: float = 1.0
    weight_BT: Tensor | None = None
    names = ("divergence", "divergence")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum weight times divergence; report the divergence."""
        weight_X = coef_X if self.weight_BT is None else coef_X * micro.pick(self.weight_BT)
        teacher = self.teacher.linear_head(micro)

        def run(hidden_XD: Tensor, head: Head) -> Outputs:
            result = divergence(
                hidden_XD,
                head,
                teacher,
                kind=self.kind,
                weight_N=weight_X,
                vocab_size=student.vocab_size,
                beta=self.beta,
                kd_temperature=self.kd_temperature,
            )
            return result.loss, result.value_N, result.value_N

        return run


@dataclass(frozen=True)
class TopK:
    """A divergence on the teacher's K likeliest ids; `tail` says what becomes of the others.

    Attributes:
        scores: of the whole batch, with the K likeliest ids.
    """

    scores: TeacherScores
    kind: Kind
    tail: TailMode
    beta: float = 0.5
    kd_temperature: float = 1.0
    weight_BT: Tensor | None = None
    names = ("divergence", "support_mass")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum weight times divergence; report the divergence and the student's mass on the support."""
        weight_X = coef_X if self.weight_BT is None else coef_X * micro.pick(self.weight_BT)
        ids_BTK, logp_BTK = self.scores.topk_ids_BTK, self.scores.topk_logp_BTK
        if ids_BTK is None or logp_BTK is None:
            raise ValueError(
                "the teacher's scores hold no likeliest ids; ask for them: score(batch, top_k=K)"
            )
        rule = SupportRule(
            kind=self.kind,
            tail=self.tail,
            beta=self.beta,
            kd_temperature=self.kd_temperature,
            ids_XK=micro.pick(ids_BTK),
            teacher_XK=micro.pick(logp_BTK),
            weight_X=weight_X,
            temperature=1.0,
        )
        # At temperature 1, as the full vocabulary: distributions are compared, whatever the sampler's temperature.
        return lambda hidden_XD, head: fused_sum(rule, hidden_XD, head, student.vocab_size, 1.0, None)
