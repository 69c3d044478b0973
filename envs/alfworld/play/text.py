"""Every sentence a player reads, byte for byte as the original's text grammar derives them.

Leaves out: what a command does. All functions are pure: the compiled game and the state *after* the action go in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .state import Action, State, bits

if TYPE_CHECKING:
    from .rules import Game

NOTHING_HAPPENS = "Nothing happens."

HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


def feedback(game: Game, state: State, action: Action) -> str:
    """Say what `action` did; `state` is the state it led to."""
    thing = game.objects[action.thing] if action.thing >= 0 else ""
    place = game.receptacles[action.receptacle] if action.receptacle >= 0 else ""
    match action.verb:
        case "look":
            return look(game, state)
        case "inventory":
            return inventory(game, state)
        case "help":
            return HELP
        case "go":
            return f"You arrive at {place}. {_receptacle(game, state, action.receptacle)}"
        case "open":
            return f"You open the {place}. {_receptacle(game, state, action.receptacle)}"
        case "close":
            return f"You close the {place}."
        case "take":
            return f"You pick up the {thing} from the {place}."
        case "move":
            return f"You move the {thing} to the {place}."
        case "examine_receptacle":
            return _receptacle(game, state, action.receptacle)
        case "examine_object":
            return _object(game, state, action.thing)
        case "use":
            # a lamp that was switched on stays so; "You turn off" cannot be reached in the original either
            return f"You turn on the {thing}."
        case "slice":
            return f"You sliced the {thing} with the {game.objects[state.holding]}."
        case _:
            return f"You {action.verb} the {thing} using the {place}."


def introduction(game: Game, state: State) -> str:
    """Say what a player reads first: the room and the task."""
    if game.receptacles_at[state.location]:
        view = look(game, state)
    else:
        placed = [r for r, location in enumerate(game.location_of) if location >= 0]
        view = _middle_of_room(f"a {game.receptacles[r]}" for r in placed)
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{view}\n\nYour task is to: {game.task}"


def look(game: Game, state: State) -> str:
    """Describe the place where the agent stands.

    What lies "next to" a receptacle is what is at this place and was taken from a receptacle here, once for every
    such receptacle. Before the first move the original looks for receptacles at a place without any, so it lists none.
    """
    here = game.receptacles_at[state.location]
    if not here:
        return _middle_of_room(())
    beside = [
        f"a {game.objects[thing]}"
        for thing in bits(state.lying[state.location])
        for receptacle in here
        if state.left[receptacle] >> thing & 1
    ]
    return f"You are facing the {_listed([game.receptacles[r] for r in here])}. Next to it, you see {_listed(beside)}."


def inventory(game: Game, state: State) -> str:
    """Name what is in hand."""
    if state.holding < 0:
        return "You are not carrying anything."
    return f"You are carrying: a {game.objects[state.holding]}."


def _middle_of_room(receptacles: Iterable[str]) -> str:
    return (
        f"You are in the middle of a room. Looking quickly around you, you see {_listed(list(receptacles))}."
    )


def _receptacle(game: Game, state: State, receptacle: int) -> str:
    place = game.receptacles[receptacle]
    inside = _listed([f"a {game.objects[thing]}" for thing in bits(state.contents[receptacle])])
    if not game.openable >> receptacle & 1:
        return f"On the {place}, you see {inside}."
    if not state.opened >> receptacle & 1:
        return f"The {place} is closed."
    return f"The {place} is open. In it, you see {inside}."


def _object(game: Game, state: State, thing: int) -> str:
    name = game.objects[thing]
    if game.vessels >> thing & 1:
        inside = _listed([f"a {game.objects[inner]}" for inner in bits(game.inside_vessel.get(thing, 0))])
        return f"This is a normal {name}. In it, you see {inside}."
    clean, hot, cool, sliced, toggled = (
        mask >> thing & 1 for mask in (state.clean, state.hot, state.cool, state.sliced, state.toggled)
    )
    temperature = "hot" if hot else "cool" if cool else ""
    if sliced and (clean or temperature):
        qualities = [word for word in (temperature, "clean" if clean else "") if word]
        return f"This is a {' and '.join(qualities)} sliced {name}."
    if clean and temperature:
        return f"This is a {temperature} and clean {name}."
    if hot or clean:
        return f"This is a {temperature or 'clean'} {name}."
    if cool:
        return f"This is a cold {name}."  # "cool" when also clean or sliced: so the original
    if toggled and game.toggleable >> thing & 1:
        return f"This {name} is on."
    if sliced and game.sliceable >> thing & 1:
        return f"This is a sliced {name}."
    return f"There's nothing special about {name}."


def _listed(items: Sequence[str]) -> str:
    if not items:
        return "nothing"
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])}, and {items[-1]}"
