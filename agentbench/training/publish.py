"""Hands new weights to the engine, and checks that it answers with them.

An engine may load weights without an error and still answer with old ones: a packed copy of a tied head, a stale prefix
cache. So after every push both sides score the same tokens. Leaves out how weights travel (each engine's business).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..dialogue.segment import segment
from ..engine import Engine, Scorer
from ..errors import TrainingError
from ..trainer import Trainer
from ..types import Group

PROBE_TOKENS = 256
"""The probe is this long at most."""


def publish(
    engine: Engine, trainer: Trainer, groups: Sequence[Group], step: int, tolerance: float | None
) -> float | None:
    """Load the trainer's weights into the engine and compare the two on a probe.

    Args:
        engine: receives the weights; one that cannot score tokens is not checked.
        trainer: every process must call this, and all pass a tolerance or none does.
        groups: episodes of this step; the first one's tokens are the probe.
        step: named in the error.
        tolerance: largest mean absolute difference of log-probs, in nats a token; None does not look.
    Returns: that difference, or None where nobody looked.
    Raises: TrainingError: the engine does not answer with the trainer's weights.
    """
    engine.load_weights(trainer.weights())
    if tolerance is None or not isinstance(engine, Scorer):
        return None
    probe = _probe(engine, groups)
    trained = trainer.score_tokens(probe)
    served = engine.score(probe)
    gap = sum(abs(a - b) for a, b in zip(trained, served, strict=True)) / len(trained)
    if not gap <= tolerance:  # NaN is no agreement
        raise TrainingError(
            f"step {step}: after its weights were updated, engine {engine.info.get('name')!r} gives log-probs "
            f"{gap:.3g} nats a token away from the trainer's (rollout.publish_tolerance allows {tolerance}): it does "
            "not answer with the new weights, or computes in a much lower precision. The last checkpoint is intact; "
            "try engine: hf"
        )
    return gap


def _probe(engine: Engine, groups: Sequence[Group]) -> list[int]:
    for group in groups:
        for member in group.members:
            for row in segment(member):
                if len(row.token_ids) > 1:
                    return list(row.token_ids[: min(PROBE_TOKENS, engine.max_context - 1)])
    text_ids: list[int] = engine.tokenizer.encode("0 1 2 3 4 5 6 7", add_special_tokens=False)
    return text_ids
