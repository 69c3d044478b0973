"""Full-vocabulary divergence straight from hidden states and two language-model heads, in chunks of tokens.

Owns: the divergence, and the machinery under it and `chunked_tokens`: the gradients of hidden states and head
are computed analytically in the forward pass, one chunk of tokens at a time. No chunk is visited twice, so the
cost is that of the naive form; and because the gradient is finished in the forward, the weight of every token
must be known there and enters as an argument.

Logit gradient of one position (z logits, q student, p teacher, m = beta p + (1-beta) q), divided by the
temperature where one is used:

    forward_kl: q - p      reverse_kl: q (log(q/p) - RKL)      jsd: (1-beta) q (log(q/m) - KL(q||m))

Extra memory: the gradients themselves (one [N, D]; one [V, D] unless the head is frozen) and about five
[chunk, V] buffers. Products run in the dtype of the hidden states, everything else in float32 or wider.
Leaves out: double backward; sharded heads (gather them before the call).
Letters: N tokens, D hidden width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agentbench.errors import ConfigError, UsageError

from .divergences import Kind, check_kind

# Entries of one [chunk, V] buffer: 128 tokens at V = 151,936 on a CPU; an accelerator wants taller products.
_ENTRIES_CPU, _ENTRIES_ACCELERATOR = 19_500_000, 80_000_000


@dataclass(frozen=True)
class LinearHead:
    """A teacher's hidden states and head: logits = hidden_ND @ head_VD.T; its D may differ from the student's."""

    hidden_ND: Tensor
    head_VD: Tensor


@dataclass(frozen=True)
class ChunkedDivergence:
    """The weighted sum to call `backward` on (once), and the detached divergence of each token in nats."""

    loss: Tensor
    value_N: Tensor


@dataclass(frozen=True)
class ChunkTerms:
    """What a rule makes of one chunk: its losses, two detached columns to report, and d loss / d logits."""

    loss_C: Tensor
    first_C: Tensor
    second_C: Tensor
    grad_CV: Tensor


class Rule(Protocol):
    """A per-token loss with a known logit gradient; may overwrite the log-probs it is given."""

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Score the tokens `rows` from the student's log-probabilities."""


def divergence(
    hidden_ND: Tensor,
    head_VD: Tensor,
    teacher: LinearHead | Tensor,
    *,
    kind: Kind,
    weight_N: Tensor,
    vocab_size: int,
    beta: float = 0.5,
    kd_temperature: float = 1.0,
    chunk: int | None = None,
) -> ChunkedDivergence:
    """Sum weight * divergence over tokens, with the definitions of `divergences.full_vocabulary`.

    Args:
        hidden_ND: student hidden states of the positions that *predict* the trained tokens; pass trained
            tokens only, because a token of weight 0 costs as much as any other.
        head_VD: student head; its gradient is skipped when it is frozen.
        teacher: hidden states and head, or log-probabilities [N, >= vocab_size]. Constant either way.
        kind: which divergence.
        weight_N: everything that multiplies a token's divergence in the loss (turn weight, annealing
            coefficient, reduction coefficient).
        vocab_size: real vocabulary; rows and columns beyond it are padding: no probability, no gradient.
        beta: weight of the teacher in the mixture; read by "jsd" alone.
        kd_temperature: both logits are divided by it.
        chunk: tokens per block; by default one block takes near 80 MB on a CPU, 320 MB on an accelerator.
    Raises: UsageError: shapes disagree. ConfigError: bad kind, beta, temperature or chunk.
    """
    check_kind(kind, beta)
    check_head(hidden_ND, head_VD, vocab_size, kd_temperature)
    teacher = _constant_teacher(teacher, vocab_size)
    rows, width = (
        teacher.shape if isinstance(teacher, Tensor) else (len(teacher.hidden_ND), len(teacher.head_VD))
    )
    n = len(hidden_ND)
    if rows != n or width < vocab_size or weight_N.shape != (n,):
        raise UsageError(
            f"teacher covers {rows} tokens x {width} ids and weight_N has shape {tuple(weight_N.shape)}; "
            f"the student needs {n} tokens x at least {vocab_size} ids and {n} weights"
        )
    rule = _DivergenceRule(teacher, kind, beta, weight_N.detach(), kd_temperature)
    loss, value_N, _ = fused_sum(rule, hidden_ND, head_VD, vocab_size, kd_temperature, chunk)
    return ChunkedDivergence(loss, value_N)


def fused_sum(
    rule: Rule, hidden_ND: Tensor, head_VD: Tensor, vocab_size: int, temperature: float, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum a rule over all tokens; returns (loss with gradient, first_N, second_N)."""
    grad_on = torch.is_grad_enabled()
    wanted = (grad_on and hidden_ND.requires_grad, grad_on and head_VD.requires_grad)
    step = chunk_rows(hidden_ND, vocab_size, chunk)
    result: tuple[Tensor, Tensor, Tensor] = _Fused.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, rule, wanted, (vocab_size, temperature, step)
    )
    return result


class _Fused(torch.autograd.Function):
    """Sum a rule's losses; the gradients are finished in `forward`, `backward` only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        rule: Rule,
        wanted: tuple[bool, bool],
        settings: tuple[int, float, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        vocab_size, temperature, step = settings
        grads = HeadGradient(hidden_ND, head_VD, vocab_size, wanted)
        loss = torch.zeros((), dtype=wide(hidden_ND), device=hidden_ND.device)
        first_N, second_N = (loss.new_empty(len(hidden_ND)) for _ in range(2))
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows in chunks(len(hidden_ND), step):
                terms = rule(log_probs(hidden_ND[rows], grads.real_VD, temperature), rows)
                loss += terms.loss_C.sum()
                first_N[rows], second_N[rows] = terms.first_C, terms.second_C
                grads.add(rows, terms.grad_CV)
                del terms  # before the next chunk allocates its own
        ctx.save_for_backward(*grads.finish())
        ctx.mark_non_differentiable(first_N, second_N)
        return loss, first_N, second_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads: tuple[Tensor | None, Tensor | None] = ctx.saved_tensors
        # In place: the head's gradient may be the largest tensor of the step. A second backward through a
        # retained graph is then refused by autograd's version check rather than answered wrongly.
        if float(grad_loss) != 1.0:
            for grad in grads:
                if grad is not None:
                    grad.mul_(grad_loss)
        return (*grads, None, None, None)


class HeadGradient:
    """Gradients of hidden states and head, filled from logit gradients chunk by chunk."""

    def __init__(
        self, hidden_ND: Tensor, head_VD: Tensor, vocab_size: int, wanted: tuple[bool, bool]
    ) -> None:
        """Allocate what is wanted; `real_VD` is the head without padding, in the dtype of the products."""
        self.hidden_ND, self.head_dtype, self.vocab_size = hidden_ND.detach(), head_VD.dtype, vocab_size
        self.real_VD = head_VD.detach()[:vocab_size].to(hidden_ND.dtype)
        self.grad_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        self.grad_VD = torch.zeros_like(head_VD, dtype=wide(head_VD)) if wanted[1] else None

    def add(self, rows: slice, grad_CV: Tensor) -> None:
        """Carry one chunk's logit gradient back through the head."""
        hidden_CD = self.hidden_ND[rows]
        if self.grad_ND is not None:
            self.grad_ND[rows] = grad_CV.to(hidden_CD.dtype) @ self.real_VD
        if self.grad_VD is None:
            return
        real_VD = self.grad_VD[: self.vocab_size]
        if real_VD.dtype == hidden_CD.dtype == grad_CV.dtype:
            real_VD.addmm_(grad_CV.T, hidden_CD)
            return
        for block in chunks(self.vocab_size, 16384):  # half precision: never hold a second full product
            real_VD[block] += grad_CV[:, block].T.to(hidden_CD.dtype) @ hidden_CD

    def finish(self) -> tuple[Tensor | None, Tensor | None]:
        """Hand over the gradients in the dtypes of their parameters; None where not wanted."""
        return self.grad_ND, None if self.grad_VD is None else self.grad_VD.to(self.head_dtype)


@dataclass(frozen=True)
class _DivergenceRule:
    teacher: LinearHead | Tensor
    kind: Kind
    beta: float
    weight_N: Tensor
    temperature: float

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        teacher_CV = self._teacher(rows, logp_CV.dtype)
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

    def _teacher(self, rows: slice, dtype: torch.dtype) -> Tensor:
        if isinstance(self.teacher, LinearHead):
            return log_probs(self.teacher.hidden_ND[rows], self.teacher.head_VD, self.temperature).to(dtype)
        logp_CV = self.teacher[rows].to(dtype, copy=True)
        if self.temperature != 1.0:
            logp_CV = torch.log_softmax(logp_CV / self.temperature, dim=-1)
        if self.kind == "reverse_kl":
            return logp_CV  # -inf stays: the definition is infinite there
        return logp_CV.clamp_(min=torch.finfo(dtype).min / 4)  # keeps p log p at 0 where p = 0


def _jsd(student_CV: Tensor, teacher_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    q_CV, p_CV = student_CV.exp(), teacher_CV.exp()
    mixture_CV = (p_CV * beta).add_(q_CV, alpha=1.0 - beta)
    mixture_CV.clamp_(min=torch.finfo(mixture_CV.dtype).tiny).log_()  # log 0 only where p = q = 0
    teacher_part_C = teacher_CV.sub_(mixture_CV).mul_(p_CV).sum(dim=-1)
    student_CV.sub_(mixture_CV)
    student_part_C = torch.mul(q_CV, student_CV, out=mixture_CV).sum(dim=-1)
    grad_CV = student_CV.sub_(student_part_C[:, None]).mul_(q_CV).mul_(1.0 - beta)
    return beta * teacher_part_C + (1.0 - beta) * student_part_C, grad_CV


def _constant_teacher(teacher: LinearHead | Tensor, vocab_size: int) -> LinearHead | Tensor:
    """Detach, drop padding ids, and cast the head once rather than once per chunk."""
    if isinstance(teacher, Tensor):
        return teacher.detach()[:, :vocab_size]
    check_head(teacher.hidden_ND, teacher.head_VD, min(vocab_size, len(teacher.head_VD)), 1.0)
    hidden_ND = teacher.hidden_ND.detach()
    return LinearHead(hidden_ND, teacher.head_VD.detach()[:vocab_size].to(hidden_ND.dtype))


def log_probs(hidden_CD: Tensor, real_VD: Tensor, temperature: float) -> Tensor:
    """Log-softmax of one chunk's logits divided by the temperature, in float32 or wider."""
    logits_CV = hidden_CD.detach() @ real_VD.T
    logits_CV = logits_CV.to(wide(hidden_CD))
    if temperature != 1.0:
        logits_CV /= temperature
    return torch.log_softmax(logits_CV, dim=-1)


def row_dot(a_CV: Tensor, b_CV: Tensor) -> Tensor:
    """Sum a * b over the vocabulary; not a matrix product, which may run in reduced precision."""
    return (a_CV * b_CV).sum(dim=-1)


def wide(x: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float32, or float64 for float64 input."""
    return torch.promote_types(x.dtype, torch.float32)


def chunks(n: int, step: int) -> Iterator[slice]:
    """Cut range(n) into slices of at most `step`."""
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def chunk_rows(hidden_ND: Tensor, vocab_size: int, chunk: int | None) -> int:
    """Tokens per block: the caller's choice, or as many as fit the buffer of the device."""
    if chunk is None:
        entries = _ENTRIES_CPU if hidden_ND.device.type == "cpu" else _ENTRIES_ACCELERATOR
        return max(16, entries // vocab_size)
    if chunk < 1:
        raise ConfigError(f"chunk={chunk} must be at least 1 token; leave it out for the default")
    return chunk


def check_head(hidden_ND: Tensor, head_VD: Tensor, vocab_size: int, temperature: float) -> None:
    """Refuse hidden states, head and vocabulary that do not fit together."""
    if hidden_ND.dim() != 2 or head_VD.dim() != 2 or hidden_ND.shape[1] != head_VD.shape[1]:
        raise UsageError(
            f"hidden {tuple(hidden_ND.shape)} and head {tuple(head_VD.shape)} do not fit; need [N, D] and [V, D]"
        )
    if not 0 < vocab_size <= len(head_VD):
        raise UsageError(
            f"vocab_size={vocab_size}, but the head has {len(head_VD)} rows; pass the tokenizer's"
        )
    if not temperature > 0.0:
        raise ConfigError(f"temperature={temperature} must be positive; 1 leaves the model as it is")
