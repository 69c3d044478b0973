"""LSM: local support matching. Both distributions are conditioned on the teacher's K likeliest tokens, and compared.

Source: Revisiting On-Policy Distillation, arXiv:2603.25562, variant V1: truncated reverse KL on the renormalised
support, mean over the group's tokens, rollouts with top-p 0.9. Leaves out the variants that sample from the tail; a
tail bucket or another divergence is `gkd` with support top_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from agentbench.config import Section
from agentbench.errors import UsageError
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .base import Algorithm
from .batch.tables import Batch
from .maths.reductions import Reduction
from .objectives import TopK
from .preconditions import require_one_teacher
from .teachers.open import open_teacher


class LsmConfig(Section):
    """Keys of `lsm`.

    Attributes:
        k: size of the support, K.
        masked_tokens: texts of single tokens whose first occurrence in a reply is not trained (format tokens such as
            "<", "think"), as the paper's option.
        reduction: mean over all tokens of the step, as in the paper.
    """

    k: int = Field(default=32, ge=1)
    masked_tokens: tuple[str, ...] = ()
    reduction: Reduction = "token_mean"


class Lsm(Algorithm):
    """Teacher top-K local support matching; see `LsmConfig`."""

    def __init__(self, run: TrainConfig, settings: LsmConfig) -> None:
        require_one_teacher(run)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_teacher(run.teachers[0], self.student, top_k=settings.k)
        self.masked = [self._only_id(text) for text in settings.masked_tokens]

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One gradient step on the truncated reverse KL; no policy gradient."""
        batch = self.collate(groups)
        old = self.probe(batch)
        scores = self.teacher.score(batch, self.settings.k)  # S(c): the teacher's K likeliest tokens
        objective = TopK(scores, "reverse_kl", "renormalise")  # sum_S q^ log(q^ / p^)
        descent = self.descend(
            batch, objective, reduction=self.settings.reduction, step=step, keep_BT=self._kept(batch)
        )
        assert scores.topk_ids_BTK is not None
        outside_BT = ~(scores.topk_ids_BTK == batch.tokens_BT[..., None]).any(dim=-1)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            columns={"divergence": descent.columns["divergence"]},
            figures={
                "support_mass": descent.columns["support_mass"],  # 1 - this is what the loss cannot see
                "outside_support_share": 1.0 * outside_BT,
            },
        )

    def _kept(self, batch: Batch) -> Tensor | None:
        """False on the first occurrence of each masked token in each turn."""
        if not self.masked:
            return None
        keep_BT = torch.ones_like(batch.mask_BT)
        for token in self.masked:
            hit_BT = (batch.tokens_BT == token) & batch.mask_BT
            for row in hit_BT.any(dim=1).nonzero()[:, 0].tolist():
                seen: set[int] = set()
                for place in hit_BT[row].nonzero()[:, 0].tolist():
                    turn = int(batch.turn_BT[row, place])
                    if turn not in seen:
                        seen.add(turn)
                        keep_BT[row, place] = False
        return keep_BT

    def _only_id(self, text: str) -> int:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise UsageError(
                f"trainer.masked_tokens: {text!r} is {len(ids)} tokens of this tokenizer, not one"
            )
        return int(ids[0])


SPEC = TrainerSpec(
    id="lsm",
    config=LsmConfig,
    build=Lsm,
    needs=frozenset({"teacher"}),
    paper="Revisiting On-Policy Distillation (LSM), arXiv:2603.25562",
)
