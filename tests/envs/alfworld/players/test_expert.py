"""The expert: shortest plans, by hand and by breadth-first search, from the start and from anywhere else."""

import random
import re
from dataclasses import replace
from importlib.resources import files

import pytest
from official_games import official_games

from agentbench.envs.alfworld.generate.generate import TASK_TYPES, Difficulty, game_for, generate_game
from agentbench.envs.alfworld.generate.problem import Furniture, Household, Thing, goal_formula, problem_text
from agentbench.envs.alfworld.play.goal import Goal, Need, Part
from agentbench.envs.alfworld.play.session import Game, Session
from agentbench.envs.alfworld.play.state import Action, bits
from agentbench.envs.alfworld.players.expert import DeadEnd, Expert, command_of, optimal_length
from agentbench.errors import UsageError

LOGIC = files("agentbench.envs.alfworld") / "logic"
TINY = Difficulty(
    receptacles=(4, 6),
    objects=(3, 5),
    spares=(0, 2),
    hidden=0.5,
    shared_points=0.25,
    fixtures=(0, 2),
    quirks=0.2,
)
CHANGING = ("go", "open", "close", "take", "move", "use", "heat", "clean", "cool")


# --- a kitchen by hand ---


DOORS = {"Fridge", "Microwave", "Cabinet", "Safe"}
KITCHEN = ("Fridge", "Microwave", "Cabinet", "CounterTop", "SinkBasin", "SideTable")


def kitchen(task_type, obj, parent, things, *, together=(), has=KITCHEN):
    """Build a game: things are (type, receptacle or None); the receptacles in `together` share a point.

    A second receptacle of a type is written `Cabinet2`; the game shows it as cabinet 1, and the first one as cabinet 2.
    """
    furniture = {}
    for i, name in enumerate(has):
        kind = name.rstrip("2")
        point = "loc_bar_50" if name in together else f"loc_bar_{i}"
        furniture[name] = Furniture(f"{kind}_bar_{i}", kind, point, kind in DOORS)
    household = Household(
        list(furniture.values()),
        [
            Thing(f"{kind}_bar_{i}", kind, f"loc_bar_{i}", furniture.get(place), movable=kind != "DeskLamp")
            for i, (kind, place) in enumerate(things)
        ],
        "loc_bar_99",
    )
    return Game.from_json(
        {
            "pddl_domain": (LOGIC / "domain.pddl").read_text(),
            "grammar": (LOGIC / "grammar.twl2").read_text(),
            "pddl_problem": problem_text("kitchen", household, goal_formula(task_type, obj, parent)),
        }
    )


def after(game, *commands):
    session = Session(game)
    for command in commands:
        assert command in session.game.actions(session.state), command
        session.step(command)
    return session.state


HEAT = "pick_heat_then_place_in_recep"


def test_a_plan_by_hand():
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge")])
    plan = [
        "go to fridge 1",
        "open fridge 1",
        "take apple 1 from fridge 1",
        "go to microwave 1",
        "heat apple 1 with microwave 1",
        "go to countertop 1",
        "move apple 1 to countertop 1",
    ]
    expert = Expert(game)
    assert expert.plan(game.start) == plan
    state = game.start
    for i, command in enumerate(plan):
        assert optimal_length(game, state) == 7 - i
        assert expert.act(state) == command
        state = game.apply(state, game.actions(state)[command])
    assert expert.act(state) is None


def test_a_door_that_is_used_twice_is_opened_once():
    game = kitchen(HEAT, "Mug", "Cabinet", [("Mug", "Cabinet")])
    # go, open, take; go, heat; go, move: the cabinet stays open
    assert optimal_length(game) == 7


def test_places_that_share_a_point_save_the_way():
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge")], together=("Microwave", "CounterTop"))
    # go, open, take; go, heat, move
    assert optimal_length(game) == 6


@pytest.mark.parametrize(
    ("commands", "left"),
    [
        # in hand already, cold: go, heat, go, move
        (["go to fridge 1", "open fridge 1", "take apple 1 from fridge 1"], 4),
        # heated, then cooled again: that was for nothing
        (
            [
                "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "go to microwave 1",
                "heat apple 1 with microwave 1", "go to fridge 1", "cool apple 1 with fridge 1",
            ],
            4,
        ),
        # hot, but put down in the wrong place: take, go, move
        (
            [
                "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "go to microwave 1",
                "heat apple 1 with microwave 1", "go to sidetable 1", "move apple 1 to sidetable 1",
            ],
            3,
        ),
        # a pan in hand, a countertop here: move; then the whole plan of 7 again
        (["go to countertop 1", "take pan 1 from countertop 1"], 8),
        # a pan in hand at the closed microwave, which takes no pans: the open fridge does: go, open, move, take, ...
        (["go to countertop 1", "take pan 1 from countertop 1", "go to microwave 1"], 8),
        # the fridge is open and closed again: nothing gained
        (["go to fridge 1", "open fridge 1", "close fridge 1"], 6),
    ],
)  # fmt: skip
def test_the_way_on_from_the_middle(commands, left):
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge"), ("Pan", "CounterTop")])
    state = after(game, *commands)
    assert optimal_length(game, state) == left
    assert optimal_length(game, state) == brute_force(game, state)


def test_the_destination_on_the_way_is_chosen_among_equals():
    things, has = [("Apple", "Fridge")], (*KITCHEN, "CounterTop2")
    # where it is heated: go, open, take; go, heat, move
    assert optimal_length(kitchen(HEAT, "Apple", "CounterTop", things, has=has, together=KITCHEN[1:4:2])) == 6
    # where it lies: go, open, take, move
    plain = "pick_and_place_simple"
    game = kitchen(plain, "Apple", "CounterTop", [("Apple", "Cabinet")], has=has, together=KITCHEN[2:4])
    assert optimal_length(game) == 4
    # the one that is open already: go, take, go, move
    game = kitchen(plain, "Mug", "Cabinet", [("Mug", "SideTable")], has=(*KITCHEN, "Cabinet2"))
    assert optimal_length(game, after(game, "go to cabinet 2", "open cabinet 2", "go to fridge 1")) == 4


def test_what_is_in_the_way_is_put_where_it_costs_least():
    task = "pick_and_place_simple", "Mug"
    # a statue beside the mug: go, move statue, open, take, go, move
    things = [("Mug", "Fridge"), ("Statue", "CoffeeMachine")]
    has = (*KITCHEN, "CoffeeMachine")
    game = kitchen(*task, "CoffeeMachine", things, has=has, together=("Fridge", "SideTable"))
    taken = after(game, "go to coffeemachine 1", "take statue 1 from coffeemachine 1")
    assert optimal_length(game, taken) == 6
    # on the shelf, not in the closed safe: go, move statue; go, open, take; go, move
    game = kitchen(*task, "CoffeeMachine", things, has=("CoffeeMachine", "Fridge", "Safe", "Shelf"))
    taken = after(game, "go to coffeemachine 1", "take statue 1 from coffeemachine 1")
    assert optimal_length(game, taken) == 7
    # a plate in the microwave, which has to be opened anyway: go, open, move plate; go, take; go, move
    things = [("Mug", "CoffeeMachine"), ("Plate", "CoffeeMachine")]
    game = kitchen(*task, "Microwave", things, has=("Cabinet", "CoffeeMachine", "Fridge", "Microwave"))
    taken = after(game, "go to coffeemachine 1", "take plate 1 from coffeemachine 1")
    assert optimal_length(game, taken) == 7


def test_two_objects_need_two_trips_to_the_same_place():
    game = kitchen(
        "pick_two_obj_and_place", "Apple", "SideTable", [("Apple", "Fridge"), ("Apple", "CounterTop")]
    )
    # countertop: go, take, go, move; fridge: go, open, take, go, move
    assert optimal_length(game) == 9


def test_a_lamp_is_switched_on_where_it_stands_with_the_object_in_hand():
    game = kitchen(
        "look_at_obj_in_light", "Bowl", "DeskLamp", [("Bowl", "Cabinet"), ("DeskLamp", "CounterTop")]
    )
    # go, open, take, go, use
    assert optimal_length(game) == 5
    lit = after(game, "go to countertop 1", "use desklamp 1")
    assert optimal_length(game, lit) == 4  # go, open, take, go back: won on arrival


def test_an_object_that_fits_nowhere_is_a_dead_end():
    # as the paper towel rolls and teddy bears of official games: one can take it, and no receptacle accepts it
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge"), ("Television", "CounterTop")])
    state = after(game, "go to countertop 1", "take television 1 from countertop 1")
    assert brute_force(game, state) is None
    expert = Expert(game)
    assert not expert.solvable(state)
    assert expert.solvable(game.start)
    with pytest.raises(DeadEnd, match="holding television 1"):
        expert.act(state)


def test_a_goal_of_an_unknown_sort_is_refused():
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge")])
    sliced = ((Need("sliced", 0), Need("inside", 0, 0)),)
    with pytest.raises(UsageError, match="cannot plan for 'sliced'"):
        Expert(game, goal=Goal((Part(sliced, ((-1, 0, sliced),)),)))


def test_reading_commands_have_no_wording():
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge")])
    with pytest.raises(ValueError, match="no command"):
        command_of(game, Action("look"))


def test_nothing_is_planned_at_a_receptacle_without_a_place():
    game = kitchen(HEAT, "Apple", "CounterTop", [("Apple", "Fridge")])
    at = list(game.location_of)
    at[game.receptacle_types.index("microwavetype")] = -1
    assert not Expert(replace(game, location_of=tuple(at))).solvable(game.start)


# --- breadth-first search ---


def brute_force(game, state, goal=None):
    """Count the commands of a shortest solution by trying everything; None when there is none."""
    goal = goal or game.goal
    if goal.met(state):
        return 0

    def bare(state):  # what only the texts depend on is left out
        return state._replace(left=(), lying=(), sliced=0)

    seen, front, length = {bare(state)}, [state], 0
    while front:
        length += 1
        reached = []
        for here in front:
            for action in game.actions(here).values():
                if action.verb in CHANGING:
                    there = game.apply(here, action)
                    if bare(there) not in seen:
                        if goal.met(there):
                            return length
                        seen.add(bare(there))
                        reached.append(there)
        front = reached
    return None


def stroll(game, state, rng, most):
    for _ in range(rng.randint(1, most)):
        actions = game.actions(state)
        state = game.apply(state, actions[rng.choice(sorted(actions))])
    return state


def with_objects_in_two_places(content, rng):
    """Let two objects lie in a second receptacle as well, as some do in official games."""
    head, mark, rest = content["pddl_problem"].partition("(:init")
    things = re.findall(r"\(inReceptacle (\S+) ", rest.partition("(:goal")[0])
    places = re.findall(r"\(receptacleAtLocation (\S+) ", rest)
    extra = "".join(f"\n(inReceptacle {rng.choice(things)} {rng.choice(places)})" for _ in range(2))
    return {**content, "pddl_problem": head + mark + extra + rest}


def assert_plans_are_shortest(numbers):
    for number in numbers:
        rng = random.Random(number)
        content = generate_game(TASK_TYPES[number % 6], number, TINY)
        game = Game.from_json(with_objects_in_two_places(content, rng) if number % 3 == 0 else content)
        state = game.start
        for _ in range(3):
            assert optimal_length(game, state) == brute_force(game, state), (number, state)
            state = stroll(game, state, rng, 8)


def test_plans_are_as_short_as_breadth_first_search_finds():
    assert_plans_are_shortest(range(90))


@pytest.mark.slow
def test_many_plans_are_as_short_as_breadth_first_search_finds():
    assert_plans_are_shortest(range(90, 3000))


def test_plans_in_mini_games_are_as_short_as_breadth_first_search_finds():
    for number in range(18):
        game = Game.from_json(game_for(f"mini/{TASK_TYPES[number % 6]}/{number}"))
        assert optimal_length(game) == brute_force(game, game.start)


# --- from anywhere ---


def assert_wins_from(game, expert, state):
    session = Session(game)
    result, expected = session.restore(state), len(expert.plan(state))
    for _ in range(expected):
        assert not result.won
        command = expert.act(session.state)
        assert command in result.admissible
        result = session.step(command)
    assert result.won
    assert expert.act(session.state) is None


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_expert_wins_generated_games_from_anywhere(task_type):
    for seed in range(50):
        rng = random.Random(seed)
        game = Game.from_json(game_for(f"mini/{task_type}/{seed}"))
        expert = Expert(game)
        for _ in range(5):
            assert_wins_from(game, expert, stroll(game, game.start, rng, 30))


def test_an_expert_can_be_asked_about_many_states_in_any_order():
    game = Game.from_json(game_for("small/pick_two_obj_and_place/3"))
    rng = random.Random(0)
    states = [stroll(game, game.start, rng, 20) for _ in range(20)]
    alone = [Expert(game).act(state) for state in states]
    shared = Expert(game)
    order = [rng.randrange(20) for _ in range(100)]
    assert [shared.act(states[i]) for i in order] == [alone[i] for i in order]


# --- official games ---


def assert_masters(game, rng, strolls):
    expert = Expert(game)
    assert_wins_from(game, expert, game.start)
    assert optimal_length(game) <= len(game.walkthrough)
    for _ in range(strolls):
        state = stroll(game, game.start, rng, 60)
        if expert.solvable(state):
            assert_wins_from(game, expert, state)
        else:  # only ever because of something that cannot be put down
            assert state.holding in bits(game.pickupable)
            assert not any(things >> state.holding & 1 for things in game.accepts)


def test_the_expert_masters_official_games():
    for number, game in enumerate(official_games("valid_seen", 12)):
        assert_masters(game, random.Random(number), 5)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid_train", "valid_seen", "valid_unseen"])
def test_the_expert_masters_all_official_games(split):
    for number, game in enumerate(official_games(split, -1)):
        assert_masters(game, random.Random(number), 5)
