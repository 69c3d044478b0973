"""The text-only player: it searches, remembers, and never needs more than it could read."""

import random

import pytest
from official_games import official_games

from agentbench.envs.alfworld.generate.generate import TASK_TYPES, Difficulty, game_for, generate_game
from agentbench.envs.alfworld.play.session import Game, Session
from agentbench.envs.alfworld.players.explorer import Explorer
from agentbench.errors import UsageError

INTRODUCTION = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
    "a cabinet 2, a cabinet 1, a countertop 1, a fridge 1, a microwave 1, and a sidetable 1.\n\n"
    "Your task is to: {}"
)
ALWAYS = ("help", "inventory", "look")


def play(game, rng, noise, limit):
    """Play with `noise` random commands first; return the number of commands, or None when it did not win."""
    session = Session(game)
    result = session.reset()
    explorer = Explorer(result.observation)
    for turn in range(limit):
        command = rng.choice(result.admissible) if turn < noise else explorer.act(result.admissible)
        assert command in result.admissible
        result = session.step(command)
        explorer.observe(result.observation)
        if result.won:
            return turn + 1
    return None


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_it_wins_mini_games_within_twenty_commands(task_type):
    for seed in range(40):
        game = Game.from_json(game_for(f"mini/{task_type}/{seed}"))
        assert play(game, random.Random(seed), 0, 20)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_it_wins_after_somebody_else_has_made_a_mess(task_type):
    for seed in range(20):
        game = Game.from_json(game_for(f"small/{task_type}/{seed}"))
        assert play(game, random.Random(seed), 10, 100)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_it_wins_where_all_receptacles_share_one_point(task_type):
    odd = Difficulty(receptacles=(6, 8), shared_points=1.0, fixtures=(2, 4), quirks=1.0)
    for seed in range(10):
        assert play(Game.from_json(generate_game(task_type, seed, odd)), random.Random(seed), 0, 50)


def test_it_looks_in_likely_places_first():
    explorer = Explorer(INTRODUCTION.format("put a mug in sidetable."))
    everywhere = [f"go to {place}" for place in explorer.places]
    # mugs: countertop 24 %, two cabinets 14 % together, fridge 12 %, microwave 6 %, sidetable 3 %
    order = []
    for _ in range(6):
        command = explorer.act([*everywhere, *ALWAYS])
        order.append(command.removeprefix("go to "))
        explorer.observe(f"You arrive at {order[-1]}. On the {order[-1]}, you see nothing.")
    assert order == ["countertop 1", "fridge 1", "cabinet 2", "cabinet 1", "microwave 1", "sidetable 1"]


def test_it_remembers_what_it_passed_by():
    explorer = Explorer(INTRODUCTION.format("heat some mug and put it in sidetable."))
    explorer.observe("You open the cabinet 2. The cabinet 2 is open. In it, you see a mug 1, and a plate 2.")
    explorer.observe("You arrive at fridge 1. The fridge 1 is closed.")
    here = ("examine fridge 1", "open fridge 1", "go to cabinet 2", "go to microwave 1", *ALWAYS)
    assert explorer.act(here) == "go to cabinet 2"
    there = (
        "examine cabinet 2",
        "close cabinet 2",
        "take mug 1 from cabinet 2",
        "take plate 2 from cabinet 2",
    )
    assert explorer.act(there) == "take mug 1 from cabinet 2"
    explorer.observe("You pick up the mug 1 from the cabinet 2.")
    assert explorer.act(("examine cabinet 2", *ALWAYS)) == "go to microwave 1"
    explorer.observe("You heat the mug 1 using the microwave 1.")
    assert explorer.act(("examine microwave 1", *ALWAYS)) == "go to sidetable 1"
    explorer.observe("You cool the mug 1 using the fridge 1.")  # somebody undoes it
    assert explorer.act(("examine fridge 1", *ALWAYS)) == "go to microwave 1"


def test_it_puts_down_what_it_does_not_need():
    explorer = Explorer(INTRODUCTION.format("put a mug in sidetable."))
    explorer.observe("You pick up the pan 1 from the countertop 1.")
    assert (
        explorer.act(("examine fridge 1", "go to countertop 1", "open fridge 1", *ALWAYS)) == "open fridge 1"
    )
    assert explorer.act(("examine fridge 1", "move pan 1 to fridge 1", *ALWAYS)) == "move pan 1 to fridge 1"


def test_a_sentence_of_another_sort_is_refused():
    with pytest.raises(UsageError, match=r"'slice the bread\.' is none of the official task sentences"):
        Explorer(INTRODUCTION.format("slice the bread."))


def test_it_wins_official_games():
    for game in official_games("valid_unseen", 12):
        assert play(game, random.Random(0), 0, 50), game.name


@pytest.mark.slow
@pytest.mark.parametrize("split", ["valid_seen", "valid_unseen"])
def test_it_wins_all_official_valid_games(split):
    for game in official_games(split, -1):
        assert play(game, random.Random(0), 0, 50), game.name
