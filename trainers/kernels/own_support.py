"""Divergence on the student's K likeliest ids and a bucket for the rest, as a rule for `fused`.

The choice of ids carries no gradient. Leaves out formulas (`maths.divergences`) and the teacher's choice (`support`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..maths.divergences import Kind, on_support
from .fused import ChunkTerms, LinearHead


@dataclass(frozen=True)
class OwnSupportRule:
    """Gradient of a function of K log-probs: slope on their ids, minus q times the slopes' sum.

    Attributes:
        teacher: its hidden states of all tokens and its head, ready for products; its D may differ from the student's.
        token_X: the sampled tokens.
        weight_X: coefficient of each token, constant.
        old_X: their log-probs before the first step on this batch; None leaves importance out.
        ratio_cap: largest importance weight.
    """

    teacher: LinearHead
    k: int
    kind: Kind
    beta: float
    token_X: Tensor
    weight_X: Tensor
    old_X: Tensor | None = None
    ratio_cap: float = 2.0

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Value and gradient of a chunk of rows; the second column is the teacher's log-prob of the sampled token."""
        token_C1 = self.token_X[rows, None]
        teacher_CV = self.teacher.head.log_probs(self.teacher.hidden_ND[rows], 1.0)[0].to(logp_CV.dtype)
        best = logp_CV.topk(self.k, dim=-1)
        teacher_CK = teacher_CV.gather(1, best.indices)
        weight_C = self.weight_X[rows].to(logp_CV.dtype)
        if self.old_X is not None:
            ratio_C = (logp_CV.gather(1, token_C1)[:, 0] - self.old_X[rows].to(logp_CV.dtype)).exp()
            weight_C = weight_C * ratio_C.clamp(max=self.ratio_cap)
        student_CK = best.values.detach().requires_grad_()
        with torch.enable_grad():
            value_C = on_support(student_CK, teacher_CK, kind=self.kind, tail="tail", beta=self.beta)
            weighted_C = weight_C * value_C
            (slope_CK,) = torch.autograd.grad(weighted_C.sum(), student_CK)
        spoken_C = teacher_CV.gather(1, token_C1)[:, 0]
        grad_CV = logp_CV.exp_().mul_(-slope_CK.sum(dim=1, keepdim=True))
        grad_CV.scatter_add_(1, best.indices, slope_CK)
        return ChunkTerms(weighted_C.detach(), value_C.detach(), spoken_C, grad_CV)
