"""Divergence on the teacher's K likeliest ids, as a rule for `fused`. Leaves out the formulas (`maths.divergences`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..maths.divergences import Kind, TailMode, on_support
from .fused import ChunkTerms, row_dot


@dataclass(frozen=True)
class SupportRule:
    """Gradient of a function of K log-probs: slope on their ids, minus q times the slopes' sum."""

    kind: Kind
    tail: TailMode
    beta: float
    kd_temperature: float
    ids_XK: Tensor
    teacher_XK: Tensor
    weight_X: Tensor
    temperature: float

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Value and gradient of a chunk of rows."""
        ids_CK = self.ids_XK[rows]
        # K numbers of a row are few: autograd works out their slopes, and only the softmax around them is ours
        student_CK = logp_CV.gather(1, ids_CK).requires_grad_()
        with torch.enable_grad():
            value_C = on_support(
                student_CK,
                self.teacher_XK[rows].to(logp_CV.dtype),
                kind=self.kind,
                tail=self.tail,
                beta=self.beta,
                kd_temperature=self.kd_temperature,
            )
            weighted_C = self.weight_X[rows].to(logp_CV.dtype) * value_C
            (slope_CK,) = torch.autograd.grad(weighted_C.sum(), student_CK)
        slope_CK = slope_CK / self.temperature
        mass_C = row_dot(student_CK.detach().exp(), torch.ones_like(slope_CK))
        grad_CV = logp_CV.exp_().mul_(-slope_CK.sum(dim=1, keepdim=True)).scatter_add_(1, ids_CK, slope_CK)
        return ChunkTerms(weighted_C.detach(), value_C.detach(), mass_C, grad_CV)
