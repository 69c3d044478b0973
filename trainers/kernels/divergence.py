"""Divergence over the full vocabulary, as a rule for `fused`. Leaves out the formulas (`maths.divergences`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from agentbench.errors import UsageError

from ..maths.divergences import Kind, check_kind
from .fused import ChunkTerms, LinearHead, check_head, fused_sum, row_dot
from .head import Head, as_head, lowest


@dataclass(frozen=True)
class ChunkedDivergence:
    """The weighted sum to call `backward` on (once), and the detached divergence of each token in nats."""

    loss: Tensor
    value_N: Tensor


def divergence(
    hidden_ND: Tensor,
    head: Tensor | Head,
    teacher: LinearHead | Tensor,
    *,
    vocab_size: int,
    kd_temperature: float = 1.0,
    chunk: int | None = None,
    **how: Any,
) -> ChunkedDivergence:
    """Sum weight * divergence over tokens; arguments and errors are those of `divergence_rule`, and one more.

    Args:
        chunk: tokens per block; by default one block takes near 80 MB on a CPU, 320 MB on an accelerator.
    """
    rule = divergence_rule(
        hidden_ND, head, teacher, vocab_size=vocab_size, kd_temperature=kd_temperature, **how
    )
    loss, value_N, _ = fused_sum(rule, hidden_ND, head, vocab_size, kd_temperature, chunk)
    return ChunkedDivergence(loss, value_N)


def divergence_rule(
    hidden_ND: Tensor,
    head: Tensor | Head,
    teacher: LinearHead | Tensor,
    *,
    kind: Kind,
    weight_N: Tensor,
    vocab_size: int,
    beta: float = 0.5,
    kd_temperature: float = 1.0,
) -> DivergenceRule:
    """Make the rule that sums weight * divergence over tokens, with the definitions of `divergences.full_vocabulary`.

    Args:
        hidden_ND: student hidden states of the positions that *predict* the trained tokens; pass trained
            tokens only, because a token of weight 0 costs as much as any other.
        head: student head, a `Head` or its bare weight; its gradient is skipped when it is frozen.
        teacher: hidden states and head, or log-probabilities [N, >= vocab_size]. Constant either way, and over the
            student's ids: those that the student's head says are absent have no probability here either.
        kind: which divergence.
        weight_N: everything that multiplies a token's divergence in the loss (turn weight, annealing
            coefficient, reduction coefficient).
        vocab_size: real vocabulary; rows and columns beyond it are padding: no probability, no gradient.
        beta: weight of the teacher in the mixture; read by "jsd" alone.
        kd_temperature: both logits are divided by it.
    Raises: UsageError: shapes disagree. ConfigError: bad kind, beta, temperature or chunk.
    """
    head = as_head(head)
    check_kind(kind, beta)
    check_head(hidden_ND, head, vocab_size, kd_temperature)
    constant = _constant_teacher(teacher, vocab_size, head.absent_V)
    rows, width = (
        constant.shape
        if isinstance(constant, Tensor)
        else (len(constant.hidden_ND), len(constant.head.weight_VD))
    )
    n = len(hidden_ND)
    if rows != n or width < vocab_size or weight_N.shape != (n,):
        raise UsageError(
            f"teacher covers {rows} tokens x {width} ids and weight_N has shape {tuple(weight_N.shape)}; "
            f"the student needs {n} tokens x at least {vocab_size} ids and {n} weights"
        )
    absent_V = None if head.absent_V is None else head.absent_V[:vocab_size]
    return DivergenceRule(constant, kind, beta, weight_N.detach(), kd_temperature, absent_V)


@dataclass(frozen=True)
class _Constant:
    """A teacher's hidden states and its head, ready for products."""

    hidden_ND: Tensor
    head: Head


@dataclass(frozen=True)
class DivergenceRule:
    """Divergence from one teacher, as a rule for `fused`; made by `divergence_rule`."""

    teacher: _Constant | Tensor
    kind: Kind
    beta: float
    weight_N: Tensor
    temperature: float
    absent_V: Tensor | None

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Value and gradient of a chunk of rows."""
        return self.terms(logp_CV, self.teacher_log_probs(rows, logp_CV.dtype), rows)

    def terms(self, logp_CV: Tensor, teacher_CV: Tensor, rows: slice) -> ChunkTerms:
        """Compare with these log-probs of a teacher, which are overwritten."""
        # Everything is written over what is no longer needed: at V = 151,936 each [C, V] buffer is 80 MB.
        if self.kind == "forward_kl":
            p_CV = teacher_CV.exp()
            value_C = teacher_CV.sub_(logp_CV).mul_(p_CV).sum(dim=-1)
            grad_CV = logp_CV.exp_().sub_(p_CV)
        elif self.kind == "reverse_kl":
            gap_CV = teacher_CV.neg_().add_(logp_CV)
            q_CV = logp_CV.exp_()
            value_C = row_dot(q_CV, gap_CV)
            grad_CV = gap_CV.sub_(value_C[:, None]).mul_(q_CV)
        else:
            value_C, grad_CV = _jsd(logp_CV, teacher_CV, self.beta)
        weight_C = self.weight_N[rows].to(value_C.dtype)
        grad_CV.mul_(weight_C[:, None] / self.temperature)
        return ChunkTerms(weight_C * value_C, value_C, value_C, grad_CV)

    def teacher_log_probs(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """The teacher's log-probs of a chunk, a fresh tensor [C, V]."""
        if isinstance(self.teacher, _Constant):
            hidden_CD = self.teacher.hidden_ND[rows]
            return self.teacher.head.log_probs(hidden_CD, self.temperature)[0].to(dtype)
        logp_CV = self.teacher[rows].to(dtype, copy=True)
        if self.temperature != 1.0:
            logp_CV = torch.log_softmax(logp_CV / self.temperature, dim=-1)
        if self.absent_V is not None:
            logp_CV.masked_fill_(self.absent_V, lowest(dtype))
        if self.kind == "reverse_kl":
            return logp_CV  # -inf stays: the definition is infinite there
        return logp_CV.clamp_(min=lowest(dtype))  # keeps p log p at 0 where p = 0


def _jsd(student_CV: Tensor, teacher_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    q_CV, p_CV = student_CV.exp(), teacher_CV.exp()
    mixture_CV = (p_CV * beta).add_(q_CV, alpha=1.0 - beta)
    mixture_CV.clamp_(min=torch.finfo(mixture_CV.dtype).tiny).log_()  # log 0 only where p = q = 0
    teacher_part_C = teacher_CV.sub_(mixture_CV).mul_(p_CV).sum(dim=-1)
    student_CV.sub_(mixture_CV)
    student_part_C = torch.mul(q_CV, student_CV, out=mixture_CV).sum(dim=-1)
    grad_CV = student_CV.sub_(student_part_C[:, None]).mul_(q_CV).mul_(1.0 - beta)
    return beta * teacher_part_C + (1.0 - beta) * student_part_C, grad_CV


def _constant_teacher(
    teacher: LinearHead | Tensor, vocab_size: int, absent_V: Tensor | None
) -> _Constant | Tensor:
    """Detach, drop ids that do not exist, and cast the head once rather than once per chunk."""
    if isinstance(teacher, Tensor):
        return teacher.detach()[:, :vocab_size]
    head = replace(teacher.head, absent_V=absent_V)
    check_head(teacher.hidden_ND, head, min(vocab_size, len(head.weight_VD)), 1.0)
    hidden_ND = teacher.hidden_ND.detach()
    return _Constant(hidden_ND, head.ready(vocab_size, hidden_ND.dtype))
