"""Records the original ALFWorld engine on generated games, for tests that run without it.

    python tests/data/alfworld/record_traces.py tests/data/alfworld/traces.jsonl.gz

Needs the extra `[alfworld]`. One JSON object a line: the game, and per command what the original answered;
command lists are stored once each and referred to by number. Leaves out real games, which may not be committed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentbench.envs.alfworld.conformance import play
from agentbench.envs.alfworld.generate.generate import game_for, task_ids
from agentbench.envs.alfworld.play.reference import ReferenceSession
from agentbench.envs.alfworld.play.session import Game

HOUSEHOLD = Path(__file__).with_name("household.pddl")
NOISE = 30
DEEDS = (
    "go to countertop 1", "take apple 2 from countertop 1", "go to sink 1", "clean apple 2 with sink 1",
    "go to fridge 1", "cool apple 2 with fridge 1", "examine apple 2", "heat apple 2 with microwave 1",
    "examine apple 2", "go to cabinet 1", "move apple 2 to cabinet 1", "take apple 2 from cabinet 1",
    "go to fridge 1", "cool apple 2 with fridge 1", "examine apple 2", "go to cabinet 1",
    "move apple 2 to cabinet 1",
)  # fmt: skip
"""Wins twice when the apple is to be clean, once when it is to be cool: heating undoes cooling."""
STRANGE = (
    ("Bowl_bar_1", "Bo_dot_wl"),  # an id without position: its display name is "bo.wl ", with a blank
    ("(receptacleAtLocation Microwave_bar_1 loc_bar_3)", ""),  # nowhere
    ("(objectType WineBottle_bar_1 WineBottleType)", ""),  # fits nowhere
    ("(receptacleType Sink_bar_1 SinkType)", ""),  # cleans nothing
    ("(toggleable DeskLamp_bar_1)", "(toggleable DeskLamp_bar_1) (pickupable DeskLamp_bar_1)"),
    (
        "(canContain FridgeType AppleType)",
        "(canContain FridgeType AppleType) (canContain FridgeType DeskLampType)",
    ),
    ("(sliceable Apple_bar_2)", "(sliceable Apple_bar_2) (sliceable Knife_bar_1) (sliceable DeskLamp_bar_1)"),
    ("(openable Fridge_bar_1)", "(openable Fridge_bar_1) (openable Fridge_bar_1)"),  # said twice
)
"""What no official game has, and the rules still answer."""


def games() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return what is recorded: each task type in three sizes, and a household with every oddity."""
    for preset in ("mini", "small", "real"):
        for task_id in task_ids(preset, "test", 6):
            yield task_id, game_for(task_id)
    odd = dict(game_for(task_ids("mini", "test", 1)[0]))
    task = Game.from_json(odd).task
    odd["grammar"] = odd["grammar"].replace(task, "put a clean apple in cabinet.")
    odd["pddl_problem"] = HOUSEHOLD.read_text(encoding="utf-8")
    odd["walkthrough"] = list(DEEDS)
    yield "household", odd
    at_cabinet = odd["pddl_problem"].replace("agent1 loc_bar_0", "agent1 loc_bar_1")
    yield "household/start-at-cabinet", {**odd, "pddl_problem": at_cabinet}
    cold = (
        odd["pddl_problem"].replace("(cleanable ?o)", "(coolable ?o)").replace("(isClean ?o)", "(isCool ?o)")
    )
    yield "household/cold-goal", {**odd, "pddl_problem": cold}
    strange = odd["pddl_problem"]
    for old, new in STRANGE:
        assert old in strange
        strange = strange.replace(old, new)
    yield "household/strange", {**odd, "pddl_problem": strange}


def record(name: str, content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let the original play one game."""
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "traj_data"}))
    game = Game.load(path)
    numbers: dict[tuple[str, ...], int] = {}
    moments = [
        (
            moment.command,
            moment.result.observation,
            numbers.setdefault(moment.result.admissible, len(numbers)),
            moment.result.won,
            moment.result.score,
        )
        for moment in play(ReferenceSession(path), game, name, NOISE)
    ]
    return {
        "name": name,
        "task": game.task,
        "walkthrough": list(game.walkthrough),
        "pddl_problem": content["pddl_problem"],
        "admissible": list(numbers),
        "moments": moments,
    }


def main() -> None:
    """Write the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in games():
            lines.append(json.dumps(record(name, content, Path(folder)), ensure_ascii=False))
            print(f"{name}: {len(lines[-1])} characters", flush=True)
    with gzip.GzipFile(output, "wb", mtime=0) as file:  # no time stamp: the same games give the same bytes
        file.write("\n".join(lines).encode())
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
