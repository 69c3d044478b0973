"""A player that knows only what an agent can read: it searches likely places first and remembers what it saw.

Its episodes can be imitated, which those of the all-knowing `expert` cannot: nothing in the text explains why that one
goes straight to the right drawer. It is not optimal. Leaves out everything that the text does not say, and works with
either engine.

Two traps of official games cost a naive text player its win: receptacles that share a standing point (`go to` is
refused there although they can be used) and objects that are in two receptacles at once. Both are met by
trusting the list of admissible commands: `examine X` is on it exactly where X is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from agentbench.errors import UsageError

from ..chores import LAMP_TASK, TASKS, Task
from ..household import PLACES

_APPLIANCES: Final = {
    "isClean": ("clean", "sinkbasin"),
    "isHot": ("heat", "microwave"),
    "isCool": ("cool", "fridge"),
}
_LIKELY: Final = {
    thing.lower(): {place.lower(): share for place, share in places.items()}
    for thing, places in PLACES.items()
}
_SEEN: Final = re.compile(r"(?:On the (\w+ \d+)|The (\w+ \d+) is open\. In it), you see ([^.]*)\.")
_NAMED: Final = re.compile(r"an? (\w+ \d+)")
_TAKEN: Final = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_MOVED: Final = re.compile(r"You move the (\w+ \d+) to the (\w+ \d+)\.")
_TREATED: Final = re.compile(r"You (clean|heat|cool) the (\w+ \d+) using the ")


class Explorer:
    """Plays one episode from its texts; may be fed any episode from its start and asked at any turn.

    Args:
        introduction: the first observation.
    Raises: UsageError: the text holds none of the official task sentences.
    """

    def __init__(self, introduction: str) -> None:
        scene, _, sentence = introduction.partition("Your task is to: ")
        self.task_type, self.kind, self.parent = _asked(sentence.strip())
        self.task: Task = TASKS[self.task_type]
        self.places: list[str] = _NAMED.findall(scene)
        self.seen: dict[str, list[str]] = {}  # receptacle -> what was in it when last seen
        self.held = ""
        self.treated: set[str] = set()

    def observe(self, observation: str) -> None:
        """Remember what a turn's text says."""
        for on, inside, things in _SEEN.findall(observation):
            self.seen[on or inside] = _NAMED.findall(things)
        for thing, place in _TAKEN.findall(observation):
            self.held = thing
            self._forget(thing, place)
        for thing, place in _MOVED.findall(observation):
            self.held = ""
            self.seen.setdefault(place, []).append(thing)
        for verb, thing in _TREATED.findall(observation):
            undone = {"heat": "cool", "cool": "heat"}.get(verb, "")
            self.treated.discard(f"{undone} {thing}")
            self.treated.add(f"{verb} {thing}")

    def act(self, admissible: Sequence[str]) -> str:
        """Return the next command, given those that are possible now."""
        if not self.held:
            return self._fetch(admissible)
        if _kind(self.held) != self.kind or self._placed_otherwise(self.held):
            return self._get_rid(admissible)
        if self.task_type == LAMP_TASK:
            return self._use_lamp(admissible)
        verb, appliance = _APPLIANCES.get(self.task.flag, ("", ""))
        if verb and f"{verb} {self.held}" not in self.treated:
            place = self._nearest((p for p in self.places if _kind(p) == appliance), admissible)
            return self._at(place, f"{verb} {self.held} with {place}", admissible)
        return self._at(place := self._destination(admissible), f"move {self.held} to {place}", admissible)

    def _fetch(self, admissible: Sequence[str]) -> str:
        """Take a known object of the right kind, or look for one."""
        wanted = [
            (place, thing)
            for place, things in self.seen.items()
            for thing in things
            if _kind(thing) == self.kind and not (self._settles(place) and self._is_ready(thing))
        ]
        wanted.sort(key=lambda found: (not self._is_ready(found[1]), f"examine {found[0]}" not in admissible))
        if not wanted:
            return self._search(self.kind, admissible)
        place, thing = wanted[0]
        command = self._at(place, f"take {thing} from {place}", admissible)
        if command == "look":  # it is not there any more, whatever was read
            self._forget(thing, place)
            return f"examine {place}"
        return command

    def _search(self, kind: str, admissible: Sequence[str]) -> str:
        """Go to the likeliest place not yet seen, open it, and read what is there."""
        unseen = [place for place in self.places if place not in self.seen]
        if not unseen:
            self.seen.clear()
            return "look"
        numbers = {place: sum(_kind(other) == _kind(place) for other in self.places) for place in unseen}
        shares = _LIKELY.get(kind, {})
        place = max(unseen, key=lambda p: (f"open {p}" in admissible, shares.get(_kind(p), 0) / numbers[p]))
        return self._at(place, f"examine {place}", admissible)

    def _use_lamp(self, admissible: Sequence[str]) -> str:
        for place, things in self.seen.items():
            for thing in things:
                if _kind(thing) == self.parent:
                    return self._at(place, f"use {thing}", admissible)
        return self._search(self.parent, admissible)

    def _get_rid(self, admissible: Sequence[str]) -> str:
        """Put the thing in hand anywhere, at once if possible."""
        for command in admissible:
            if command.startswith(f"move {self.held} to "):
                return command
        here = [command for command in admissible if command.startswith("open ")]
        if here:
            return here[0]
        shares = _LIKELY.get(_kind(self.held), {})
        away = [place for place in self.places if f"go to {place}" in admissible]
        return f"go to {max(away, key=lambda place: shares.get(_kind(place), 0))}"

    def _destination(self, admissible: Sequence[str]) -> str:
        """Choose where to put the thing: where one of two already is, else here, else any."""
        begun = self._begun()
        places = [begun] if begun else [place for place in self.places if _kind(place) == self.parent]
        return self._nearest(places, admissible)

    def _settles(self, place: str) -> bool:
        """Tell whether an object of the right kind need not leave this place."""
        if self.task.count == 2:
            return place == self._begun()
        return self.task_type != LAMP_TASK and _kind(place) == self.parent

    def _begun(self) -> str:
        """Return the place where one of two objects already is, or ""."""
        places = [p for p in self.seen if _kind(p) == self.parent and self._count(p)]
        return max(places, key=self._count, default="") if self.task.count == 2 else ""

    def _count(self, place: str) -> int:
        return sum(_kind(thing) == self.kind for thing in self.seen.get(place, ()))

    def _is_ready(self, thing: str) -> bool:
        verb, _ = _APPLIANCES.get(self.task.flag, ("", ""))
        return not verb or f"{verb} {thing}" in self.treated

    def _placed_otherwise(self, thing: str) -> bool:
        """Tell whether the thing in hand also still lies where it belongs, and another one is needed."""
        return self.task.count == 2 and any(
            thing in things for place, things in self.seen.items() if self._settles(place)
        )

    def _nearest(self, places: Iterable[str], admissible: Sequence[str]) -> str:
        candidates = list(places)
        if not candidates:
            raise UsageError(
                f"the introduction names no place to {self.task_type} {self.kind} with {self.parent}"
            )
        return min(
            candidates, key=lambda place: (f"examine {place}" not in admissible, self.places.index(place))
        )

    def _at(self, place: str, command: str, admissible: Sequence[str]) -> str:
        """Give a command that needs a place: go there first, and open it."""
        if f"examine {place}" not in admissible:
            return f"go to {place}"
        if not command.startswith(("clean", "heat", "cool", "use")) and f"open {place}" in admissible:
            return f"open {place}"
        return command if command in admissible else "look"

    def _forget(self, thing: str, place: str) -> None:
        if thing in self.seen.get(place, ()):
            self.seen[place].remove(thing)


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


def _asked(sentence: str) -> tuple[str, str, str]:
    """Return task type, object kind and destination kind of a task sentence."""
    for task_type, task in TASKS.items():
        for wording in task.sentences:
            pattern = re.escape(wording).replace(r"\{obj\}", r"(\w+)").replace(r"\{parent\}", r"(\w+)")
            if found := re.fullmatch(pattern, sentence):
                return task_type, found[1], found[2]
    raise UsageError(f"{sentence!r} is none of the official task sentences")
