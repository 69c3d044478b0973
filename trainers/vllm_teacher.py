"""A frozen teacher in a vLLM engine of this process: sampled-token and top-K log-probs of given tokens.

vLLM scores prompts at temperature 1 over all rows of the model's head, padding rows included, and gives no entropy.
Leaves out the divergence over the full vocabulary, which needs hidden states (`teachers.LocalTeacher`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from agentbench.config import TeacherConfig
from agentbench.engines.vllm import build
from agentbench.engines.vllm_adapter import Piece
from agentbench.errors import EngineFailure, TrainingError, UsageError

from .batch import Batch
from .models import check_tokenizers
from .student import Student
from .teachers import TeacherScores

_ROWS = 64
"""Rows handed to vLLM at a time; bounds the memory of their scores."""


class VLLMTeacher:
    """Scores the student's tokens with vLLM."""

    def __init__(self, config: TeacherConfig, student: Student) -> None:
        """Start vLLM on the teacher.

        Args:
            config: names the model; `engine_options` are those of `agentbench.engines.vllm.build`.
            student: whose tokens it will read; gives vocabulary, temperature and dtype.
        Raises: UsageError: vLLM or the model cannot be used, or it has another tokenizer.
        """
        if student.temperature != 1.0:
            raise UsageError(
                f"a vllm teacher scores at temperature 1, but the student samples at {student.temperature}; "
                "set rollout.temperature: 1 or the teacher's backend: hf"
            )
        self.name = config.model_name_or_path
        dtype = str(student.dtype).removeprefix("torch.") if config.dtype == "auto" else config.dtype
        options = {"dtype": dtype, "revision": config.revision} | config.engine_options
        self.engine = build(self.name, **options)
        check_tokenizers(student.tokenizer, self.engine.tokenizer, self.name)
        self.vocab_size = student.vocab_size

    def score(self, batch: Batch, top_k: int = 0) -> TeacherScores:
        """Score every trained token on the student's own prompt; with `top_k`, also the likeliest ids.

        Raises: TrainingError: vLLM could not score a row, or prefers ids that the tokenizer does not have.
        """
        if top_k and not 0 < top_k <= self.vocab_size:
            raise UsageError(f"top_k = {top_k} must lie in 1..{self.vocab_size}, the size of the vocabulary")
        shape = tuple(batch.tokens_BT.shape)
        logp_BT = torch.zeros(shape)
        ids_BTK = torch.zeros((*shape, top_k), dtype=torch.long)
        topk_BTK = torch.zeros((*shape, top_k))
        for b, piece in self._pieces(batch, top_k):
            at_X = batch.mask_BT[b].nonzero()[:, 0]
            assert piece.scores is not None
            assert piece.score_ids is not None
            # row t - 1 of the scores speaks of token t; column 0 of the token itself, the others of the likeliest
            logp_BT[b, at_X] = torch.from_numpy(piece.scores)[at_X - 1, 0]
            if top_k:
                ids_XK = torch.from_numpy(piece.score_ids)[at_X - 1, 1:]
                self._check_ids(int(ids_XK.max()))
                ids_BTK[b, at_X] = ids_XK
                topk_BTK[b, at_X] = torch.from_numpy(piece.scores)[at_X - 1, 1:]
        if not top_k:
            return TeacherScores(logp_BT)
        return TeacherScores(logp_BT, topk_ids_BTK=ids_BTK, topk_logp_BTK=topk_BTK)

    def _pieces(self, batch: Batch, top_k: int) -> Iterator[tuple[int, Piece]]:
        """Scores of each row up to its last trained token."""
        mask_BT = batch.mask_BT
        rows = [
            tokens_T[: int(mask_T.nonzero()[-1, 0]) + 1].tolist()
            for tokens_T, mask_T in zip(batch.tokens_BT, mask_BT, strict=True)
        ]
        for first in range(0, len(rows), _ROWS):
            try:
                pieces = self.engine.score_rows(rows[first : first + _ROWS], top_k)
            except EngineFailure as error:
                raise TrainingError(
                    f"teacher {self.name!r} could not score a row: {error}; the last checkpoint is intact"
                ) from error
            yield from enumerate(pieces, start=first)

    def _check_ids(self, highest: int) -> None:
        if highest >= self.vocab_size:
            raise TrainingError(
                f"teacher {self.name!r} counts id {highest} among the likeliest, which is padding of its head: the "
                f"tokenizer has {self.vocab_size} tokens; set the teacher's backend: hf"
            )
