"""A frozen teacher in a vLLM engine of this process: sampled-token and top-K log-probs of given tokens.

vLLM scores prompts at temperature 1, here over the student's ids alone, and gives no entropy.
Leaves out the divergence over the full vocabulary, which needs hidden states (`teachers.LocalTeacher`).
"""

from __future__ import annotations

from collections.abc import Iterator

from agentbench.engines.vllm.opening import build
from agentbench.errors import EngineFailure, TrainingError
from agentbench.training.config import TeacherConfig

from ..batch.tables import Batch
from ..student.hidden import check_tokenizers
from ..student.student import Student
from .contract import TeacherScores, require_rows, require_top_k
from .prompt_scores import RowScores, require_temperature_one, row_tokens, table

_ROWS = 64
"""Rows handed to vLLM at a time; bounds the memory of their scores."""


class VLLMTeacher:
    """Scores the student's tokens with vLLM."""

    def __init__(self, config: TeacherConfig, student: Student) -> None:
        """Start vLLM on the teacher.

        Args:
            config: names the model; `engine_options` are those of `agentbench.engines.vllm.opening.build`.
            student: whose tokens it will read; gives vocabulary, temperature and dtype.
        Raises: UsageError: vLLM or the model cannot be used, or it has another tokenizer.
        """
        require_temperature_one(student, "a vllm teacher")
        self.name = config.model_name_or_path
        dtype = str(student.dtype).removeprefix("torch.") if config.dtype == "auto" else config.dtype
        options = {"dtype": dtype, "revision": config.revision} | config.engine_options
        self.engine = build(self.name, **options)
        check_tokenizers(student.tokenizer, self.engine.tokenizer, self.name, extra=config.extra_tokens)
        self.vocabulary = student.vocabulary
        require_rows(self.vocabulary, self.engine.vocabulary, self.name)
        self.engine.restrict(self.vocabulary)
        self.max_context = self.engine.max_context
        student.origins[self.name] = str(self.engine.info["weights"])

    def score(self, batch: Batch, top_k: int = 0) -> TeacherScores:
        """Score every trained token on the student's own prompt; with `top_k`, also the likeliest ids.

        Raises: TrainingError: vLLM could not score a row, or prefers ids that the tokenizer does not have.
        """
        require_top_k(top_k, self.vocabulary.count)
        return table(batch, self._rows(batch, top_k), top_k, self.vocabulary, self.name)

    def _rows(self, batch: Batch, top_k: int) -> Iterator[RowScores]:
        rows = row_tokens(batch)
        for first in range(0, len(rows), _ROWS):
            try:
                pieces = self.engine.score_rows(rows[first : first + _ROWS], top_k)
            except EngineFailure as error:
                raise TrainingError(
                    f"teacher {self.name!r} could not score a row: {error}; the last checkpoint is intact"
                ) from error
            for piece in pieces:
                assert piece.scores is not None
                assert piece.score_ids is not None
                # column 0 is of the token itself, the others are of the likeliest
                yield piece.scores[:, 0], piece.score_ids[:, 1:], piece.scores[:, 1:]
