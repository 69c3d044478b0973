"""Rules of the native engine, on a household written by hand; test_conformance.py plays it in the original too."""

import pickle
import random

import pytest

from agentbench.envs.alfworld.play.session import Game, Session
from agentbench.envs.alfworld.play.state import bits

ALWAYS = ["help", "inventory", "look"]
FETCH = ("go to countertop 1", "take apple 2 from countertop 1")
CLEAN, HEAT, COOL = (
    "clean apple 2 with sinkbasin 1",
    "heat apple 2 with microwave 1",
    "cool apple 2 with fridge 1",
)
CUT = (
    "go to sink 1", "take knife 1 from sink 1", "go to cabinet 1", "slice apple 2 with knife 1", "go to countertop 1",
    "move knife 1 to countertop 1", "take apple 2 from countertop 1",
)  # fmt: skip


def test_admissible_commands_are_sorted_and_leave_out_the_place_itself(play, session):
    assert list(session.reset().admissible) == [
        "go to cabinet 1", "go to cabinet 2", "go to countertop 1", "go to fridge 1", "go to microwave 1",
        "go to sink 1", "go to sinkbasin 1", *ALWAYS,
    ]  # fmt: skip
    # fridge and microwave share a standing point, so neither can be gone to; both can be opened
    assert list(play("go to fridge 1").admissible) == [
        "examine fridge 1", "examine microwave 1", "go to cabinet 1", "go to cabinet 2", "go to countertop 1",
        "go to sink 1", "go to sinkbasin 1", *ALWAYS, "open fridge 1", "open microwave 1",
    ]  # fmt: skip


def test_an_object_in_two_receptacles_can_be_taken_from_either(play, session):
    result = play("go to sink 1")
    assert {"take knife 1 from sink 1", "take knife 1 from sinkbasin 1"} <= set(result.admissible)
    assert session.step("take knife 1 from sink 1").observation == "You pick up the knife 1 from the sink 1."
    # it is still in the basin, and what is in hand cannot be taken again
    assert session.step("examine sinkbasin 1").observation == "On the sinkbasin 1, you see a knife 1."
    assert session.step("take knife 1 from sinkbasin 1").observation == "Nothing happens."


def test_only_fitting_open_receptacles_take_an_object(play, session):
    result = play(*FETCH, "go to cabinet 1")
    assert [c for c in result.admissible if c.startswith("move")] == ["move apple 2 to cabinet 1"]
    result = session.step("open cabinet 2")
    assert [c for c in result.admissible if c.startswith("move")] == [
        "move apple 2 to cabinet 1",
        "move apple 2 to cabinet 2",
    ]
    result = session.step("go to sink 1")  # no canContain fact for the sink itself
    assert [c for c in result.admissible if c.startswith("move")] == ["move apple 2 to sinkbasin 1"]


def test_a_sink_and_its_basin_both_clean_and_closed_machines_work(play, session):
    result = play(*FETCH, "go to sink 1")
    assert {"clean apple 2 with sink 1", "clean apple 2 with sinkbasin 1"} <= set(result.admissible)
    result = session.step("go to fridge 1")
    assert {"cool apple 2 with fridge 1", "heat apple 2 with microwave 1"} <= set(result.admissible)


def test_what_starts_cold_can_still_be_cooled_but_not_heated(play):
    result = play("go to fridge 1", "open fridge 1", "take winebottle 1 from fridge 1")
    assert "cool winebottle 1 with fridge 1" in result.admissible
    assert not [c for c in result.admissible if c.startswith("heat")]


def test_slicing_needs_a_knife_in_hand_and_the_food_at_its_own_point(play, session):
    play("go to sink 1", "take knife 1 from sink 1")
    # apple 2 lies on the counter, but its own point is that of the cabinets
    assert not [c for c in session.step("go to countertop 1").admissible if c.startswith("slice")]
    assert "slice apple 2 with knife 1" in session.step("go to cabinet 1").admissible
    # apple 1 is inside the closed fridge: the rules do not mind
    assert "slice apple 1 with knife 1" in session.step("go to fridge 1").admissible


def test_only_a_held_object_can_be_examined(play, session):
    result = play("go to countertop 1")
    assert [c for c in result.admissible if c.startswith("examine")] == ["examine countertop 1"]
    result = session.step("take apple 2 from countertop 1")
    assert [c for c in result.admissible if c.startswith("examine")] == [
        "examine apple 2",
        "examine countertop 1",
    ]


@pytest.mark.parametrize(
    "command",
    ["", "\n", "LOOK", "Go to cabinet 1", "go to  cabinet 1", "go to cabinet 3", "take", "größe", "look\x00"],
)
def test_anything_but_the_exact_command_does_nothing(session, command):
    before = session.reset()
    after = session.step(command)
    assert (after.observation, after.admissible) == ("Nothing happens.", before.admissible)


def test_blanks_around_a_command_are_ignored(session):
    session.reset()
    assert session.step(" \t go to cabinet 1\r\n").observation.startswith("You arrive at cabinet 1.")


# --- winning, saving, sharing

WIN = (*FETCH, "go to sink 1", CLEAN, "go to cabinet 1", "move apple 2 to cabinet 1")


def test_the_goal_holds_as_long_as_its_facts_do(play, session):
    before = play(*WIN[:-1])
    assert (before.won, before.score) == (False, 0)
    after = session.step(WIN[-1])
    assert (after.won, after.score) == (True, 1)
    assert session.step("nonsense").won  # the engine plays on
    assert session.step("go to fridge 1").won
    session.step("go to cabinet 1")
    assert not session.step("take apple 2 from cabinet 1").won


def test_goal_alternatives_hold_what_can_change(session):
    # 2 cabinets x 2 apples; each needs to be inside and clean
    (part,) = session.game.goal.parts
    named = {
        tuple((n.condition, session.game.objects[n.thing], n.receptacle) for n in needs)
        for needs in part.alternatives
    }
    assert named == {
        (("clean", apple, -1), ("inside", apple, cabinet))
        for apple in ("apple 1", "apple 2")
        for cabinet in (0, 1)
    }


def test_a_goal_about_two_objects_needs_two_different_ones(content):
    two = (
        "(exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 AppleType)"
        " (receptacleType ?r CabinetType) (inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2))"
        " (objectType ?o2 AppleType) (inReceptacle ?o2 ?r))))))"
    )
    head = content["pddl_problem"].partition("(exists (?r")[0]
    session = Session(Game.from_json({**content, "pddl_problem": head + two + ")))"}))
    first = (*FETCH, "go to cabinet 1", "move apple 2 to cabinet 1", "go to fridge 1", "open fridge 1")
    second = ("take apple 1 from fridge 1", "go to cabinet 1", "move apple 1 to cabinet 1")
    won = [session.step(command).won for command in (*first, *second)]
    assert won == [False] * 8 + [True]


def test_heating_undoes_cooling_for_the_goal(content):
    cold = (
        content["pddl_problem"].replace("(cleanable ?o)", "(coolable ?o)").replace("isClean ?o", "isCool ?o")
    )
    session = Session(Game.from_json({**content, "pddl_problem": cold}))
    for treatments, won in (((COOL,), True), ((COOL, HEAT), False), ((HEAT, COOL), True)):
        session.reset()
        for command in (*FETCH, "go to fridge 1", *treatments, "go to cabinet 1"):
            session.step(command)
        assert session.step("move apple 2 to cabinet 1").won is won


def test_snapshots_continue_like_the_episode_they_came_from(session):
    rng = random.Random(0)
    result = session.reset()
    for _ in range(300):
        saved = pickle.loads(pickle.dumps(session.snapshot()))
        command = rng.choice([*result.admissible, "nonsense"])
        before, result = result, session.step(command)
        fork = Session(session.game)
        assert fork.restore(saved) == before
        assert fork.step(command) == result


def test_restoring_a_bare_state_shows_the_place(play, session):
    play(*FETCH)
    assert session.restore(session.state).observation == (
        "You are facing the countertop 1. Next to it, you see nothing."
    )


def test_planners_see_the_same_rules_without_text(session):
    game, state = session.game, session.reset() and session.state
    rng = random.Random(1)
    for _ in range(300):
        actions = game.actions(state)
        assert tuple(sorted(actions)) == session.restore(state).admissible
        command = rng.choice(sorted(actions))
        session.step(command)
        state = game.apply(state, actions[command])
        assert state == session.state


def test_games_and_sessions_are_picklable(play, session):
    play(*FETCH)
    copied = Session(pickle.loads(pickle.dumps(session.game)))
    assert copied.restore(session.snapshot()).admissible == session.step("nonsense").admissible


def test_sets_of_integers_list_their_members_in_order():
    assert list(bits(0b101001)) == [0, 3, 5]


def test_the_wording_of_older_releases_is_not_understood(play, session):
    play(*FETCH, "go to cabinet 1")
    assert session.step("put apple 2 in/on cabinet 1").observation == "Nothing happens."
