"""What is pinned and what is free when a run goes on: one table for evaluations and training runs.

Pinned is everything that can move a number, and so is every key that this table does not name: an engine of a stranger
may have options that do. Free is what only says how the work gets done. What is named by a file (a panel, a prompt, a
script) is pinned by the file's digest in versions.json, so its spelling is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

ABSENT = "(not set)"

ENGINE = (
    "api_key_env",
    "base_url",
    "cache_bytes",
    "max_in_flight",
    "max_tokens_field",
    "prefill_tokens",
    "prices",
    "request_timeout",
    "requests_per_minute",
    "retries",
    "sleeps",
    "slots",
    "weights_folder",
)
"""Options of engines that move no result: addresses, keys, patience, memory."""

EVALUATION = (
    *(
        "output_dir",
        "concurrency",
        "step_seconds",
        "episode_seconds",
        "retries",
        "allow_missing",
        "max_error_rate",
        "give_up_after",
    ),
    *("panel", "prompt"),  # pinned as versions.json's panel.sha256 and policy.prompt.digest
    *(f"engine_options.{name}" for name in ENGINE),
)
"""Keys of EvalConfig that may change on resume."""

FACTS = ("policy.engine.base_url", "policy.engine.keeps_cache", "policy.prompt.name", "panel.banners")
"""Facts of versions.json that follow from free keys."""

TRAINING = (
    *("output_dir", "report_to", "save_steps", "save_total_limit"),
    *("tokens_per_micro_batch", "gradient_checkpointing"),
    *("rollout.concurrency", "rollout.publish_tolerance"),
    *("rollout.step_seconds", "rollout.episode_seconds", "rollout.retries"),  # as in an evaluation
    *("env.prompt", "eval.panel", "rollout.recordings"),  # pinned by digest, too
    "eval.teachers",
    *(f"rollout.engine_options.{name}" for name in ENGINE),
    "teachers.*.base_url",
    *(f"teachers.*.engine_options.{name}" for name in ENGINE),
    *(f"teachers.*.speaker.engine_options.{name}" for name in ENGINE),
)
"""Keys of TrainConfig that may change on resume; `max_steps` may grow where the learning rate does not depend on it."""

PINNED_BECAUSE = {
    "max_steps": " (the learning rate of lr_scheduler_type linear and cosine depends on it, that of constant does not)",
    "num_processes": " (each process has random states of its own)",
}
"""What a refusal adds where the reason is not plain."""

_BY_DIGEST = ("replay", "scripted")
"""Policies whose file is pinned by its digest."""


def changes(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every place where two nested values differ: (dotted key, old, new)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            dotted = f"{where}.{key}" if where else str(key)
            yield from changes(old.get(key, ABSENT), new.get(key, ABSENT), dotted)
    elif _listed(old) and _listed(new) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from changes(before, after, f"{where}.{place}")
    elif old != new:
        yield where, old, new


def pinned(found: Iterable[tuple[str, Any, Any]], free: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """Of the changes, those that may not be: their keys match no free pattern, and they are no other spelling."""
    patterns = tuple(free)
    return [item for item in found if not is_free(item[0], patterns) and not _same_thing(*item)]


def is_free(key: str, patterns: Iterable[str]) -> bool:
    """Tell whether a dotted key, or a section above it, matches one of the patterns ("*" stands for a number)."""
    parts = key.split(".")
    heads = [".".join(parts[: size + 1]) for size in range(len(parts))]
    return any(fnmatchcase(head, pattern) for pattern in patterns for head in heads)


def _listed(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _same_thing(key: str, old: Any, new: Any) -> bool:
    """Tell whether two values mean one thing: a path spelled otherwise, a file pinned by its digest, a key left out."""
    if old == ABSENT:  # a key that this release added, at a value that says nothing
        return new in (None, {}, [])
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    if key == "policy":
        (kind, old), (other, new) = (text.partition(":")[::2] for text in (old, new))
        return kind == other and kind in _BY_DIGEST
    named = key.endswith(("model_name_or_path", "policy.engine.model"))
    return named and os.path.exists(old) and os.path.realpath(old) == os.path.realpath(new)
