"""Official ALFWorld games out of the archives beside the checkout, where they are there."""

import json
import tarfile

import pytest
from places import SHARED_DATA

from agentbench.envs.alfworld.play.session import Game


def official_games(split, most):
    """The first `most` games of a split, all with -1; skips the test without the archive."""
    archive = SHARED_DATA / "alfworld" / f"{split}.tar.xz"
    if not archive.exists():
        pytest.skip(f"no official games at {archive}")
    found = 0
    with tarfile.open(archive, "r:xz") as members:
        for member in members:
            if member.name.endswith("game.tw-pddl"):
                yield Game.from_json(json.load(members.extractfile(member)), member.name)
                found += 1
                if found == most:
                    return
