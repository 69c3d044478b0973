"""Generated games: complete, solvable, the same in every process, and the same in the original engine."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile

import pytest
from places import SHARED_DATA

from agentbench.envs.alfworld.chores import TASKS
from agentbench.envs.alfworld.generate.generate import (
    PRESETS,
    TASK_TYPES,
    Difficulty,
    game_for,
    generate_game,
    task_ids,
    write_game,
)
from agentbench.envs.alfworld.household import FLAGS, HOLDS, OPENABLE, PLACES, ROOMS
from agentbench.envs.alfworld.play.session import Game, Session
from agentbench.errors import ConfigError, UnknownName, UsageError

DATA = SHARED_DATA / "alfworld"
TEXTWORLD_LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
ODD = Difficulty(receptacles=(8, 12), objects=(8, 12), shared_points=1.0, fixtures=(4, 6), quirks=1.0)


def facts(game, predicate):
    init = game["pddl_problem"].partition("(:init")[2].partition("(:goal")[0]
    return [line.split()[1:] for line in re.findall(r"\(([^()]+)\)", init) if line.split()[0] == predicate]


def assert_walkthrough_wins(game):
    session = Session(Game.from_json(game))
    result = session.reset()
    assert not result.won
    for command in game["walkthrough"]:
        assert not result.won
        assert command in result.admissible
        result = session.step(command)
    assert result.won


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_task_type_and_preset_gives_games_that_their_walkthrough_wins(preset, task_type):
    for seed in range(5):
        assert_walkthrough_wins(game_for(f"{preset}/{task_type}/{seed}"))


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_rooms_full_of_oddities_stay_solvable(task_type):
    for seed in range(5):
        game = generate_game(task_type, seed, ODD)
        assert len({point for _, point in facts(game, "receptacleAtLocation")}) == 1  # all share one point
        assert_walkthrough_wins(game)


def test_the_same_id_gives_the_same_bytes_in_another_process():
    ids = [f"{preset}/{task_type}/7" for preset in PRESETS for task_type in TASK_TYPES]
    code = (
        "import hashlib, json, sys; from agentbench.envs.alfworld.generate.generate import game_for\n"
        "for i in sys.argv[1:]: print(hashlib.sha256(json.dumps(game_for(i)).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "123"}  # another order of sets than here
    run = subprocess.run([sys.executable, "-c", code, *ids], capture_output=True, text=True, env=environment)
    assert run.stdout.split() == [
        hashlib.sha256(json.dumps(game_for(task)).encode()).hexdigest() for task in ids
    ], run.stderr


def test_seeds_give_different_games():
    problems = [generate_game(TASK_TYPES[0], seed, PRESETS["mini"])["pddl_problem"] for seed in range(50)]
    assert len({problem.partition("(:init")[2] for problem in problems}) == 50


def test_equal_difficulties_give_equal_games_however_they_are_written():
    one = generate_game(TASK_TYPES[0], 1, Difficulty(hidden=1, rooms=["kitchen"]))  # type: ignore[arg-type]
    assert one == generate_game(TASK_TYPES[0], 1, Difficulty(hidden=1.0, rooms=("kitchen",)))


def test_a_game_has_the_fields_of_an_official_one():
    game = game_for("mini/pick_heat_then_place_in_recep/3")
    assert list(game) == ["pddl_domain", "grammar", "pddl_problem", "solvable", "walkthrough", "traj_data"]
    assert game["solvable"] is True
    trajectory = game["traj_data"]
    assert trajectory["task_type"] == "pick_heat_then_place_in_recep"
    assert set(trajectory["pddl_params"]) == {
        "mrecep_target", "object_sliced", "object_target", "parent_target", "toggle_target",
    }  # fmt: skip
    assert trajectory["scene"]["floor_plan"] == f"FloorPlan{trajectory['scene']['scene_num']}"


# the two wordings per task type that all 3,961 official games use
OFFICIAL_WORDINGS = {
    "pick_and_place_simple": (r"put a (\w+) in (\w+)\.", r"put some (\w+) on (\w+)\."),
    "look_at_obj_in_light": (r"look at (\w+) under the (\w+)\.", r"examine the (\w+) with the (\w+)\."),
    "pick_clean_then_place_in_recep": (
        r"put a clean (\w+) in (\w+)\.",
        r"clean some (\w+) and put it in (\w+)\.",
    ),
    "pick_heat_then_place_in_recep": (
        r"put a hot (\w+) in (\w+)\.",
        r"heat some (\w+) and put it in (\w+)\.",
    ),
    "pick_cool_then_place_in_recep": (
        r"put a cool (\w+) in (\w+)\.",
        r"cool some (\w+) and put it in (\w+)\.",
    ),
    "pick_two_obj_and_place": (r"put two (\w+) in (\w+)\.", r"find two (\w+) and put them in (\w+)\."),
}


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_both_official_wordings_occur_and_name_what_the_goal_names(task_type):
    seen = set()
    for seed in range(20):
        game = generate_game(task_type, seed, PRESETS["mini"])
        sentence = Game.from_json(game).task
        wording, found = next(
            (wording, match)
            for wording in OFFICIAL_WORDINGS[task_type]
            if (match := re.fullmatch(wording, sentence))
        )
        seen.add(wording)
        params = game["traj_data"]["pddl_params"]
        assert found[1] == params["object_target"].lower()
        assert found[2] == (params["parent_target"] or params["toggle_target"]).lower()
    assert seen == set(OFFICIAL_WORDINGS[task_type])


def test_mini_games_are_mini():
    for task in task_ids("mini", "train", 60):
        game = game_for(task)
        assert len(facts(game, "receptacleType")) == 6
        assert (
            6 <= len(facts(game, "pickupable")) <= 9
        )  # 6 to 8, or 2 targets, 1 spare, 1 look-alike and fill
        assert len(game["walkthrough"]) < 15  # leaves room to search within 20 steps


def test_hidden_decides_whether_targets_start_behind_doors():
    task_type = "pick_heat_then_place_in_recep"
    for seed in range(40):
        for hidden in (0.0, 1.0):
            game = generate_game(task_type, seed, Difficulty(hidden=hidden, spares=(0, 0)))
            params = game["traj_data"]["pddl_params"]
            possible = set(PLACES[params["object_target"]]) & set(ROOMS["kitchen"].receptacles)
            with_door = {kind in OPENABLE for kind in possible - {params["parent_target"]}}
            (place,) = (
                r for o, r in facts(game, "inReceptacle") if o.startswith(params["object_target"] + "_")
            )
            # where all possible places are of one sort, that sort is used
            expected = {0.0: False, 1.0: True}[hidden] if len(with_door) == 2 else with_door.pop()
            assert ([place] in facts(game, "openable")) is expected


def test_a_difficulty_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"receptacles must be .*found \(3, 2\)"):
        Difficulty(receptacles=(3, 2))
    with pytest.raises(ConfigError, match="hidden must be a chance"):
        Difficulty(hidden=1.5)


def test_rooms_that_cannot_host_a_task_are_refused():
    with pytest.raises(UsageError, match="no room of \\['bathroom'\\] can host look_at_obj_in_light"):
        generate_game("look_at_obj_in_light", 0, Difficulty(rooms=("bathroom",)))
    with pytest.raises(UnknownName, match="kitchen"):
        generate_game("look_at_obj_in_light", 0, Difficulty(rooms=("kitchin",)))


def test_ids_take_task_types_in_turn_and_splits_share_none():
    lists = [task_ids("mini", split, 1000) for split in ("train", "valid", "test")]
    assert lists[0][:7] == [f"mini/{TASK_TYPES[i % 6]}/{i}" for i in range(7)]
    seeds = [{int(task.rpartition("/")[2]) for task in ids} for ids in lists]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == 3000


@pytest.mark.parametrize("task", ["mini/pick_and_place_simple", "mini/pick_and_place_simple/x", "a/b/-1", ""])
def test_an_id_of_another_form_is_refused(task):
    with pytest.raises(UsageError, match="expected <preset>/<task type>/<seed>"):
        game_for(task)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="mini"):
        game_for("mimi/pick_and_place_simple/1")
    with pytest.raises(UnknownName, match="pick_and_place_simple"):
        game_for("mini/pick_and_place/1")
    with pytest.raises(UnknownName, match="train"):
        task_ids("mini", "training", 1)
    with pytest.raises(UsageError, match="cannot list -1"):
        task_ids("mini", "train", -1)


def official_games(split, most):
    archive = DATA / f"{split}.tar.xz"
    if not archive.exists():
        pytest.skip(f"no official games at {archive}")
    found = 0
    with tarfile.open(archive, "r:xz") as members:
        for member in members:
            if member.name.endswith("game.tw-pddl"):
                yield json.load(members.extractfile(member))
                found += 1
                if found == most:
                    return


def assert_tables_hold(game):
    present = {kind.removesuffix("Type") for _, kind in facts(game, "objectType")}
    holders = {kind.removesuffix("Type") for _, kind in facts(game, "receptacleType")}
    expected = {(f"{holder}Type", f"{kind}Type") for holder in holders for kind in HOLDS[holder] & present}
    assert {tuple(pair) for pair in facts(game, "canContain")} == expected
    kinds = {thing: kind.removesuffix("Type") for thing, kind in facts(game, "objectType")}
    for flag, types in FLAGS.items():
        assert {kinds[o] for (o,) in facts(game, flag) if o in kinds} == present & types, flag
    doors = {
        kind.removesuffix("Type")
        for r, kind in facts(game, "receptacleType")
        if [r] in facts(game, "openable")
    }
    assert doors <= set(OPENABLE)


def test_tables_hold_in_official_games():
    for game in official_games("valid_unseen", 10):
        assert_tables_hold(game)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid_train", "valid_seen", "valid_unseen"])
def test_tables_hold_in_all_official_games(split):
    for game in official_games(split, -1):
        assert_tables_hold(game)


def assert_plays_alike_in_the_original(task, folder):
    reference = pytest.importorskip("agentbench.envs.alfworld.play.reference")
    game = game_for(task)
    path = write_game(game, folder)
    original, native = reference.ReferenceSession(path), Session(Game.load(path))
    try:
        assert original.reset() == native.reset()
        for command in game["walkthrough"]:
            theirs, ours = original.step(command), native.step(command)
            assert theirs == ours
        assert theirs.won
    finally:
        original.close()


@TEXTWORLD_LEAVES_FILES_OPEN
@pytest.mark.parametrize("task", ["mini/look_at_obj_in_light/5", "small/pick_two_obj_and_place/5"])
def test_the_original_engine_plays_generated_games_alike(task, tmp_path):
    pytest.importorskip("alfworld")
    assert_plays_alike_in_the_original(task, tmp_path)


@TEXTWORLD_LEAVES_FILES_OPEN
@pytest.mark.slow
@pytest.mark.parametrize("task", [t for p in PRESETS for t in task_ids(p, "valid", 12)])
def test_the_original_engine_plays_many_generated_games_alike(task, tmp_path):
    pytest.importorskip("alfworld")
    assert_plays_alike_in_the_original(task, tmp_path)


@TEXTWORLD_LEAVES_FILES_OPEN
def test_the_original_env_collects_generated_games(tmp_path):
    module = pytest.importorskip("alfworld.agents.environment.alfred_tw_env")
    for task in task_ids("mini", "valid", 6):
        write_game(game_for(task), tmp_path / task)
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(tmp_path), "num_train_games": 0},
    }
    assert len(module.AlfredTWEnv(config, train_eval="train").game_files) == 6


def test_every_task_can_be_asked_in_some_room():
    for task_type, task in TASKS.items():
        for kind in task.objects:
            assert kind in PLACES
            assert any(kind in room.objects for room in ROOMS.values()), (task_type, kind)
