"""Seeded household games in the official file format, for all six task types.

Owns the presets of difficulty and the ids `<preset>/<task type>/<seed>` from which a game is rebuilt at any
time. A game depends on (task type, seed, difficulty) alone. Each game is played to its end by the expert before
it is handed out, so `walkthrough` is a shortest solution. Leaves out the drawing (`drawing`), the file text
(`problem`) and the rules (`engine`).
"""

from __future__ import annotations

import json
import random
from dataclasses import astuple
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from agentbench.errors import ContractError, UsageError, unknown_name

from ..chores import LAMP_TASK, TASKS
from ..household import ROOMS
from ..play.session import Game, Session
from ..players.expert import Expert
from .drawing import Difficulty, Draw
from .problem import goal_formula, problem_text

__all__ = [
    "PRESETS", "SPLITS", "TASK_TYPES", "Difficulty", "game_for", "generate_game", "task_ids", "write_game",
]  # fmt: skip

TASK_TYPES: Final = tuple(TASKS)
SPLITS: Final = {"train": 0, "valid": 10_000_000, "test": 20_000_000}  # first seed of each split
_SPLIT_SIZE: Final = 10_000_000


PRESETS: Final[dict[str, Difficulty]] = {
    "mini": Difficulty(),
    "small": Difficulty(
        receptacles=(10, 14),
        objects=(12, 18),
        lookalikes=(0, 2),
        shared_points=0.05,
        fixtures=(2, 4),
    ),
    "real": Difficulty(
        receptacles=(12, 36),
        objects=(24, 42),
        spares=(0, 2),
        lookalikes=(1, 3),
        shared_points=0.12,
        fixtures=(6, 12),
        quirks=0.03,
    ),
}


def generate_game(task_type: str, seed: int, difficulty: Difficulty) -> dict[str, Any]:
    """Draw one game.

    Args:
        task_type: one of `TASK_TYPES`.
        seed: any integer; the same arguments give the same game in any process.
        difficulty: a preset or your own.
    Returns: the content of a `game.tw-pddl` file (`pddl_domain`, `grammar`, `pddl_problem`, `solvable`,
        `walkthrough`) and, under `traj_data`, of the `traj_data.json` beside it.
    Raises: UnknownName: no such task type. UsageError: the difficulty's rooms cannot host the task.
    """
    if task_type not in TASKS:
        raise unknown_name("ALFWorld task type", task_type, TASKS)
    rng = random.Random(f"alfworld/{task_type}/{seed}/{astuple(difficulty)}")
    draw = Draw(rng, task_type, difficulty)
    household = draw.household()
    sentence = rng.choice(TASKS[task_type].sentences).format(obj=draw.obj.lower(), parent=draw.parent.lower())
    domain, grammar = _rules()
    game: dict[str, Any] = {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL.", sentence),
        "pddl_problem": problem_text(
            f"plan_synthetic_{seed}", household, goal_formula(task_type, draw.obj, draw.parent)
        ),
        "solvable": True,
        "walkthrough": [],
    }
    game["walkthrough"] = _played(game)
    low, high = ROOMS[draw.room].scenes
    scene = rng.randint(low, high)
    lamp = task_type == LAMP_TASK
    game["traj_data"] = {
        "task_id": f"synthetic_{task_type}_{seed}",
        "task_type": task_type,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": draw.obj,
            "parent_target": "" if lamp else draw.parent,
            "toggle_target": draw.parent if lamp else "",
        },
        "scene": {"floor_plan": f"FloorPlan{scene}", "scene_num": scene},
        "plan": {"high_pddl": []},
        "turk_annotations": {"anns": []},
    }
    return game


def task_ids(preset: str, split: str, n: int) -> list[str]:
    """Return the first `n` task ids of a split; task types take turns, splits share no seed.

    Raises: UnknownName: no such preset or split. UsageError: more ids than a split has.
    """
    _difficulty(preset)
    if split not in SPLITS:
        raise unknown_name("split of generated ALFWorld games", split, SPLITS)
    if not 0 <= n <= _SPLIT_SIZE:
        raise UsageError(f"cannot list {n} generated games; a split has 0 to {_SPLIT_SIZE}")
    return [f"{preset}/{TASK_TYPES[i % len(TASK_TYPES)]}/{SPLITS[split] + i}" for i in range(n)]


def game_for(task_id: str) -> dict[str, Any]:
    """Rebuild a game from its id, `<preset>/<task type>/<seed>`.

    Raises: UsageError: the id is not of that form. UnknownName: no such preset or task type.
    """
    parts = task_id.split("/")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise UsageError(
            f"{task_id!r} is no id of a generated game; expected <preset>/<task type>/<seed>,"
            " such as mini/pick_and_place_simple/7"
        )
    return generate_game(parts[1], int(parts[2]), _difficulty(parts[0]))


def write_game(game: dict[str, Any], folder: Path) -> Path:
    """Write a generated game as the official releases are laid out and return the game file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in game.items() if key != "traj_data"}
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "traj_data.json").write_text(json.dumps(game["traj_data"]), encoding="utf-8")
    return path


def _difficulty(preset: str) -> Difficulty:
    if preset not in PRESETS:
        raise unknown_name("ALFWorld difficulty preset", preset, PRESETS)
    return PRESETS[preset]


@cache
def _rules() -> tuple[str, str]:
    logic = files("agentbench.envs.alfworld.logic")
    return (
        (logic / "domain.pddl").read_text(encoding="utf-8"),
        (logic / "grammar.twl2").read_text(encoding="utf-8"),
    )


def _played(content: dict[str, Any]) -> list[str]:
    """Play the expert to the end of a new game; return its commands."""
    game = Game.from_json(content)
    expert, session = Expert(game), Session(game)
    session.reset()
    commands: list[str] = []
    while (command := expert.act(session.state)) is not None:
        commands.append(command)
        result = session.step(command)
        if result.won:
            return commands
        if len(commands) > 30:
            break
    raise ContractError(
        f"generated a game that its expert does not win: {commands}, goal {content['grammar']!r}"
    )
