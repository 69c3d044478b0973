"""The checkpoints of a run: found, written whole, pruned. Leaves out what is in them (the trainer's)."""

from __future__ import annotations

import re
from pathlib import Path

_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run, oldest first."""
    found = [(_CHECKPOINT.match(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match.group(1)), path) for match, path in found if match)
