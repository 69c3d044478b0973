"""Rules, texts and errors of the native engine, on a household written by hand.

Expected texts are derived by hand from `envs/alfworld/logic/grammar.twl2`; the same household is also played
against the original engine in test_conformance.py.
"""

import json
import pickle
import random
from importlib.resources import files
from pathlib import Path

import pytest
from agentbench.envs.alfworld.engine import CorruptGame, Game, Session, UnsupportedGame, canonical
from agentbench.envs.alfworld.pddl import (
    DOMAIN_SHA256,
    GRAMMAR_SHA256,
    numbered_names,
    parse_problem,
    rules_hashes,
)
from agentbench.envs.alfworld.state import bits

from agentbench.errors import MissingData

DATA = Path(__file__).parents[2] / "data" / "alfworld"
LOGIC = files("agentbench.envs.alfworld") / "logic"
ALWAYS = ["help", "inventory", "look"]


@pytest.fixture(scope="module")
def content():
    task = "put a clean apple in cabinet"
    return {
        "pddl_domain": (LOGIC / "domain.pddl").read_text(),
        "grammar": (LOGIC / "grammar.twl2").read_text().replace("UNKNOWN GOAL", task),
        "pddl_problem": (DATA / "household.pddl").read_text(),
        "walkthrough": [],
        "solvable": True,
    }


@pytest.fixture
def session(content):
    return Session(Game.from_json(content))


def play(session, *commands):
    """Carry out commands that must all be admissible; return the last result."""
    result = session.reset()
    for command in commands:
        assert command in result.admissible, (command, result.admissible)
        result = session.step(command)
    return result


def edited(content, old, new):
    assert old in content["pddl_problem"]
    return {**content, "pddl_problem": content["pddl_problem"].replace(old, new)}


# --- names and texts


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


def test_look_before_the_first_move_lists_nothing(session):
    assert play(session, "look").observation == (
        "You are in the middle of a room. Looking quickly around you, you see nothing."
    )


def test_help_has_no_leading_newline_and_ends_with_one(session):
    observation = play(session, "help").observation
    assert observation.startswith("Available commands:\n  look:     ")
    assert observation.endswith("using a sharp object\n")


def test_start_at_a_receptacle_is_introduced_as_a_place(content):
    session = Session(
        Game.from_json(edited(content, "(atLocation agent1 loc_bar_0)", "(atLocation agent1 loc_bar_1)"))
    )
    assert session.reset().observation.split("\n\n")[1] == (
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing."
    )


def test_arriving_examining_and_opening_describe_the_receptacle(session):
    assert play(session, "go to countertop 1").observation == (
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


def test_inventory_names_what_is_held(session):
    assert play(session, "inventory").observation == "You are not carrying anything."
    held = play(session, "go to sink 1", "take knife 1 from sink 1", "inventory")
    assert held.observation == "You are carrying: a knife 1."


def test_taken_things_lie_next_to_the_receptacle_they_were_taken_from(session):
    play(
        session,
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


def test_using_a_lamp_always_turns_it_on(session):
    assert play(session, "go to countertop 1", "use desklamp 1").observation == "You turn on the desklamp 1."
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
def test_examine_names_the_qualities_of_a_held_object(session, commands, expected):
    play(session, *commands)
    assert session.step("examine apple 2").observation == expected


def test_objects_that_start_cold_or_hold_others_are_described_so(session):
    play(session, "go to fridge 1", "open fridge 1", "take winebottle 1 from fridge 1")
    assert session.step("examine winebottle 1").observation == "This is a cold winebottle 1."
    session.step("move winebottle 1 to fridge 1")
    session.step("take bowl 1 from fridge 1")
    assert session.step("examine bowl 1").observation == "This is a normal bowl 1. In it, you see a apple 1."


def test_actions_are_confirmed_in_the_grammars_words(session):
    play(session, *FETCH, "go to sink 1")
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
    play(session, *CUT[:3])
    assert session.step(CUT[3]).observation == "You sliced the apple 2 with the knife 1."


# --- what can be done


def test_admissible_commands_are_sorted_and_leave_out_the_place_itself(session):
    assert list(session.reset().admissible) == [
        "go to cabinet 1", "go to cabinet 2", "go to countertop 1", "go to fridge 1", "go to microwave 1",
        "go to sink 1", "go to sinkbasin 1", *ALWAYS,
    ]  # fmt: skip
    # fridge and microwave share a standing point, so neither can be gone to; both can be opened
    assert list(play(session, "go to fridge 1").admissible) == [
        "examine fridge 1", "examine microwave 1", "go to cabinet 1", "go to cabinet 2", "go to countertop 1",
        "go to sink 1", "go to sinkbasin 1", *ALWAYS, "open fridge 1", "open microwave 1",
    ]  # fmt: skip


def test_an_object_in_two_receptacles_can_be_taken_from_either(session):
    result = play(session, "go to sink 1")
    assert {"take knife 1 from sink 1", "take knife 1 from sinkbasin 1"} <= set(result.admissible)
    assert session.step("take knife 1 from sink 1").observation == "You pick up the knife 1 from the sink 1."
    # it is still in the basin, and what is in hand cannot be taken again
    assert session.step("examine sinkbasin 1").observation == "On the sinkbasin 1, you see a knife 1."
    assert session.step("take knife 1 from sinkbasin 1").observation == "Nothing happens."


def test_only_fitting_open_receptacles_take_an_object(session):
    result = play(session, *FETCH, "go to cabinet 1")
    assert [c for c in result.admissible if c.startswith("move")] == ["move apple 2 to cabinet 1"]
    result = session.step("open cabinet 2")
    assert [c for c in result.admissible if c.startswith("move")] == [
        "move apple 2 to cabinet 1",
        "move apple 2 to cabinet 2",
    ]
    result = session.step("go to sink 1")  # no canContain fact for the sink itself
    assert [c for c in result.admissible if c.startswith("move")] == ["move apple 2 to sinkbasin 1"]


def test_a_sink_and_its_basin_both_clean_and_closed_machines_work(session):
    result = play(session, *FETCH, "go to sink 1")
    assert {"clean apple 2 with sink 1", "clean apple 2 with sinkbasin 1"} <= set(result.admissible)
    result = session.step("go to fridge 1")
    assert {"cool apple 2 with fridge 1", "heat apple 2 with microwave 1"} <= set(result.admissible)


def test_what_starts_cold_can_still_be_cooled_but_not_heated(session):
    result = play(session, "go to fridge 1", "open fridge 1", "take winebottle 1 from fridge 1")
    assert "cool winebottle 1 with fridge 1" in result.admissible
    assert not [c for c in result.admissible if c.startswith("heat")]


def test_slicing_needs_a_knife_in_hand_and_the_food_at_its_own_point(session):
    play(session, "go to sink 1", "take knife 1 from sink 1")
    # apple 2 lies on the counter, but its own point is that of the cabinets
    assert not [c for c in session.step("go to countertop 1").admissible if c.startswith("slice")]
    assert "slice apple 2 with knife 1" in session.step("go to cabinet 1").admissible
    # apple 1 is inside the closed fridge: the rules do not mind
    assert "slice apple 1 with knife 1" in session.step("go to fridge 1").admissible


def test_only_a_held_object_can_be_examined(session):
    result = play(session, "go to countertop 1")
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


def test_the_goal_holds_as_long_as_its_facts_do(session):
    before = play(session, *WIN[:-1])
    assert (before.won, before.score) == (False, 0)
    assert (lambda r: (r.won, r.score))(session.step(WIN[-1])) == (True, 1)
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
    start = content["pddl_problem"].index("(exists (?r")
    session = Session(
        Game.from_json({**content, "pddl_problem": content["pddl_problem"][:start] + two + ")))"})
    )
    assert not play(session, *FETCH, "go to cabinet 1", "move apple 2 to cabinet 1").won
    for command in ("go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "go to cabinet 1"):
        session.step(command)
    assert session.step("move apple 1 to cabinet 1").won


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


def test_restoring_a_bare_state_shows_the_place(session):
    play(session, *FETCH)
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


def test_games_and_sessions_are_picklable(session):
    play(session, *FETCH)
    copied = Session(pickle.loads(pickle.dumps(session.game)))
    assert copied.restore(session.snapshot()).admissible == session.step("nonsense").admissible


def test_sets_of_integers_list_their_members_in_order():
    assert list(bits(0b101001)) == [0, 3, 5]


# --- wordings, files and errors


def test_older_wording_is_mapped_and_the_raw_engine_stays_exact(session):
    result = play(session, *FETCH, "go to cabinet 1")
    assert session.step("put apple 2 in/on cabinet 1").observation == "Nothing happens."
    command = canonical(" put apple 2 in/on cabinet 1\n", session.game)
    assert command == "move apple 2 to cabinet 1"
    assert command in result.admissible
    for other in ("look", "put apple 2", "move apple 2 to cabinet 1", "  Put it in/on there"):
        assert canonical(other, session.game) == other


def test_the_shipped_rules_have_the_known_hashes():
    domain, grammar = ((LOGIC / name).read_text() for name in ("domain.pddl", "grammar.twl2"))
    assert rules_hashes(domain, grammar)[:2] == (DOMAIN_SHA256, GRAMMAR_SHA256)


def test_files_are_loaded_with_their_walkthrough(content, tmp_path):
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps({**content, "walkthrough": list(WIN)}))
    game = Game.load(path)
    assert (game.walkthrough, game.task, game.name) == (WIN, "put a clean apple in cabinet.", str(path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"nowhere\.tw-pddl.*agentbench data fetch alfworld"):
        Game.load(tmp_path / "nowhere.tw-pddl")


@pytest.mark.parametrize(
    ("key", "old", "new", "message"),
    [
        ("grammar", "You move the", "You put the", r"unknown grammar.*engine=\"textworld\""),
        ("pddl_domain", "(holdsAny ?a)", "(holdsAll ?a)", "unknown domain"),
        ("grammar", "put a clean apple in cabinet", "put [it]", "the goal sentence"),
        ("pddl_problem", "(isCool Apple_bar_2)", "(isClean Apple_bar_2)", r"unknown start fact \(isclean"),
        ("pddl_problem", "(isClean ?o)", "(isHeavy ?o)", "unknown goal condition.*isheavy"),
        ("pddl_problem", "(isClean ?o)", "(not (isClean ?o))", "unknown goal condition"),
        ("pddl_problem", "(isClean ?o)", "(isClean Ghost)", "speaks of 'ghost'"),
        ("pddl_problem", "(atLocation agent1 loc_bar_0)", "", "0 agents"),
        ("pddl_problem", "DeskLamp_bar_1", "Größe_bar_1", "outside ASCII"),
        (
            "pddl_problem",
            "(receptacleAtLocation Cabinet_bar_1 loc_bar_1)",
            "(receptacleAtLocation Cabinet_bar_1 loc_bar_1) (receptacleAtLocation Cabinet_bar_1 loc_bar_2)",
            "two values of receptacleatlocation",
        ),
    ],
)
def test_games_with_other_rules_are_refused_by_name(content, key, old, new, message):
    assert old in content[key]
    with pytest.raises(UnsupportedGame, match=message) as caught:
        Game.from_json({**content, key: content[key].replace(old, new)}, "here.tw-pddl")
    assert str(caught.value).startswith("here.tw-pddl: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("pddl_problem"), "'pddl_problem' must be a string, found nothing"),
        (lambda c: c.update(grammar=3), "'grammar' must be a string, found int"),
        (lambda c: c.update(walkthrough="look"), "'walkthrough' must be a list"),
        (lambda c: c.update(pddl_problem=""), "must hold"),
        (lambda c: c.update(pddl_problem=c["pddl_problem"][:-40]), "parenthes"),
        (lambda c: c.update(pddl_problem=c["pddl_problem"].rstrip() + ")"), "after :goal do not match"),
        (
            lambda c: c.update(pddl_problem=c["pddl_problem"].replace("(openable ", "openable ", 1)),
            ":init do not",
        ),
        (
            lambda c: c.update(pddl_problem=c["pddl_problem"].replace("(openable Fridge", "(openable Apple")),
            r"\(openable apple_bar_1\): declared arguments of types \('receptacle',\)",
        ),
        (
            lambda c: c.update(
                pddl_problem=c["pddl_problem"].replace("(sliceable Apple_bar_1)", "(sliceable Pear_bar_1)")
            ),
            r"\(sliceable pear_bar_1\)",
        ),
    ],
)
def test_broken_games_are_refused_by_name(content, change, message):
    broken = dict(content)
    change(broken)
    with pytest.raises(CorruptGame, match=message) as caught:
        Game.from_json(broken, "here.tw-pddl")
    assert "here.tw-pddl" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"game"'])
def test_files_that_are_no_json_object_are_refused(tmp_path, text):
    path = tmp_path / "game.tw-pddl"
    path.write_text(text)
    with pytest.raises(CorruptGame, match=r"game\.tw-pddl"):
        Game.load(path)


def test_comments_and_letter_case_do_not_matter(content):
    plain = parse_problem(content["pddl_problem"], "a")
    shouted = "\n".join(line + " ; (broken" for line in content["pddl_problem"].upper().split("\n"))
    assert parse_problem(shouted, "b") == plain
