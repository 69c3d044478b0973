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

from .head import Head, as_head, wide

# Entries of one [chunk, V] buffer: 128 tokens at V = 151,936 on a CPU; an accelerator wants taller products.
_ENTRIES_CPU, _ENTRIES_ACCELERATOR = 19_500_000, 80_000_000


@dataclass(frozen=True)
class LinearHead:
    """A teacher's hidden states and its head, a `Head` or a bare weight; its D may differ from the student's."""

    hidden_ND: Tensor
    head_VD: Tensor | Head

    @property
    def head(self) -> Head:
        """The head with its form."""
        return as_head(self.head_VD)

    def ready(self, vocab_size: int) -> LinearHead:
        """The same with its head cast for products once, and not for each chunk."""
        return LinearHead(self.hidden_ND, self.head.ready(vocab_size, self.hidden_ND.dtype))


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
    rule: Rule,
    hidden_ND: Tensor,
    head: Tensor | Head,
    vocab_size: int,
    temperature: float,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum a rule over all tokens; returns (loss with gradient, first_N, second_N)."""
    head = as_head(head)
    inputs = (hidden_ND, head.weight_VD, head.bias_V)
    on = torch.is_grad_enabled()
    wanted = tuple(on and x is not None and x.requires_grad for x in inputs)
    step = chunk_rows(hidden_ND, vocab_size, chunk)
    result: tuple[Tensor, Tensor, Tensor] = _Fused.apply(  # type: ignore[no-untyped-call]
        *inputs, (head, rule, wanted), (vocab_size, temperature, step)
    )
    return result


class _Fused(torch.autograd.Function):
    """Sum a rule's losses; the gradients are finished in `forward`, `backward` only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        plan: tuple[Head, Rule, tuple[bool, ...]],
        settings: tuple[int, float, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        (head, rule, wanted), (vocab_size, temperature, step) = plan, settings
        grads = HeadGradient(hidden_ND, head, vocab_size, wanted)
        # sums of many tokens in bfloat16 would stop growing at a few hundred
        loss = torch.zeros((), dtype=wide(hidden_ND.dtype), device=hidden_ND.device)
        first_N, second_N = (loss.new_empty(len(hidden_ND)) for _ in range(2))
        # the dtypes below are chosen one by one; autocast would choose again
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows in chunks(len(hidden_ND), step):
                logp_CV, slope_CV = grads.ready.log_probs(hidden_ND[rows], temperature)
                terms = rule(logp_CV, rows)
                loss += terms.loss_C.sum()
                first_N[rows], second_N[rows] = terms.first_C, terms.second_C
                grads.add(rows, terms.grad_CV, slope_CV)
                del terms, logp_CV, slope_CV  # before the next chunk allocates its own
        ctx.save_for_backward(*grads.finish())
        ctx.mark_non_differentiable(first_N, second_N)
        return loss, first_N, second_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads: tuple[Tensor | None, ...] = ctx.saved_tensors
        # In place: the head's gradient may be the largest tensor of the step. A second backward through a
        # retained graph is then refused by autograd's version check rather than answered wrongly.
        if float(grad_loss) != 1.0:
            for grad in grads:
                if grad is not None:
                    grad.mul_(grad_loss)
        return (*grads, None, None)


class HeadGradient:
    """Gradients of hidden states, head and its bias, filled from logit gradients chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, head: Head, vocab_size: int, wanted: tuple[bool, ...]) -> None:
        """Allocate what is wanted; `ready` is the head without padding, in the dtype of the products."""
        self.hidden_ND, self.head, self.vocab_size = hidden_ND.detach(), head, vocab_size
        self.ready = head.ready(vocab_size, hidden_ND.dtype)
        weight_VD, bias_V = head.weight_VD, head.bias_V
        self.grad_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        self.grad_VD = torch.zeros_like(weight_VD, dtype=wide(weight_VD.dtype)) if wanted[1] else None
        self.grad_V = None
        if wanted[2] and bias_V is not None:
            self.grad_V = torch.zeros_like(bias_V, dtype=wide(bias_V.dtype))

    def add(self, rows: slice, grad_CV: Tensor, slope_CV: Tensor | None) -> None:
        """Carry one chunk's logit gradient, which is overwritten, back through cap, scale and head."""
        if slope_CV is not None:
            grad_CV.mul_(slope_CV)
        if self.head.scale != 1.0:
            grad_CV.mul_(self.head.scale)
        hidden_CD = self.hidden_ND[rows]
        if self.grad_V is not None:
            self.grad_V[: self.vocab_size] += grad_CV.sum(dim=0)
        if self.grad_ND is not None:
            self.grad_ND[rows] = grad_CV.to(hidden_CD.dtype) @ self.ready.weight_VD
        if self.grad_VD is None:
            return
        real_VD = self.grad_VD[: self.vocab_size]
        if real_VD.dtype == hidden_CD.dtype == grad_CV.dtype:
            real_VD.addmm_(grad_CV.T, hidden_CD)
            return
        for block in chunks(self.vocab_size, 16384):  # half precision: never hold a second full product
            real_VD[block] += grad_CV[:, block].T.to(hidden_CD.dtype) @ hidden_CD

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Hand over the gradients in the dtypes of their parameters; None where not wanted."""
        grad_VD, grad_V, bias_V = self.grad_VD, self.grad_V, self.head.bias_V
        return (
            self.grad_ND,
            None if grad_VD is None else grad_VD.to(self.head.weight_VD.dtype),
            None if grad_V is None or bias_V is None else grad_V.to(bias_V.dtype),
        )


def row_dot(a_CV: Tensor, b_CV: Tensor) -> Tensor:
    """Sum a * b over the vocabulary; not a matrix product, which may run in reduced precision."""
    return (a_CV * b_CV).sum(dim=-1)


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


def check_head(hidden_ND: Tensor, head: Head, vocab_size: int, temperature: float) -> None:
    """Refuse hidden states, head and vocabulary that do not fit together."""
    weight_VD = head.weight_VD
    if hidden_ND.dim() != 2 or weight_VD.dim() != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise UsageError(
            f"hidden {tuple(hidden_ND.shape)} and head {tuple(weight_VD.shape)} do not fit; need [N, D] and [V, D]"
        )
    if not 0 < vocab_size <= len(weight_VD):
        raise UsageError(
            f"vocab_size={vocab_size}, but the head has {len(weight_VD)} rows; pass the tokenizer's"
        )
    if not temperature > 0.0:
        raise ConfigError(f"temperature={temperature} must be positive; 1 leaves the model as it is")
