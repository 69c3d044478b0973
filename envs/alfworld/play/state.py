"""The moving part of a game: `State`, the `Action`s that change it, and sets of small integers as bit masks.

Leaves out: the rules (see `engine`). Objects, receptacles and locations are integers, numbered in the order in
which the original lists them; a set of them is an `int` whose bit i tells whether i is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

NOBODY = -1
"""Stands where an object or receptacle is not needed, and for empty hands."""

Verb = Literal[
    "look", "inventory", "help", "go", "open", "close", "take", "move", "examine_receptacle", "examine_object",
    "use", "heat", "clean", "cool", "slice",
]  # fmt: skip


class State(NamedTuple):
    """Everything that changes during an episode; immutable, comparable and picklable, about 1 KB.

    Attributes:
        location: where the agent stands.
        holding: the object in hand, or -1.
        contents: per receptacle, the objects in or on it.
        left: per receptacle, the objects that were taken from it and not put back; only `look` shows this.
        lying: per location, the objects that are reported there; an object's own place may differ from the
            place of the receptacle it is in.
        opened: the open receptacles.
        clean: the objects that were washed; like the next four, a set of objects.
        hot: the heated ones.
        cool: the cooled ones.
        toggled: the lamps that were switched on at least once; they never go off again.
        sliced: the cut ones.
    """

    location: int
    holding: int
    contents: tuple[int, ...]
    left: tuple[int, ...]
    lying: tuple[int, ...]
    opened: int = 0
    clean: int = 0
    hot: int = 0
    cool: int = 0
    toggled: int = 0
    sliced: int = 0


class Action(NamedTuple):
    """A command the rules know. `thing` is an object, `receptacle` a receptacle; -1 where the verb has none.

    A slice names only what is cut: the knife is the object in hand.
    """

    verb: Verb
    thing: int = NOBODY
    receptacle: int = NOBODY


def bits(mask: int) -> Iterator[int]:
    """Go through the members of a set in ascending order."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def mask_of(members: Iterable[int]) -> int:
    """Make a set of its members."""
    mask = 0
    for member in members:
        mask |= 1 << member
    return mask


def with_bit(masks: tuple[int, ...], index: int, member: int) -> tuple[int, ...]:
    """Return `masks` with `member` added to the set at `index`."""
    return (*masks[:index], masks[index] | 1 << member, *masks[index + 1 :])


def without_bit(masks: tuple[int, ...], index: int, member: int) -> tuple[int, ...]:
    """Return `masks` with `member` taken out of the set at `index`."""
    return (*masks[:index], masks[index] & ~(1 << member), *masks[index + 1 :])
