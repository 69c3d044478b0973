"""Several teachers, as rules for `fused`: a sum of divergences, or one divergence from a mixture.

The student's logits are computed once for all teachers and each teacher's in turn, so one more teacher costs a product
with its head, its hidden states [N, D] and a [chunk, V] buffer; separate sums would hold the gradient of the student's
head, [V, D], once for each.
Leaves out the weights themselves, and who the teachers are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .divergence import DivergenceRule
from .fused import ChunkTerms, Rule
from .head import lowest


@dataclass(frozen=True)
class SumRule:
    """Sum of K rules, each with its own weights.

    Attributes:
        rules: at least one; with one, the result is that rule's to the bit.
        value_NK: filled with the value of every rule, unweighted.
    """

    rules: tuple[Rule, ...]
    value_NK: Tensor

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Value and gradient of a chunk of rows."""
        last = len(self.rules) - 1
        total: ChunkTerms | None = None
        for k, rule in enumerate(self.rules):
            terms = rule(
                logp_CV if k == last else logp_CV.clone(), rows
            )  # a rule overwrites what it is given
            self.value_NK[rows, k] = terms.first_C
            total = terms if total is None else _added(total, terms)
        assert total is not None
        return total


def _added(a: ChunkTerms, b: ChunkTerms) -> ChunkTerms:
    return ChunkTerms(
        a.loss_C + b.loss_C, a.first_C + b.first_C, a.second_C + b.second_C, a.grad_CV.add_(b.grad_CV)
    )


@dataclass(frozen=True)
class MixtureRule:
    """One divergence from the mixture sum_k w_k p_k.

    Attributes:
        rules: one for each teacher, equal but for it; the first one's weights multiply the divergence.
        share_NK: w, not negative, of sum 1 in every row that counts.
    """

    rules: tuple[DivergenceRule, ...]
    share_NK: Tensor

    def __call__(self, logp_CV: Tensor, rows: slice) -> ChunkTerms:
        """Value and gradient of a chunk of rows."""
        dtype = logp_CV.dtype
        # finite, so that a row without any teacher, which has coefficient 0, adds 0 and not NaN
        share_CK = self.share_NK[rows].to(dtype).log().clamp_(min=lowest(dtype) / 2)
        mixture_CV: Tensor | None = None
        for k, rule in enumerate(self.rules):
            part_CV = rule.teacher_log_probs(rows, dtype).add_(share_CK[:, k, None])
            mixture_CV = part_CV if mixture_CV is None else torch.logaddexp(mixture_CV, part_CV)
        assert mixture_CV is not None
        return self.rules[0].terms(logp_CV, mixture_CV, rows)
