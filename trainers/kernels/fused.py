"""Full-vocabulary divergence straight from hidden states and two language-model heads, in chunks of tokens.

Owns: the divergence, and the machinery under it and `tokens`: the gradients of hidden states and head
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

# Entries of one [chunk, V] buffer: 128 tokens at V = 151,936 on a CPU; an accelerator wants taller products.
_ENTRIES_CPU, _ENTRIES_ACCELERATOR = 19_500_000, 80_000_000


@dataclass(frozen=True)
class LinearHead:
    """A teacher's hidden states and head: logits = hidden_ND @ head_VD.T; its D may differ from the student's."""

    hidden_ND: Tensor
    head_VD: Tensor


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
