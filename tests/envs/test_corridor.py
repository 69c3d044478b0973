"""The corridor toy: rules worked out by hand, splits, expert, conformance."""

import pickle
import random

import gymnasium
import pytest

from agentbench.envs.corridor import COMMANDS, SPEC, CorridorEnv, Task, tasks
from agentbench.errors import UnknownName
from agentbench.testing import check_env


def start(task_id):
    env = CorridorEnv()
    observation, info = env.reset(options={"task": task_id})
    return env, observation, info


def test_rooms_and_doors_by_hand():
    env, observation, info = start("4-2-red-blue-right")
    assert observation == "Room 2 of 4. The red door is left, the blue door is right. Leave by the blue door."
    assert info == {
        "task": "4-2-red-blue-right",
        "admissible": ["go left", "go right", "open door"],
        "success": False,
        "score": 0.0,
        "task_type": "near",  # room 2 to room 4: two steps, fewer than 3
    }
    assert env.step("open door")[0].startswith("There is no door here. Room 2 of 4.")
    assert env.step("sing")[0].startswith("Nothing happens. Room 2 of 4.")
    assert env.step(" GO Left ")[0].startswith("Room 1 of 4.")
    assert env.step("go left")[0].startswith("A wall. Room 1 of 4.")
    for room in (2, 3, 4):
        observation, reward, terminated, truncated, info = env.step("go right")
        assert observation.startswith(f"Room {room} of 4.")
        assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)
    observation, reward, terminated, truncated, info = env.step("open door")
    assert (observation, reward, terminated, truncated) == ("You are out.", 1.0, True, False)
    assert (info["success"], info["score"], info["admissible"]) == (True, 1.0, [])


def test_the_wrong_door_ends_the_episode_without_success():
    env, _, _ = start("3-2-red-blue-right")
    env.step("go left")
    observation, reward, terminated, _, info = env.step("open door")
    assert (observation, reward, terminated) == ("That was the wrong door.", 0.0, True)
    assert (info["success"], info["score"]) == (False, 0.0)


def test_step_after_the_end_needs_a_reset():
    env, _, _ = start("3-2-red-blue-left")
    env.step("go left")
    env.step("open door")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("go left")


def test_splits_share_no_task_and_cover_the_grid():
    every = [task for split in SPEC.splits for task in tasks(split)]
    # rooms 3..7 have 1..5 inner starts: 15; 6 x 5 ordered colour pairs; 2 exits
    assert len(every) == len(set(every)) == 15 * 30 * 2
    assert {len(tasks(split)) > 50 for split in SPEC.splits} == {True}


@pytest.mark.parametrize(
    "task", ["", "3-1-red-blue-left", "8-2-red-blue-left", "3-2-red-red-left", "3-2-pink-red-left"]
)
def test_tasks_off_the_grid_are_refused(task):
    with pytest.raises(UnknownName, match="ids look like"):
        Task.parse(task)


def test_expert_takes_the_shortest_way_on_every_test_task():
    for task_id in tasks("test"):
        env, _, _ = start(task_id)
        task = Task.parse(task_id)
        expert = SPEC.expert(env)
        taken, terminated = 0, False
        while not terminated:
            _, _, terminated, _, info = env.step(expert.act())
            taken += 1
        assert info["success"]
        assert taken == abs(task.goal_room - task.start) + 1  # the steps and the door


def test_decoy_leaves_by_the_wrong_door():
    env, _, _ = start("4-2-red-blue-right")
    decoy = SPEC.decoy(env, 0)
    said = [decoy.act()]
    env.step(said[0])
    said.append(decoy.act())
    assert said == ["go left", "open door"]
    assert env.step(said[1])[0] == "That was the wrong door."


def test_a_random_policy_sometimes_solves_it():
    draw = random.Random(0)
    solved = 0
    for task_id in tasks("test"):
        env, _, info = start(task_id)
        for _ in range(SPEC.max_turns):
            _, _, terminated, _, info = env.step(draw.choice(COMMANDS))
            if terminated:
                break
        solved += info["success"]
    assert 0.1 < solved / len(tasks("test")) < 0.5


def test_snapshot_is_taken_by_value():
    env, _, _ = start("5-3-red-blue-left")
    env.step("sing")
    state = pickle.loads(pickle.dumps(env.snapshot()))
    env.step("go left")
    observation, info = CorridorEnv().restore(state)
    assert observation.startswith("Nothing happens. Room 3 of 5.")
    assert info["task"] == "5-3-red-blue-left"


@pytest.mark.parametrize("task", [None, "7-3-white-black-right", "3-2-red-blue-left"])
def test_conformance(task):
    report = check_env(SPEC, task=task, name="corridor")
    assert not report.skipped
