"""The household written by hand (tests/data/alfworld/household.pddl), as a game and as an episode."""

from importlib.resources import files
from pathlib import Path

import pytest

from agentbench.envs.alfworld.play.session import Game, Session

HOUSEHOLD = Path(__file__).parents[2] / "data" / "alfworld" / "household.pddl"
LOGIC = files("agentbench.envs.alfworld") / "logic"


@pytest.fixture(scope="session")
def content():
    task = "put a clean apple in cabinet"
    return {
        "pddl_domain": (LOGIC / "domain.pddl").read_text(),
        "grammar": (LOGIC / "grammar.twl2").read_text().replace("UNKNOWN GOAL", task),
        "pddl_problem": HOUSEHOLD.read_text(),
        "walkthrough": [],
        "solvable": True,
    }


@pytest.fixture
def session(content):
    return Session(Game.from_json(content))


@pytest.fixture
def play(session):
    """Carry out commands that must all be admissible; give the last result."""

    def run(*commands):
        result = session.reset()
        for command in commands:
            assert command in result.admissible, (command, result.admissible)
            result = session.step(command)
        return result

    return run
