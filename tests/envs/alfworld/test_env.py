"""The env around the engines: protocol of the field, wordings, refusals, snapshots, both engines alike."""

import json
import os
import pickle
import random
import subprocess
import sys

import gymnasium
import pytest

import agentbench.envs.alfworld  # registers the Gymnasium id
from agentbench import datasets as data
from agentbench.env import INFO_KEYS
from agentbench.envs.alfworld import env as module
from agentbench.envs.alfworld.env import SPEC, AlfworldEnv, scene
from agentbench.envs.alfworld.games import catalog as games
from agentbench.envs.alfworld.generate.generate import TASK_TYPES, game_for, write_game
from agentbench.envs.alfworld.players.expert import DeadEnd
from agentbench.errors import UnknownName, UsageError
from agentbench.testing import check_env

PICK = "mini/pick_and_place_simple/1"


def needs_textworld():
    pytest.importorskip("textworld", reason="the reference engine is not installed")
    pytest.importorskip("alfworld", reason="the reference engine is not installed")


def start(task, **options):
    env = AlfworldEnv(**options)
    observation, info = env.reset(options={"task": task})
    return env, observation, info


def solution(task):
    return game_for(task)["walkthrough"]


def test_gymnasium_makes_it():
    assert agentbench.envs.alfworld.SPEC is SPEC
    for name in ("agentbench/ALFWorld-v1", "agentbench.envs.alfworld:agentbench/ALFWorld-v1"):
        env = gymnasium.make(name, split="mini-valid")
        observation, info = env.reset(seed=3)
        assert info["task"] in games.tasks("mini-valid")
        assert info["goal"] in observation
        env.close()


def test_first_observation_is_the_engines_own():
    _, observation, info = start(PICK)
    assert observation.startswith(
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a"
    )
    assert observation.endswith(f"\n\nYour task is to: {info['goal']}")


def test_info_of_a_game():
    _, _, info = start(PICK)
    assert info.keys() == INFO_KEYS.keys() | {"won", "goal", "extra.gamefile", "reworded"}
    assert info["task"] == PICK
    assert info["task_type"] == "pick_and_place_simple"
    assert (info["success"], info["won"], info["score"]) == (False, False, 0.0)
    assert info["extra.gamefile"] == f"generated/{PICK}/game.tw-pddl"


def test_help_is_not_listed_but_carried_out():
    env, _, info = start(PICK)
    assert "help" not in info["admissible"]
    assert "look" in info["admissible"]
    assert env.step("help")[0].strip().startswith("Available commands:")


@pytest.mark.parametrize("number", range(6))
def test_ten_is_paid_once_when_the_goal_is_met(number):
    task = f"mini/{TASK_TYPES[number]}/{number}"
    env, _, info = start(task)
    commands = solution(task)
    for command in commands[:-1]:
        _, reward, terminated, truncated, info = env.step(command)
        assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)
    _, reward, terminated, truncated, info = env.step(commands[-1])
    assert (reward, terminated, truncated) == (10.0, True, False)
    assert (info["success"], info["won"], info["score"]) == (True, True, 1.0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("look")


def test_the_env_itself_sets_no_turn_limit():
    env, _, _ = start(PICK)
    assert not any(env.step("look")[2] or env.step("look")[3] for _ in range(SPEC.max_turns + 10))


def test_the_older_wording_puts_things_down_too():
    env, _, _ = start(PICK)
    commands = solution(PICK)
    assert commands[-1].startswith("move ")
    for command in commands[:-1]:
        env.step(command)
    moment = env.snapshot()
    said, _, won, _, info = env.step(commands[-1])
    assert won
    env.restore(moment)
    thing, _, place = commands[-1].removeprefix("move ").partition(" to ")
    assert env.step(f"put {thing} in/on {place}") == (said, 10.0, True, False, info | {"reworded": True})
    env.restore(moment)
    assert env.step(f"put {thing} in {place}")[0] == "Nothing happens."  # neither release says this


def test_the_strict_wording_is_that_of_the_original_engine():
    commands = solution(PICK)
    thing, _, place = commands[-1].removeprefix("move ").partition(" to ")
    env = AlfworldEnv(wording="strict")
    env.reset(options={"task": PICK})
    for command in commands[:-1]:
        env.step(command)
    said, reward, won, _, info = env.step(f"put {thing} in/on {place}")
    assert (said, reward, won, info["reworded"]) == ("Nothing happens.", 0.0, False, False)
    assert env.step(commands[-1])[2]
    with pytest.raises(UnknownName, match="wording of alfworld"):
        AlfworldEnv(wording="old")


def test_a_snapshot_goes_on_in_a_fresh_instance():
    env, _, _ = start(PICK)
    commands = solution(PICK)
    env.step(commands[0])
    seen = env.step("sing")
    moment = pickle.dumps(env.snapshot())
    for command in commands[1:]:
        last = env.step(command)
    other = AlfworldEnv()
    assert other.restore(pickle.loads(moment)) == (seen[0], seen[4])
    for command in commands[1:]:
        again = other.step(command)
    assert again == last


def test_games_are_compiled_once():
    assert start(PICK)[0].game is start(PICK)[0].game


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"engine": "nativ"}, PICK, "'native'"),
        ({"split": "mini-tests"}, PICK, "'mini-test'"),
        ({}, "mini/pick_and_place/1", "pick_and_place_simple"),
        ({}, "no such task", "ids look like"),
    ],
)
def test_unknown_names_are_refused(options, task, message):
    with pytest.raises(UnknownName, match=message):
        start(task, **options)


def test_expert_says_look_where_the_game_is_lost(monkeypatch):
    def lost(self, state):
        raise DeadEnd("nowhere to put the plunger")

    env, _, _ = start(PICK)
    monkeypatch.setattr(module.Expert, "act", lost)
    assert SPEC.expert(env).act() == "look"


@pytest.mark.parametrize("player", [SPEC.expert, lambda env: SPEC.decoy(env, 0)])
def test_players_refuse_other_envs(player):
    from agentbench.envs.corridor import CorridorEnv

    with pytest.raises(UsageError, match="CorridorEnv"):
        player(CorridorEnv())


def test_decoys_run_other_errands():
    """Commands are all carried out, yet the game's own goal is not what they are after."""
    won = 0
    for number in range(12):
        env, _, info = start(f"mini/{TASK_TYPES[number % 6]}/{number}")
        decoy = SPEC.decoy(env, number)
        for _ in range(10):
            command = decoy.act()
            assert command in info["admissible"]
            _, _, terminated, _, info = env.step(command)
            if terminated:
                break
        won += info["won"]
    assert won <= 3


@pytest.mark.parametrize(
    "task", [None, "small/pick_two_obj_and_place/7", "real/pick_heat_then_place_in_recep/3"]
)
def test_conformance(task):
    report = check_env(SPEC, task=task, name="alfworld")
    assert not report.skipped


_PLAY = """
import hashlib, random
from agentbench.envs.alfworld.env import AlfworldEnv
env, draw, seen = AlfworldEnv(), random.Random(1), hashlib.sha256()
for number in range(6):
    observation, info = env.reset(options={"task": f"mini/look_at_obj_in_light/{number}"})
    for _ in range(20):
        observation, _, done, _, info = env.step(draw.choice(info["admissible"]))
        seen.update(repr((observation, info)).encode())
        if done:
            break
print(seen.hexdigest())
"""


def test_episodes_do_not_depend_on_the_process():
    seen = {
        subprocess.run(
            [sys.executable, "-c", _PLAY],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


# --- the reference engine ---

# TextWorld leaves files open for the collector to close.
textworld_is_untidy = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def mixed_commands(task, length):
    """Admissible, impossible, malformed and differently worded commands, then the way to win."""
    draw = random.Random(task)
    env, _, info = start(task)
    odd = [
        "help",
        "HELP",
        "",
        "sing",
        "go to nowhere 1",
        "  look  ",
        "Look",
        "put apple 1 in/on fridge 1",
        "💥\n",
    ]
    commands = []
    while len(commands) < length:
        commands.append(draw.choice(info["admissible"] if draw.random() < 0.7 else odd))
        info = env.step(commands[-1])[4]
    expert = SPEC.expert(env)
    while not info["won"]:
        commands.append(expert.act())
        info = env.step(commands[-1])[4]
    return commands


@textworld_is_untidy
@pytest.mark.parametrize("task", ["mini/pick_clean_then_place_in_recep/2", "small/look_at_obj_in_light/5"])
def test_both_engines_give_the_same_episode(task):
    needs_textworld()
    native, reference = AlfworldEnv(), AlfworldEnv(engine="textworld")
    assert native.reset(options={"task": task}) == reference.reset(options={"task": task})
    for command in mixed_commands(task, 12):
        ours = native.step(command)
        assert ours == reference.step(command), command
        assert native.state == reference.state
    assert ours[2]
    with pytest.raises(gymnasium.error.ResetNeeded):
        reference.step("look")
    reference.close()


@textworld_is_untidy
def test_reference_engine_snapshots_by_playing_again():
    needs_textworld()
    env, _, _ = start(PICK, engine="textworld")
    commands = solution(PICK)
    seen = env.step(commands[0])
    moment = pickle.loads(pickle.dumps(env.snapshot()))
    later = env.step(SPEC.expert(env).act())
    assert env.restore(moment) == (seen[0], seen[4])
    assert env.step(commands[1]) == later
    with pytest.raises(UsageError, match="other"):
        start(PICK)[0].restore(moment)
    env.close()


@pytest.fixture
def strange_game(tmp_path, monkeypatch):
    """A sound game whose domain the native engine has never seen (one comment more)."""
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "home"))
    game = game_for(PICK)
    game["pddl_domain"] += "\n; one comment more\n"
    write_game(game, tmp_path / "json_2.1.1/valid_seen/pick_and_place_simple-Strange-None-Desk-1/trial_T1")
    data.import_data(games.DATASET, tmp_path / "json_2.1.1")
    return games.tasks("valid_seen")[0]


def test_a_game_with_unknown_rules_is_refused_by_name(strange_game):
    with pytest.raises(UsageError, match=r"pick_and_place_simple-Strange.*unknown domain.*textworld"):
        start(strange_game)


@textworld_is_untidy
def test_engine_auto_plays_unknown_rules_with_the_reference(strange_game):
    needs_textworld()
    env, observation, info = start(strange_game, engine="auto")
    _, native, _ = start(PICK)
    assert observation == native
    assert info["task"] == strange_game
    assert info["extra.gamefile"] == f"json_2.1.1/valid_seen/{strange_game.partition('@')[0]}/game.tw-pddl"
    with pytest.raises(UsageError, match="unknown domain"):
        SPEC.expert(env).act()
    env.reset(options={"task": PICK})  # known rules: back to the native engine
    assert env.state == start(PICK)[0].state
    env.close()


def old_wording_game(tmp_path):
    """The game as releases before 0.4 worded it: "put X in/on Y" in the grammar."""
    game = game_for(PICK)
    game["grammar"] = game["grammar"].replace("move {o} to {r}", "put {o} in/on {r}")
    return game


@textworld_is_untidy
def test_a_game_of_an_older_release_takes_the_newer_wording(tmp_path, monkeypatch):
    needs_textworld()
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "home"))
    game = old_wording_game(tmp_path)
    assert game["grammar"] != game_for(PICK)["grammar"]
    write_game(game, tmp_path / "json_2.1.1/valid_seen/pick_and_place_simple-Old-None-Desk-1/trial_T1")
    data.import_data(games.DATASET, tmp_path / "json_2.1.1")
    env, _, _ = start(games.tasks("valid_seen")[0], engine="auto")
    commands = solution(PICK)
    for command in commands[:-1]:
        info = env.step(command)[4]
    assert any(command.startswith("put ") for command in info["admissible"])
    assert env.step(commands[-1])[1:3] == (10.0, True)  # "move X to Y"
    env.close()


@pytest.mark.slow
@textworld_is_untidy
def test_conformance_of_the_reference_engine():
    needs_textworld()
    report = check_env(SPEC, task=PICK, steps=6, options={"engine": "textworld"})
    assert not report.skipped


def test_records_hold_info_as_json():
    _, _, info = start(PICK)
    assert json.loads(json.dumps(info)) == info
    assert scene(PICK).task == PICK
