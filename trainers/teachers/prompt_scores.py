"""What teachers behind an interface share: rows of tokens out, scores of prompts in, one table of them.

Such a teacher scores prompts at temperature 1 and gives no entropy. A server does so over all rows of its head, padding
included (of a trained model, padding has hardly any probability); in this process vLLM is told to leave it out.
Leaves out who is asked, and how (`server_teacher`, `vllm_teacher`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agentbench.errors import TrainingError, UsageError
from agentbench.models.vocabulary import Vocabulary

from ..batch.tables import Batch
from ..student.student import Student
from .contract import TeacherScores

RowScores = tuple[npt.NDArray[np.float32], npt.NDArray[np.integer], npt.NDArray[np.float32]]
"""Of a row of T tokens: log-prob of each but the first [T - 1], its likeliest ids [T - 1, K] and their log-probs."""


def require_temperature_one(student: Student, who: str) -> None:
    """Refuse another temperature: log-probs of prompts ignore it."""
    if student.temperature != 1.0:
        raise UsageError(
            f"{who} scores at temperature 1, but the student samples at {student.temperature}; "
            "set rollout.temperature: 1 or the teacher's backend: hf"
        )


def row_tokens(batch: Batch) -> list[list[int]]:
    """Token ids of each row, up to its last trained one."""
    return [
        tokens_T[: int(mask_T.nonzero()[-1, 0]) + 1].tolist()
        for tokens_T, mask_T in zip(batch.tokens_BT, batch.mask_BT, strict=True)
    ]


def table(
    batch: Batch, rows: Iterable[RowScores], top_k: int, vocabulary: Vocabulary, name: str
) -> TeacherScores:
    """Put the scores of all rows, in order, where their trained tokens are.

    Args:
        batch: whose rows were scored.
        rows: as `RowScores`.
        top_k: K; 0 leaves the likeliest ids out.
        vocabulary: ids that exist.
        name: of the teacher, for the error.
    Raises: TrainingError: the likeliest ids are not the tokenizer's.
    """
    shape = tuple(batch.tokens_BT.shape)
    logp_BT = torch.zeros(shape)
    ids_BTK = torch.zeros((*shape, top_k), dtype=torch.long)
    topk_BTK = torch.zeros((*shape, top_k))
    mask_BT = batch.mask_BT
    for b, (logp, ids, topk) in enumerate(rows):
        at_X = mask_BT[b].nonzero()[:, 0]
        # entry t - 1 of the scores speaks of token t
        logp_BT[b, at_X] = torch.from_numpy(logp)[at_X - 1]
        if top_k:
            ids_XK = torch.from_numpy(ids)[at_X - 1].long()
            _check_ids(ids_XK, vocabulary, name)
            ids_BTK[b, at_X] = ids_XK
            topk_BTK[b, at_X] = torch.from_numpy(topk)[at_X - 1]
    if not top_k:
        return TeacherScores(logp_BT)
    return TeacherScores(logp_BT, topk_ids_BTK=ids_BTK, topk_logp_BTK=topk_BTK)


def _check_ids(ids_XK: Tensor, vocabulary: Vocabulary, name: str) -> None:
    known = vocabulary.has(ids_XK.numpy())
    if not known.all():
        stranger = int(ids_XK.numpy()[~known][0])
        raise TrainingError(
            f"teacher {name!r} counts id {stranger} among the likeliest, which is padding of its head or a token that "
            f"the student lacks: there are {vocabulary.count} ids; set the teacher's backend: hf"
        )
