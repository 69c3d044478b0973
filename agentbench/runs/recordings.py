"""Recorded episodes that a training run plays again or learns from: reading them, checking them, choosing among tries.

Leaves out saying them again (`policies.demonstrations`) and what is learnt from them (`trainers`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import CorruptData, UsageError
from ..types import Trajectory
from .episodes import encode_episode, read_episodes


def read_recordings(path: str, env: str) -> dict[str, Trajectory]:
    """Read the best healthy episode of every task from a run folder or an episodes file.

    Args:
        path: run folder or file, such as `agentbench eval` writes; with --repeats a task has several tries.
        env: plug-in name that the episodes must be of.
    Raises: UsageError: no such file, nothing in it, or episodes of another env.
    """
    episodes = [episode for episode in read_episodes(Path(path)) if episode.ok and episode.turns]
    if not episodes:
        raise UsageError(
            f"rollout.recordings = {path!r} holds no healthy episode; record some: agentbench eval"
        )
    foreign = next((episode for episode in episodes if episode.env != env), None)
    if foreign is not None:
        raise UsageError(
            f"rollout.recordings = {path!r} holds episodes of env {foreign.env!r}, the run plays {env!r}"
        )
    return best_tries(episodes)


def best_tries(episodes: Iterable[Trajectory]) -> dict[str, Trajectory]:
    """Choose one episode for each task: solved before unsolved, then the higher score, the fewer turns, the first."""
    best: dict[str, Trajectory] = {}
    for episode in sorted(episodes, key=lambda item: item.repeat):
        held = best.get(episode.task)
        if held is None or _merit(episode) > _merit(held):
            best[episode.task] = episode
    return best


def _merit(episode: Trajectory) -> tuple[bool, float, int]:
    return bool(episode.success), episode.score, -len(episode.turns)


def check_ids(episode: Trajectory, vocab_size: int, source: str) -> None:
    """Refuse token ids of another tokenizer.

    Raises: CorruptData: an id that the tokenizer of `vocab_size` tokens does not have.
    """
    ids = [token for turn in episode.turns for token in (*turn.context_ids, *turn.action.token_ids)]
    if ids and max(ids) >= vocab_size:
        raise CorruptData(
            f"episode {episode.id!r} of {source!r} holds token id {max(ids)}, but the student's tokenizer has "
            f"{vocab_size} tokens: it was recorded with another tokenizer"
        )


def digest_of(path: str) -> str:
    """Hash the recorded episodes, whatever their order in the file."""
    lines = sorted(encode_episode(episode) for episode in read_episodes(Path(path)))
    return hashlib.sha256(b"\n".join(lines)).hexdigest()
