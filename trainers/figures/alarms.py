"""Alarms: signs of an unhealthy run, said in plain language.

Owns the thresholds and the sentences. An alarm is logged as a warning and counted in the metrics (`alarm/...` is 1);
it never stops a run. Leaves out the figures it looks at (`meters`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from .meters import DEPTHS

log = logging.getLogger(__name__)


class Alarms:
    """Watches the metrics of a run; remembers its first entropy."""

    def __init__(self, *, speaks: bool = True) -> None:
        """Start with no memory; one of several processes speaks for all."""
        self.speaks = speaks
        self.first_entropy: float | None = None

    def state(self) -> dict[str, Any]:
        """What to keep in a checkpoint."""
        return {"first_entropy": self.first_entropy}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.first_entropy = state["first_entropy"]

    def check(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Log what is wrong with these metrics and return {"alarm/<name>": 1.0} for each."""
        raised = {name: text for name, text in self._causes(metrics).items() if text}
        for text in raised.values() if self.speaks else ():
            log.warning("step %d: %s", step, text)
        return {f"alarm/{name}": 1.0 for name in raised}

    def _causes(self, metrics: Mapping[str, float]) -> dict[str, str]:
        return {
            "entropy_collapse": self._entropy(metrics),
            "zero_variance": _above(
                metrics,
                "zero_variance_share",
                0.9,
                "{:.0%} of the groups have members that all scored the same and teach nothing; "
                "use easier tasks, larger groups or a higher temperature",
            ),
            "engine_gap": _above(
                metrics,
                "engine_gap",
                0.05,
                "the engine's log-probs are {:.3f} nats off the trainer's on average; check dtype, temperature and "
                "that weights reach the engine",
            ),
            "merge_error": _above(
                metrics,
                "merge_error",
                0.1,
                "rounding to the engine's dtype takes {:.0%} off the adapters' update, in what is sampled and in "
                "checkpoints (adapter/ keeps all of it); set rollout.engine_options.dtype: float32",
            ),
            "ratio_drift": _above(
                metrics,
                "clip_share",
                0.3,
                "{:.0%} of the tokens are clipped: the policy moved too far in one step; "
                "lower learning_rate or updates_per_step",
            ),
            "truncated": _above(
                metrics,
                "truncated_share",
                0.2,
                "{:.0%} of the replies hit max_new_tokens and lost their end; raise the limit",
            ),
            "episode_errors": _above(
                metrics,
                "episode_error_share",
                0.05,
                "{:.0%} of the episodes broke for reasons of infrastructure and taught nothing; see rollouts/",
            ),
            "gap_by_depth": _depth(metrics),
        }

    def _entropy(self, metrics: Mapping[str, float]) -> str:
        entropy = metrics.get("entropy")
        if entropy is None:
            return ""
        if self.first_entropy is None:
            self.first_entropy = entropy
        if entropy >= 0.1 * self.first_entropy:
            return ""
        return (
            f"entropy fell from {self.first_entropy:.3f} to {entropy:.4f} nats: the student hardly explores any more; "
            "lower learning_rate, or stop here"
        )


def _above(metrics: Mapping[str, float], name: str, limit: float, text: str) -> str:
    value = metrics.get(name)
    return "" if value is None or value <= limit else text.format(value)


def _depth(metrics: Mapping[str, float]) -> str:
    """The teacher disagrees ever more along the episode: its scores on late turns may be noise."""
    name = "teacher_distance/turn_"
    seen = [value for key in _depth_keys() if (value := metrics.get(name + key)) is not None]
    if len(seen) < 2 or seen[0] <= 0.0 or seen[-1] <= max(3.0 * seen[0], 0.5):
        return ""
    return (
        f"the teacher's distance grows from {seen[0]:.2f} nats on early turns to {seen[-1]:.2f} on late ones: it may "
        "not know the states the student gets into; train it on such states or shorten the episodes"
    )


def _depth_keys() -> list[str]:
    ends = (*DEPTHS[1:], None)
    return [
        f"{first}+" if end is None else f"{first}-{end - 1}" for first, end in zip(DEPTHS, ends, strict=True)
    ]
