"""The native engine agrees with the original on every observation, command list, win flag and score.

Three ways: recordings of the original kept in the repository (always), the original itself on ten real games and
the hand-written household (where textworld and the data are installed), and on everything (`-m slow`).
"""

import gzip
import json
import os
import sys
import tarfile
from dataclasses import replace
from importlib.resources import files

import pytest
from places import ROOT

from agentbench.envs.alfworld.conformance import Moment, Report, check, compare, compare_all, play
from agentbench.envs.alfworld.play.reference import ReferenceSession
from agentbench.envs.alfworld.play.session import Game, Result, Session
from agentbench.errors import MissingData, MissingDependency

ARCHIVES = ROOT.parent / "shared" / "data" / "alfworld"
TRACES = ROOT / "tests" / "data" / "alfworld" / "traces.jsonl.gz"
LOGIC = files("agentbench.envs.alfworld") / "logic"
PROCESSES = max(1, min(4, len(os.sched_getaffinity(0))))

# the original engine leaves files open and unpacks its planner with deprecated calls
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


def recorded_games():
    """The recordings: (name, content of the game file, moments)."""
    rules = {"pddl_domain": (LOGIC / "domain.pddl").read_text(), "solvable": True}
    grammar = (LOGIC / "grammar.twl2").read_text()
    with gzip.open(TRACES, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            lists = record["admissible"]
            content = {
                **rules,
                "grammar": grammar.replace("UNKNOWN GOAL.", record["task"]),
                "pddl_problem": record["pddl_problem"],
                "walkthrough": record["walkthrough"],
            }
            moments = [
                Moment(command, Result(observation, tuple(lists[index]), won, score))
                for command, observation, index, won, score in record["moments"]
            ]
            yield pytest.param(content, moments, id=record["name"])


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """Return a function: name of a split -> its unpacked real games, sorted."""

    def unpack(split):
        archive = ARCHIVES / f"{split}.tar.xz"
        if not archive.is_file():
            pytest.skip(f"real games are absent: {archive}")
        folder = tmp_path_factory.mktemp(split)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        return sorted(folder.rglob("game.tw-pddl"))

    return unpack


@pytest.fixture
def original():
    """Skip where the original engine is not installed."""
    pytest.importorskip("textworld", reason="needs the extra [alfworld]")
    pytest.importorskip("alfworld", reason="needs the extra [alfworld]")


@pytest.fixture
def household(content, tmp_path):
    path = tmp_path / "household" / "game.tw-pddl"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


def assert_agrees(reports, games):
    total = Report()
    for report in reports:
        total.add(report)
    assert total.differences == []
    assert total.games == games
    assert total.results > 21 * games  # a reset and 20 odd commands, and the walkthrough, in each


@pytest.mark.parametrize(("content", "moments"), list(recorded_games()))
def test_recordings_of_the_original_are_reproduced(content, moments):
    report = check(Game.from_json(content), moments)
    assert report.differences == []
    assert report.results == len(moments) > 40


def test_a_recording_with_one_changed_letter_is_noticed(content):
    game = Game.from_json(content)
    moments = list(play(Session(game), game, "0", noise=24))
    assert check(game, moments).differences == []
    for changed, part in (
        ({"observation": "Nothing happened."}, "observation"),
        ({"admissible": ()}, "admissible"),
    ):
        spoilt = [
            *moments[:7],
            Moment(moments[7].command, replace(moments[7].result, **changed)),
            *moments[8:],
        ]
        (difference,) = check(game, spoilt).differences
        assert (difference.index, difference.field) == (7, part)


def test_the_household_plays_alike_in_the_original(original, household):
    report = compare(household, noise=30)
    assert report.differences == []
    assert report.results > 50


def test_ten_real_games_play_alike_in_the_original(original, unpacked):
    games = unpacked("valid_unseen")[::7]
    assert_agrees(compare_all(games, processes=PROCESSES, noise=20, tours=False), games=10)


def test_the_original_replays_a_snapshot(original, household):
    session = ReferenceSession(household)
    for command in ("go to countertop 1", "take apple 2 from countertop 1"):
        here = session.step(command)
    moment = session.snapshot()
    session.step("go to cabinet 1")
    assert session.restore(moment) == here
    assert session.task == "put a clean apple in cabinet."


def test_the_original_leaves_the_command_line_alone(original, household, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--flag"])
    ReferenceSession(household).reset()
    assert sys.argv == ["pytest", "--flag"]


def test_the_original_engine_names_the_extra_when_it_is_missing(household, monkeypatch):
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(MissingDependency, match=r"agentbench-opd\[alfworld\]"):
        ReferenceSession(household)


def test_the_original_engine_names_a_missing_file(tmp_path):
    with pytest.raises(MissingData, match=r"none\.tw-pddl"):
        ReferenceSession(tmp_path / "none.tw-pddl")


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("valid_seen", 140), ("valid_unseen", 68), ("train", 200)])
def test_all_real_games_play_alike_in_the_original(original, unpacked, split, count):
    games = unpacked(split)
    chosen = [games[i * len(games) // count] for i in range(count)]
    assert_agrees(compare_all(chosen, processes=PROCESSES), games=count)


@pytest.mark.slow
def test_generated_games_play_alike_in_the_original(original, tmp_path):
    from agentbench.envs.alfworld.generate.generate import game_for, task_ids, write_game

    names = [name for preset in ("mini", "small", "real") for name in task_ids(preset, "valid", 72)][:200]
    games = [write_game(game_for(name), tmp_path / name.replace("/", "-")) for name in names]
    assert_agrees(compare_all(games, processes=PROCESSES), games=200)
