"""Errands: other goals in the room of a game, and the decoy that pursues them."""

import random
from dataclasses import replace

import pytest

from agentbench.envs.alfworld.generate.generate import TASK_TYPES, game_for
from agentbench.envs.alfworld.play.session import Game
from agentbench.envs.alfworld.players.errands import Decoy, Errand, draw_errand, errand_goal
from agentbench.envs.alfworld.players.expert import Expert, optimal_length
from agentbench.errors import UnknownName, UsageError


def stroll(game, state, rng, most):
    for _ in range(rng.randint(1, most)):
        actions = game.actions(state)
        state = game.apply(state, actions[rng.choice(sorted(actions))])
    return state


def test_errands_are_possible_and_pursued():
    kinds = set()
    for number in range(60):
        rng = random.Random(number)
        game = Game.from_json(game_for(f"small/{TASK_TYPES[number % 6]}/{number}"))
        errand = draw_errand(game, rng)
        kinds.add(errand.task_type)
        goal = errand_goal(game, errand)
        assert not goal.met(game.start)
        state, expert, length = game.start, Expert(game, goal=goal), 0
        while (command := expert.act(state)) is not None:
            state = game.apply(state, game.actions(state)[command])
            length += 1
        assert goal.met(state)
        assert 3 <= length <= 12
    assert len(kinds) >= 5


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_an_errand_worded_like_the_goal_is_the_goal(task_type):
    for seed in range(5):
        content = game_for(f"mini/{task_type}/{seed}")
        params = content["traj_data"]["pddl_params"]
        game = Game.from_json(content)
        parent = params["parent_target"] or params["toggle_target"]
        errand = Errand(task_type, params["object_target"].lower() + "type", parent.lower() + "type")
        goal, rng = errand_goal(game, errand), random.Random(seed)
        for _ in range(10):
            state = stroll(game, game.start, rng, 20)
            assert goal.met(state) == game.goal.met(state)
            assert len(Expert(game, goal).plan(state)) == optimal_length(game, state)


def test_an_impossible_errand_is_refused():
    game = Game.from_json(game_for("mini/pick_heat_then_place_in_recep/1"))  # a kitchen
    with pytest.raises(UsageError, match="cannot be done there"):
        errand_goal(game, Errand("pick_two_obj_and_place", "pillowtype", "sofatype"))
    with pytest.raises(UnknownName, match="pick_heat"):
        errand_goal(game, Errand("pick_heat", "appletype", "sidetabletype"))


def test_a_decoy_keeps_busy_with_other_things():
    won = 0
    for seed in range(20):
        game = Game.from_json(game_for(f"small/pick_cool_then_place_in_recep/{seed}"))
        decoy, state, verbs = Decoy(game, random.Random(seed)), game.start, set()
        for _ in range(30):
            action = game.actions(state)[decoy.act(state)]
            verbs.add(action.verb)
            state = game.apply(state, action)
        assert {"go", "take"} <= verbs
        won += game.goal.met(state)
    assert won < 10  # it may do the very errand by chance


def test_a_decoy_with_nothing_to_do_says_so():
    game = replace(Game.from_json(game_for("mini/pick_heat_then_place_in_recep/1")), pickupable=0)
    assert Decoy(game, random.Random(0)).act(game.start) is None
