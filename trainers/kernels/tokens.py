"""Log-probabilities and losses of sampled tokens straight from hidden states and head, in chunks of tokens.

Owns: `logprob` (differentiable log-probs and metric entropies) and `token_loss` (the same with the loss fused in,
one large product cheaper). Neither holds the logits of more than one chunk. The logit gradient of log q(y) is
1[v = y] - q, divided by the temperature. Leaves out: masks and the shift from positions to tokens (the caller
passes hidden states of the positions that predict the tokens).
Letters as in `fused`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agentbench.errors import UsageError

from .fused import ChunkTerms, HeadGradient, check_head, chunk_rows, chunks, fused_sum, row_dot
from .head import Head, as_head, wide


@dataclass(frozen=True)
class ChunkedLoss:
    """The summed loss to call `backward` on (once), and detached log-probs and entropies per token in nats."""

    loss: Tensor
    logp_N: Tensor
    entropy_N: Tensor


def logprob(
    hidden_ND: Tensor,
    head: Tensor | Head,
    token_N: Tensor,
    *,
    vocab_size: int,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Score sampled tokens: (logp_N with gradient, entropy_N without).

    What will be done with the log-probs is not known yet, so the backward pass recomputes each chunk's logits:
    one extra product, constant memory.

    Args:
        hidden_ND: hidden states of the positions that predict `token_N`.
        head: a `Head` or its bare weight [V, D]; its gradient is skipped when it is frozen.
        token_N: int64 sampled ids, all below vocab_size and none that the head says is absent.
        vocab_size: real vocabulary; rows beyond it are padding: no probability, no gradient.
        temperature: logits are divided by it, as the sampler did.
        chunk: tokens per block; see `divergence`.
    Returns: nats, float32 (float64 for float64 input).
    Raises: UsageError: shapes disagree or an id is outside the vocabulary. ConfigError: bad temperature, chunk.
    """
    head = as_head(head)
    check_head(hidden_ND, head, vocab_size, temperature)
    _check_tokens(token_N, hidden_ND, vocab_size, head)
    settings = (vocab_size, temperature, chunk_rows(hidden_ND, vocab_size, chunk))
    result: tuple[Tensor, Tensor] = _LogProb.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, head.bias_V, head, token_N, settings
    )
    return result


def token_loss(
    hidden_ND: Tensor,
    head: Tensor | Head,
    token_N: Tensor,
    loss_of: Callable[[Tensor, slice], Tensor],
    *,
    vocab_size: int,
    temperature: float = 1.0,
    bonus_N: Tensor | None = None,
    chunk: int | None = None,
) -> ChunkedLoss:
    """Sum a differentiable function of the sampled tokens' log-probs, gradient finished in the forward.

    Args:
        hidden_ND: as in `logprob`, and so are all arguments not named here.
        head: as in `logprob`.
        token_N: as in `logprob`.
        loss_of: called once per chunk as loss_of(logp_C, rows), `rows` being the chunk's slice of the N tokens;
            returns [C] losses that already hold every coefficient, each depending on its own token alone.
        vocab_size: as in `logprob`.
        temperature: as in `logprob`.
        bonus_N: what each token's entropy is worth: bonus * H is taken off the loss. With H = - sum_v q_v log q_v,
            d H / d z_v = - q_v (log q_v + H) / temperature. None for no such term.
        chunk: as in `logprob`.
    Raises: UsageError: shapes disagree, an id is outside the vocabulary, or `loss_of` reduced its result.
    """
    head = as_head(head)
    check_head(hidden_ND, head, vocab_size, temperature)
    _check_tokens(token_N, hidden_ND, vocab_size, head)
    rule = _TokenRule(token_N, loss_of, temperature, bonus_N)
    return ChunkedLoss(*fused_sum(rule, hidden_ND, head, vocab_size, temperature, chunk))


@dataclass(frozen=True)
class _TokenRule:
    token_N: Tensor
    loss_of: Callable[[Tensor, slice], Tensor]
    temperature: float
    bonus_N: Tensor | None

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        token_C = self.token_N[rows]
        logp_C = logp_CV.gather(1, token_C[:, None])[:, 0].requires_grad_()
        with torch.enable_grad():
            loss_C = self.loss_of(logp_C, rows)
            total = loss_C.sum()
        if loss_C.shape != logp_C.shape:
            raise UsageError(
                f"loss_of returned shape {tuple(loss_C.shape)} for {tuple(logp_C.shape)} log-probs; "
                "return one loss per token, unreduced"
            )
        slope_C = torch.zeros_like(logp_C)
        if loss_C.requires_grad:
            (slope_C,) = torch.autograd.grad(total, logp_C)
        q_CV = logp_CV.exp()
        entropy_C = -row_dot(q_CV, logp_CV)
        if self.bonus_N is None:
            grad_CV = _token_gradient(q_CV, token_C, slope_C / self.temperature)
            return ChunkTerms(loss_C.detach(), logp_C.detach(), entropy_C, grad_CV)
        bonus_C = self.bonus_N[rows].to(logp_CV.dtype)
        push_CV = logp_CV.add_(entropy_C[:, None]).mul_(q_CV).mul_(bonus_C[:, None] / self.temperature)
        grad_CV = _token_gradient(q_CV, token_C, slope_C / self.temperature).add_(push_CV)
        return ChunkTerms(loss_C.detach() - bonus_C * entropy_C, logp_C.detach(), entropy_C, grad_CV)


class _LogProb(torch.autograd.Function):
    """Log-probability of given tokens; `backward` recomputes each chunk's logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Head,
        token_N: Tensor,
        settings: tuple[int, float, int],
    ) -> tuple[Tensor, Tensor]:
        vocab_size, temperature, step = settings
        ready = head.ready(vocab_size, hidden_ND.dtype)
        logp_N, entropy_N = (
            hidden_ND.new_empty(len(hidden_ND), dtype=wide(hidden_ND.dtype)) for _ in range(2)
        )
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows in chunks(len(hidden_ND), step):
                logp_CV, _ = ready.log_probs(hidden_ND[rows], temperature)
                logp_N[rows] = logp_CV.gather(1, token_N[rows, None])[:, 0]
                entropy_N[rows] = -row_dot(logp_CV.exp(), logp_CV)
                del logp_CV  # before the next chunk allocates its own
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, token_N)
        ctx.form = replace(head, weight_VD=weight_VD.new_empty(0), bias_V=None)
        ctx.settings = settings
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, token_N = ctx.saved_tensors
        vocab_size, temperature, step = ctx.settings
        head = replace(ctx.form, weight_VD=weight_VD, bias_V=bias_V)
        grads = HeadGradient(hidden_ND, head, vocab_size, ctx.needs_input_grad[:3])
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows in chunks(len(hidden_ND), step):
                logp_CV, slope_CV = grads.ready.log_probs(hidden_ND[rows], temperature)
                grad_CV = _token_gradient(logp_CV.exp_(), token_N[rows], grad_N[rows] / temperature)
                grads.add(rows, grad_CV, slope_CV)
                del logp_CV, grad_CV, slope_CV
        return (*grads.finish(), None, None, None)


def _token_gradient(q_CV: Tensor, token_C: Tensor, slope_C: Tensor) -> Tensor:
    """Overwrite q with slope * (1[v = token] - q)."""
    slope_C1 = slope_C.to(q_CV.dtype)[:, None]
    return q_CV.mul_(-slope_C1).scatter_add_(1, token_C[:, None], slope_C1)


def _check_tokens(token_N: Tensor, hidden_ND: Tensor, vocab_size: int, head: Head) -> None:
    if token_N.shape != hidden_ND.shape[:1]:
        raise UsageError(
            f"{tuple(token_N.shape)} tokens for {len(hidden_ND)} hidden states; pass one id each"
        )
    if token_N.numel() and not 0 <= int(token_N.min()) <= int(token_N.max()) < vocab_size:
        raise UsageError(
            f"token ids span {int(token_N.min())}..{int(token_N.max())}; all must lie in 0..{vocab_size - 1}"
        )
    if head.absent_V is not None and bool(head.absent_V[token_N].any()):
        stranger = int(token_N[head.absent_V[token_N]][0])
        raise UsageError(f"token id {stranger} belongs to no token of the tokenizer; it cannot be trained on")
