"""Policies that need no model: expert, explorer, random, null, scripted, replay. Leaves out the choice (`build`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from ..env import Expert, Explorer
from ..errors import UsageError
from ..policy import InstantPolicy, View
from ..types import Trajectory, derive_seed


class ExpertPolicy(InstantPolicy):
    """Plays the env's own expert."""

    name = "expert"

    def __init__(self) -> None:
        """Start with no experts; one is made for each episode."""
        super().__init__()
        self._experts: dict[str, Expert] = {}

    def command(self, view: View) -> str:
        """Ask the expert of this episode's env."""
        if view.key not in self._experts:
            if view.spec.expert is None:
                raise UsageError(
                    f"env {view.spec.id!r} has no expert; use --policy random, null, replay or model"
                )
            self._experts[view.key] = view.spec.expert(view.env)
        return self._experts[view.key].act()

    def forget(self, key: str) -> None:
        """Drop the expert of an ended episode."""
        self._experts.pop(key, None)


class ExplorerPolicy(InstantPolicy):
    """Plays the env's expert that knows only the text; can take over at any turn."""

    name = "explorer"

    def __init__(self) -> None:
        """Start with no explorers; one is made for each episode."""
        super().__init__()
        self._explorers: dict[str, tuple[Explorer, int]] = {}

    def command(self, view: View) -> str:
        """Show the explorer of this episode what it has not seen yet, and ask it."""
        texts = [*(turn.observation for turn in view.turns), view.observation]
        if view.key not in self._explorers:
            if view.spec.explorer is None:
                raise UsageError(
                    f"env {view.spec.id!r} has no explorer; use expert, random, null, replay or model"
                )
            self._explorers[view.key] = (view.spec.explorer(texts[0]), 0)
        explorer, seen = self._explorers[view.key]
        for text in texts[seen:]:
            explorer.observe(text)
        self._explorers[view.key] = (explorer, len(texts))
        return explorer.act(view.info["admissible"])

    def forget(self, key: str) -> None:
        """Drop the explorer of an ended episode."""
        self._explorers.pop(key, None)


class RandomPolicy(InstantPolicy):
    """Picks an admissible command uniformly; seeded by episode and turn. "look" where the env lists none."""

    name = "random"

    def command(self, view: View) -> str:
        choices = view.info["admissible"] or ["look"]
        rng = random.Random(derive_seed(view.seed, "random", len(view.turns)))
        return str(rng.choice(choices))


class NullPolicy(InstantPolicy):
    """Always says the same useless thing; a benchmark where it succeeds is broken."""

    name = "null"

    def command(self, view: View) -> str:
        return "nothing"


class ScriptedPolicy(InstantPolicy):
    """Says the lines it was given, by task or for all; then says nothing."""

    name = "scripted"

    def __init__(self, lines: Sequence[str] | Mapping[str, Sequence[str]] | Callable[[View], str]) -> None:
        """Take one list for every task, a list per task id, or a function of the view."""
        super().__init__()
        self.lines = lines

    def command(self, view: View) -> str:
        if callable(self.lines):
            return self.lines(view)
        lines = self.lines.get(view.task, ()) if isinstance(self.lines, Mapping) else self.lines
        turn = len(view.turns)
        return lines[turn] if turn < len(lines) else "nothing"


class ReplayPolicy(InstantPolicy):
    """Repeats recorded episodes command by command; the task and repeat choose the recording."""

    name = "replay"

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        """Index the recordings by task and repeat."""
        super().__init__()
        self.recorded = {(item.task, item.repeat): item for item in trajectories}

    def command(self, view: View) -> str:
        """Repeat the recorded command; "nothing" after the end of the recording."""
        recording = self.recorded.get((view.task, view.repeat))
        if recording is None:
            raise UsageError(f"the replay file has no episode of task {view.task!r} (repeat {view.repeat})")
        turn = len(view.turns)
        return (recording.turns[turn].env_action or "") if turn < len(recording.turns) else "nothing"
