"""Objectives: what one update minimises, as kernels on hidden states and head.

An objective makes, for each micro-batch and its token coefficients, the kernel that sums the loss and finishes its
gradient chunk by chunk. All coefficients are known before the forward, so the result does not depend on how rows are
cut. Owns the sampled-token objective, the divergence on the full vocabulary or the teacher's top K, two ways to learn
from several teachers (the weighted sum of divergences, and one from the mixture of distributions), and the mixture of
objectives that belong to different tokens.
Leaves out coefficients (`losses`), accumulation (`base`) and the formulas (`divergences`, `fused`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .batch.micro import Micro
from .batch.tables import Batch
from .kernels.divergence import DivergenceRule, divergence_rule
from .kernels.fused import Rule, fused_sum
from .kernels.head import Head
from .kernels.own_support import OwnSupportRule
from .kernels.several import MixtureRule, SumRule
from .kernels.support import SupportRule
from .kernels.tokens import token_loss
from .maths.divergences import Kind, TailMode
from .student.hidden import Kernel, Outputs
from .student.student import Student
from .teachers.contract import TeacherScores, WholeTeacher


class Objective(Protocol):
    """Minimised by `Algorithm.descend`."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the token columns are that the kernel returns beside the loss."""
        ...

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Make the kernel: (hidden_XD, head) -> (loss, column_X, ...)."""
        ...


RuleMaker = Callable[[Tensor, Head], Rule]
"""(hidden_XD, head) of the student -> the rule to be summed over the X trained tokens."""


@torch.no_grad()
def read_columns(objective: Objective, batch: Batch, rows_B: Tensor, student: Student) -> dict[str, Tensor]:
    """Token columns of an objective on some rows, with the weights of now; 0 elsewhere. All processes call it."""
    student.net.eval()
    columns = {name: torch.zeros(batch.tokens_BT.shape) for name in objective.names}
    for micro in student.micro_batches(batch, rows_B):
        no_coef_X = torch.zeros(len(micro.token_X), device=student.device)
        _, *reported = student.apply(micro, objective.kernel(micro, no_coef_X, student))
        for name, x_X in zip(objective.names, reported, strict=True):
            micro.place(x_X, columns[name])
    student.reshard()
    return columns


@dataclass(frozen=True)
class TokenObjective:
    """A function of each trained token's log-prob.

    Attributes:
        loss: (logp_X, *columns) -> loss_X, unreduced.
        columns: token columns of the batch that the loss reads, in the order of its arguments.
        entropy_coef: so much of each token's entropy is taken off its loss.
    """

    loss: Callable[..., Tensor]
    columns: tuple[Tensor, ...] = ()
    entropy_coef: float = 0.0
    names = ("logp", "entropy")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum coefficient times loss; report log-prob and entropy."""
        picked = tuple(micro.pick(x_BT) for x_BT in self.columns)
        bonus_X = self.entropy_coef * coef_X if self.entropy_coef else None

        def run(hidden_XD: Tensor, head: Head) -> Outputs:
            result = token_loss(
                hidden_XD,
                head,
                micro.token_X,
                lambda logp_C, rows: coef_X[rows] * self.loss(logp_C, *(x_X[rows] for x_X in picked)),
                vocab_size=student.vocab_size,
                temperature=student.temperature,
                bonus_N=bonus_X,
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
    def names(self) -> tuple[str, ...]:
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
    """A divergence from a teacher in this process over the whole vocabulary.

    Attributes:
        weight_BT: multiplies each token's divergence; None leaves it.
    """

    teacher: WholeTeacher
    kind: Kind
    beta: float = 0.5
    kd_temperature: float = 1.0
    weight_BT: Tensor | None = None
    names = ("divergence", "divergence")

    @property
    def temperature(self) -> float:
        """At which the student's log-probs are taken: distributions are compared, whatever the sampler's was."""
        return self.kd_temperature

    def rule(
        self, micro: Micro, coef_X: Tensor, student: Student
    ) -> Callable[[Tensor, Head], DivergenceRule]:
        """Make the rule; runs the teacher."""
        weight_X = coef_X if self.weight_BT is None else coef_X * micro.pick(self.weight_BT)
        teacher = self.teacher.linear_head(micro)
        return lambda hidden_XD, head: divergence_rule(
            hidden_XD,
            head,
            teacher,
            kind=self.kind,
            weight_N=weight_X,
            vocab_size=student.vocab_size,
            beta=self.beta,
            kd_temperature=self.kd_temperature,
        )

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum weight times divergence; report the divergence."""
        return _summed(self.rule(micro, coef_X, student), student, self.temperature)


@dataclass(frozen=True)
class OwnTopK:
    """A divergence on the student's own K likeliest ids of the moment; all others are one outcome more.

    Distributions are compared at temperature 1. With `old_BT` each token also counts by how much likelier it has become
    since it was scored, min(q / q_old, cap): the importance weight of a step that is not the first on its batch.

    Attributes:
        teacher: in this process, since it has to speak of ids that the student chose.
        weight_BT: multiplies each token's divergence; None leaves it.
        old_BT: log-probs of the sampled tokens before the first step, at temperature 1; None for the first step.
    """

    teacher: WholeTeacher
    k: int
    kind: Kind
    beta: float = 0.5
    weight_BT: Tensor | None = None
    old_BT: Tensor | None = None
    ratio_cap: float = 2.0
    names = ("divergence", "teacher_logp")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum weight times divergence; report the divergence and the teacher's log-prob of the sampled token."""
        weight_X = coef_X if self.weight_BT is None else coef_X * micro.pick(self.weight_BT)
        rule = OwnSupportRule(
            teacher=self.teacher.linear_head(micro).ready(student.vocab_size),
            k=self.k,
            kind=self.kind,
            beta=self.beta,
            token_X=micro.token_X,
            weight_X=weight_X,
            old_X=None if self.old_BT is None else micro.pick(self.old_BT),
            ratio_cap=self.ratio_cap,
        )
        return _summed(lambda *_: rule, student, 1.0)


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

    @property
    def temperature(self) -> float:
        """At which the student's log-probs are taken; `kd_temperature` works inside the support."""
        return 1.0

    def rule(self, micro: Micro, coef_X: Tensor, student: Student) -> RuleMaker:
        """Make the rule."""
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
        return lambda hidden_XD, head: rule

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum weight times divergence; report the divergence and the student's mass on the support."""
        return _summed(self.rule(micro, coef_X, student), student, self.temperature)


def _summed(make: RuleMaker, student: Student, temperature: float) -> Kernel:
    return lambda hidden_XD, head: fused_sum(
        make(hidden_XD, head), hidden_XD, head, student.vocab_size, temperature, None
    )


@dataclass(frozen=True)
class WeightedSum:
    """sum_k w_k D(p_k, q): the parts' divergences, each under its own `weight_BT`.

    Attributes:
        parts: one for each teacher, at one temperature; a single part gives what it would give alone, to the bit.
    """

    parts: tuple[FullVocabulary | TopK, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The weighted sum, and every part's own divergence."""
        return ("divergence", *(f"divergence/teacher_{k}" for k in range(1, len(self.parts) + 1)))

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum over tokens and parts; report the weighted sum and the parts unweighted."""
        makers = [part.rule(micro, coef_X, student) for part in self.parts]
        weight_KX = [1.0 if part.weight_BT is None else micro.pick(part.weight_BT) for part in self.parts]
        (temperature,) = {part.temperature for part in self.parts}

        def run(hidden_XD: Tensor, head: Head) -> Outputs:
            value_XK = torch.zeros(len(hidden_XD), len(makers), device=hidden_XD.device)
            rule = SumRule(tuple(make(hidden_XD, head) for make in makers), value_XK)
            loss, *_ = fused_sum(rule, hidden_XD, head, student.vocab_size, temperature, None)
            values = value_XK.unbind(dim=1)
            total_X = sum((w * x_X for w, x_X in zip(weight_KX, values, strict=True)), torch.zeros(()))
            return loss, total_X, *values

        return run


@dataclass(frozen=True)
class TeacherMixture:
    """D(sum_k w_k p_k, q): one divergence from the mixture of the teachers' distributions.

    Attributes:
        teachers: K of them.
        weight_BTK: w; not negative, of sum 1 on every token that counts.
    """

    teachers: tuple[WholeTeacher, ...]
    weight_BTK: Tensor
    kind: Kind
    beta: float = 0.5
    kd_temperature: float = 1.0
    names = ("divergence", "divergence")

    def kernel(self, micro: Micro, coef_X: Tensor, student: Student) -> Kernel:
        """Sum the divergence; report it."""
        parts = [FullVocabulary(t, self.kind, self.beta, self.kd_temperature) for t in self.teachers]
        makers = [part.rule(micro, coef_X, student) for part in parts]
        share_XK = micro.pick(self.weight_BTK)

        def run(hidden_XD: Tensor, head: Head) -> Outputs:
            rule = MixtureRule(tuple(make(hidden_XD, head) for make in makers), share_XK)
            return fused_sum(rule, hidden_XD, head, student.vocab_size, self.kd_temperature, None)

        return run
