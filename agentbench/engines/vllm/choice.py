"""Guided choice inside vLLM: a reply is one of given id sequences. Leaves out checking them (`vllm`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ends_once(choice: Sequence[int], end_ids: Sequence[int]) -> bool:
    """Whether the last of a choice's ids ends a reply, and no other does."""
    return [token in end_ids for token in choice] == [False] * (len(choice) - 1) + [True]


class ChoiceProcessor:
    """A logits processor of vLLM: what no choice goes on with gets no probability.

    vLLM keeps the list of a reply's ids up to date, and moves replies between rows; both come through `update_state`.
    """

    def __init__(self, config: Any, device: Any, is_pin_memory: bool) -> None:
        """Start without rows; the arguments are vLLM's."""
        self._rows: dict[int, tuple[Sequence[tuple[int, ...]], list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Nothing to refuse: the engine has checked the choices."""

    def is_argmax_invariant(self) -> bool:
        """Greedy replies are restricted, too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow requests as they come, go and change rows."""
        if batch_update is None:
            return
        from vllm.v1.sample.logits_processor import MoveDirectionality

        rows = self._rows
        for row in batch_update.removed:
            rows.pop(row, None)
        for row, parameters, _, said in batch_update.added:
            rows.pop(row, None)
            choices = (parameters.extra_args or {}).get("choices")
            if choices is not None:
                rows[row] = (choices, said)
        for source, target, direction in batch_update.moved:
            moved, displaced = rows.pop(source, None), rows.pop(target, None)
            if moved is not None:
                rows[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                rows[source] = displaced

    def apply(self, logits: Any) -> Any:
        """Set what may not be sampled to -inf."""
        for row, (choices, said) in self._rows.items():
            at, begun = len(said), tuple(said)
            allowed = sorted({c[at] for c in choices if len(c) > at and tuple(c[:at]) == begun})
            kept = logits[row, allowed]
            logits[row] = float("-inf")
            logits[row, allowed] = kept
        return logits


def choice_processor() -> type:
    """The class above as one of vLLM's logits processors, whose base cannot be imported before it is wanted."""
    from vllm.v1.sample.logits_processor import LogitsProcessor

    LogitsProcessor.register(ChoiceProcessor)
    return ChoiceProcessor
