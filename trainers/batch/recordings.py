"""Recorded episodes as training data: reading them with checks, and drawing from them step by step.

Leaves out what is learnt from them (`sft`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from agentbench.errors import UsageError
from agentbench.runs.episodes import EPISODES, read_episodes
from agentbench.runs.recordings import check_ids
from agentbench.types import Trajectory, derive_seed


def read_recording(path: str, vocab_size: int, *, successes_only: bool) -> list[Trajectory]:
    """Read the healthy episodes of a run folder or an episodes file, in order of their ids.

    Args:
        path: run folder or file.
        vocab_size: of the tokenizer that has to read the recorded ids.
        successes_only: leave out episodes that did not succeed.
    Raises:
        UsageError: no such file, nothing in it, or its author spoke text without token ids.
        CorruptData: token ids of another tokenizer.
    """
    file = Path(path) / EPISODES if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UsageError(f"trainer.path = {path!r}: no such file; give a run folder or its {EPISODES}")
    episodes = [item for item in read_episodes(file) if item.ok and (item.success or not successes_only)]
    if not episodes:
        raise UsageError(f"{str(file)!r} has no episode to clone")
    for episode in episodes:
        _check(file, episode, vocab_size)
    return sorted(episodes, key=lambda item: item.id)


def _check(file: Path, episode: Trajectory, vocab_size: int) -> None:
    if not any(turn.context_ids or turn.action.token_ids for turn in episode.turns):
        raise UsageError(
            f"episode {episode.id!r} of {str(file)!r} has no token ids: its author spoke text only; use mode "
            "'takeover' with takeover: [0, 0] to clone the expert on the same tasks"
        )
    check_ids(episode, vocab_size, str(file))


def draw(episodes: Sequence[Trajectory], count: int, step: int, seed: int) -> list[Trajectory]:
    """Draw a step's episodes: seeded shuffles of all of them, one after the other, without end.

    At most all of them; one that two shuffles would put into the same step is taken once.
    """
    size = len(episodes)
    count = min(count, size)
    drawn, orders = set(), dict[int, list[int]]()
    for number in range(step * count, (step + 1) * count):
        epoch, place = divmod(number, size)
        if epoch not in orders:
            orders[epoch] = random.Random(derive_seed(seed, "file", epoch)).sample(range(size), size)
        drawn.add(orders[epoch][place])
    return [episodes[index] for index in sorted(drawn)]
