"""Divergence on the student's K likeliest ids and a bucket for the rest, as a rule for `fused`.

The choice of ids carries no gradient. Leaves out formulas (`maths.divergences`), the gradient and
the teacher's choice (`support`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..maths.divergences import Kind, on_support
from .fused import ChunkTerms, LinearHead
from .support import support_terms


@dataclass(frozen=True)
class OwnSupportRule:
    """The divergence with the student's choice of ids; a later step on a batch weighs tokens by importance.

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
        ids_CK = logp_CV.topk(self.k, dim=-1).indices
        teacher_CK = teacher_CV.gather(1, ids_CK)
        weight_C = self.weight_X[rows].to(logp_CV.dtype)
        if self.old_X is not None:
            ratio_C = (logp_CV.gather(1, token_C1)[:, 0] - self.old_X[rows].to(logp_CV.dtype)).exp()
            weight_C = weight_C * ratio_C.clamp(max=self.ratio_cap)

        def value(student_CK: Tensor) -> Tensor:
            return on_support(student_CK, teacher_CK, kind=self.kind, tail="tail", beta=self.beta)

        return support_terms(logp_CV, ids_CK, value, weight_C, 1.0, teacher_CV.gather(1, token_C1)[:, 0])
