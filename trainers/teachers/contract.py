"""What a teacher says of a batch, and the protocol that says it. Leaves out who says it (`local`, `server`, `vllm`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.models.vocabulary import Vocabulary

from ..batch.micro import Micro
from ..batch.tables import Batch
from ..kernels.fused import LinearHead


@dataclass(frozen=True)
class TeacherScores:
    """What a teacher says of a batch, float32 nats; 0 off trained tokens.

    Attributes:
        logp_BT: log-prob of the token on record.
        entropy_BT: of the teacher's distribution, or None.
        topk_ids_BTK: its K likeliest ids, best first, or None.
        topk_logp_BTK: their log-probs under its full distribution.
    """

    logp_BT: Tensor
    entropy_BT: Tensor | None = None
    topk_ids_BTK: Tensor | None = None
    topk_logp_BTK: Tensor | None = None


class Teacher(Protocol):
    """Scores given tokens.

    Attributes:
        max_context: most tokens in a row that it can read.
    """

    max_context: int

    def score(self, batch: Batch, top_k: int = 0) -> TeacherScores:
        """Score every trained token on the student's own prompt; with `top_k`, also the likeliest ids.

        Raises: TrainingError: it cannot be reached any more; nothing is ever filled in for a missing score.
        """
        ...


@runtime_checkable
class WholeTeacher(Teacher, Protocol):
    """A teacher in this process, whose whole distribution can be had."""

    @property
    def budget(self) -> int:
        """Tokens of its micro-batches."""
        ...

    def linear_head(self, micro: Micro) -> LinearHead:
        """Hidden states [X, D] that predict the trained tokens, and the head."""
        ...


def require_top_k(top_k: int, vocab_size: int) -> None:
    """Refuse more likeliest ids than there are; 0 asks for none."""
    if top_k and not 0 < top_k <= vocab_size:
        raise UsageError(f"top_k = {top_k} must lie in 1..{vocab_size}, the size of the vocabulary")


def require_rows(student: Vocabulary, teacher: Vocabulary, name: str) -> None:
    """Refuse a teacher that has no row for an id that the student can say.

    Raises: UsageError: names the id.
    """
    ids = np.flatnonzero(student.exists)
    missing = ids[~teacher.has(ids)]
    if missing.size:
        raise UsageError(
            f"teacher {name!r} has no row for {missing.size} ids that the student can say, the first is {missing[0]}; "
            "it could never give them a probability. Choose a teacher with at least the student's vocabulary"
        )
