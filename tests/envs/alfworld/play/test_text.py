"""Names and texts of the native engine; expected values derived by hand from `envs/alfworld/logic/grammar.twl2`."""

import pytest

from agentbench.envs.alfworld.play.pddl import numbered_names
from agentbench.envs.alfworld.play.session import Game, Session


def test_numbers_are_handed_out_from_the_highest_in_sorted_order():
    names = numbered_names(["pen_bar_b", "pen_bar_a", "pen_bar_c", "sink_bar_1_bar_sinkbasin", "agent1"])
    assert names == {
        "pen_bar_a": "pen 3",
        "pen_bar_b": "pen 2",
        "pen_bar_c": "pen 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
        "agent1": "agent1 ",  # an id without position has an empty number
    }


def test_introduction_lists_the_room_and_the_task(session):
    assert session.reset().observation == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
        "a cabinet 2, a cabinet 1, a countertop 1, a fridge 1, a microwave 1, a sink 1, and a sinkbasin 1.\n\n"
        "Your task is to: put a clean apple in cabinet."
    )


def test_look_before_the_first_move_lists_nothing(play):
    assert play("look").observation == (
        "You are in the middle of a room. Looking quickly around you, you see nothing."
    )


def test_help_has_no_leading_newline_and_ends_with_one(play):
    observation = play("help").observation
    assert observation.startswith("Available commands:\n  look:     ")
    assert observation.endswith("using a sharp object\n")


def test_start_at_a_receptacle_is_introduced_as_a_place(content):
    moved = content["pddl_problem"].replace("(atLocation agent1 loc_bar_0)", "(atLocation agent1 loc_bar_1)")
    session = Session(Game.from_json({**content, "pddl_problem": moved}))
    assert session.reset().observation.split("\n\n")[1] == (
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing."
    )


def test_arriving_examining_and_opening_describe_the_receptacle(play, session):
    assert play("go to countertop 1").observation == (
        "You arrive at countertop 1. On the countertop 1, you see a apple 2, and a desklamp 1."
    )
    assert session.step("go to fridge 1").observation == "You arrive at fridge 1. The fridge 1 is closed."
    assert session.step("examine fridge 1").observation == "The fridge 1 is closed."
    assert session.step("open fridge 1").observation == (
        "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1, a bowl 1, and a winebottle 1."
    )
    assert session.step("examine microwave 1").observation == "The microwave 1 is closed."
    assert session.step("close fridge 1").observation == "You close the fridge 1."
    assert (
        session.step("go to cabinet 1").observation
        == "You arrive at cabinet 1. On the cabinet 1, you see nothing."
    )


def test_inventory_names_what_is_held(play):
    assert play("inventory").observation == "You are not carrying anything."
    held = play("go to sink 1", "take knife 1 from sink 1", "inventory")
    assert held.observation == "You are carrying: a knife 1."


def test_taken_things_lie_next_to_the_receptacle_they_were_taken_from(play, session):
    play(
        "go to countertop 1",
        "take apple 2 from countertop 1",
        "go to cabinet 1",
        "move apple 2 to cabinet 1",
    )
    assert session.step("look").observation == (
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing."
    )
    # taken from cabinet 1 and put into cabinet 2 at the same place: not in cabinet 1 any more, but still here
    for command in ("take apple 2 from cabinet 1", "open cabinet 2", "move apple 2 to cabinet 2"):
        session.step(command)
    assert session.step("look").observation == (
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see a apple 2."
    )


def test_using_a_lamp_always_turns_it_on(play, session):
    assert play("go to countertop 1", "use desklamp 1").observation == "You turn on the desklamp 1."
    assert session.step("use desklamp 1").observation == "You turn on the desklamp 1."


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


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (FETCH, "There's nothing special about apple 2."),
        ((*FETCH, "go to sink 1", CLEAN), "This is a clean apple 2."),
        ((*FETCH, "go to fridge 1", HEAT), "This is a hot apple 2."),
        ((*FETCH, "go to fridge 1", COOL), "This is a cold apple 2."),
        ((*FETCH, "go to fridge 1", HEAT, COOL), "This is a cold apple 2."),
        ((*FETCH, "go to fridge 1", COOL, HEAT), "This is a hot apple 2."),
        ((*FETCH, "go to sink 1", CLEAN, "go to fridge 1", HEAT), "This is a hot and clean apple 2."),
        ((*FETCH, "go to sink 1", CLEAN, "go to fridge 1", COOL), "This is a cool and clean apple 2."),
        (CUT, "This is a sliced apple 2."),
        ((*CUT, "go to sink 1", CLEAN), "This is a clean sliced apple 2."),
        ((*CUT, "go to fridge 1", HEAT), "This is a hot sliced apple 2."),
        ((*CUT, "go to fridge 1", COOL), "This is a cool sliced apple 2."),
        ((*CUT, "go to sink 1", CLEAN, "go to fridge 1", HEAT), "This is a hot and clean sliced apple 2."),
        ((*CUT, "go to sink 1", CLEAN, "go to fridge 1", COOL), "This is a cool and clean sliced apple 2."),
    ],
)
def test_examine_names_the_qualities_of_a_held_object(play, session, commands, expected):
    play(*commands)
    assert session.step("examine apple 2").observation == expected


def test_objects_that_start_cold_or_hold_others_are_described_so(play, session):
    play("go to fridge 1", "open fridge 1", "take winebottle 1 from fridge 1")
    assert session.step("examine winebottle 1").observation == "This is a cold winebottle 1."
    session.step("move winebottle 1 to fridge 1")
    session.step("take bowl 1 from fridge 1")
    assert session.step("examine bowl 1").observation == "This is a normal bowl 1. In it, you see a apple 1."


def test_actions_are_confirmed_in_the_grammars_words(play, session):
    play(*FETCH, "go to sink 1")
    assert session.step(CLEAN).observation == "You clean the apple 2 using the sinkbasin 1."
    session.step("go to fridge 1")
    assert session.step(HEAT).observation == "You heat the apple 2 using the microwave 1."
    assert session.step(COOL).observation == "You cool the apple 2 using the fridge 1."
    session.step("open microwave 1")
    assert (
        session.step("move apple 2 to microwave 1").observation == "You move the apple 2 to the microwave 1."
    )
    taken = session.step("take apple 2 from microwave 1").observation
    assert taken == "You pick up the apple 2 from the microwave 1."
    play(*CUT[:3])
    assert session.step(CUT[3]).observation == "You sliced the apple 2 with the knife 1."
