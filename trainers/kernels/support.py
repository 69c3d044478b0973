"""Divergences on K ids, as rules for `fused`: the teacher's likeliest, or the student's, with the sampled token beside.

Leaves out the formulas (`maths.divergences`, `maths.local_support`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..maths.divergences import Kind, TailMode, on_support
from ..maths.local_support import SampledToken, local_support
from .fused import ChunkTerms, LinearHead


@dataclass(frozen=True)
class SupportRule:
    """A divergence on given ids, with the teacher's log-probs of them."""

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
        teacher_CK = self.teacher_XK[rows].to(logp_CV.dtype)

        def value(student_CK: Tensor) -> Tensor:
            return on_support(
                student_CK,
                teacher_CK,
                kind=self.kind,
                tail=self.tail,
                beta=self.beta,
                kd_temperature=self.kd_temperature,
            )

        ids_CK, weight_C = self.ids_XK[rows], self.weight_X[rows].to(logp_CV.dtype)
        mass_C = logp_CV.gather(1, ids_CK).exp().sum(dim=1)
        return support_terms(logp_CV, ids_CK, value, weight_C, self.temperature, mass_C)


@dataclass(frozen=True)
class TeacherSupport:
    """S is the teacher's: K ids with the teacher's log-probs of them and of the sampled token."""

    ids_XK: Tensor
    logp_XK: Tensor
    token_logp_X: Tensor

    def __call__(self, logp_CV: Tensor, token_C: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Ids of S, and the teacher's log-probs of them and of the sampled token, [C, K + 1]."""
        return self.ids_XK[rows], torch.cat([self.logp_XK[rows], self.token_logp_X[rows, None]], dim=1)


@dataclass(frozen=True)
class StudentSupport:
    """S is the student's own, at the moment of the update: its K likeliest ids, scored by a whole teacher.

    Attributes:
        teacher: with a head that is ready for products.
    """

    teacher: LinearHead
    k: int

    def __call__(self, logp_CV: Tensor, token_C: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Ids of S, and the teacher's log-probs of them and of the sampled token, [C, K + 1]."""
        ids_CK = logp_CV.topk(self.k, dim=-1).indices
        teacher_CV, _ = self.teacher.head.log_probs(self.teacher.hidden_ND[rows], 1.0)
        return ids_CK, teacher_CV.gather(1, torch.cat([ids_CK, token_C[:, None]], dim=1))


@dataclass(frozen=True)
class LocalSupportRule:
    """Local support matching, see `maths.local_support`; reports the divergence and the student's mass on S."""

    support: TeacherSupport | StudentSupport
    sampled_token: SampledToken
    token_X: Tensor
    old_X: Tensor
    weight_X: Tensor

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Value and gradient of a chunk of rows."""
        token_C, old_C = self.token_X[rows], self.old_X[rows].to(logp_CV.dtype)
        ids_CK, teacher_CL = self.support(logp_CV, token_C, rows)  # L = K + 1: S and the sampled token
        inside_C = (ids_CK == token_C[:, None]).any(dim=1)
        teacher_CL = teacher_CL.to(logp_CV.dtype)
        mass_C = logp_CV.gather(1, ids_CK).exp().sum(dim=1)

        def value(student_CL: Tensor) -> Tensor:
            return local_support(student_CL, teacher_CL, inside_C, old_C, sampled_token=self.sampled_token)

        ids_CL, weight_C = torch.cat([ids_CK, token_C[:, None]], dim=1), self.weight_X[rows].to(logp_CV.dtype)
        return support_terms(logp_CV, ids_CL, value, weight_C, 1.0, mass_C)


def support_terms(
    logp_CV: Tensor,
    ids_CK: Tensor,
    value_of: Callable[[Tensor], Tensor],
    weight_C: Tensor,
    temperature: float,
    second_C: Tensor,
) -> ChunkTerms:
    """Gradient of a function of K log-probs: slopes on their ids, which may repeat, minus q times the slopes' sum.

    Args:
        logp_CV: the student's; overwritten.
        value_of: log-probs of the ids [C, K] -> what is summed, [C].
        second_C: reported beside the value.
    """
    # K numbers of a row are few: autograd works out their slopes, and only the softmax around them is ours
    student_CK = logp_CV.gather(1, ids_CK).requires_grad_()
    with torch.enable_grad():
        value_C = value_of(student_CK)
        weighted_C = weight_C * value_C
        (slope_CK,) = torch.autograd.grad(weighted_C.sum(), student_CK)
    slope_CK = slope_CK / temperature
    grad_CV = logp_CV.exp_().mul_(-slope_CK.sum(dim=1, keepdim=True)).scatter_add_(1, ids_CK, slope_CK)
    return ChunkTerms(weighted_C.detach(), value_C.detach(), second_C, grad_CV)
