"""Plays a game with the original engine: TextWorld through the wrapper that ALFWorld's own env uses.

Slow (half a second a reset, 50 ms a step) and exact by definition; the native engine is checked against it, and
it plays games whose rules the native engine does not know. Needs the extra `[alfworld]`. Leaves out: ALFWorld's
batching and expert, and its freeze of games that are done (the engine itself plays on, and so does this).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from agentbench.errors import MissingData, missing_dependency

from .pddl import CorruptGame, read_game, rules_hashes, text_field
from .session import Result


class Replay(NamedTuple):
    """A moment of an episode: the commands that lead to it, and what the player had just read."""

    commands: tuple[str, ...]
    observation: str


class ReferenceSession:
    """One episode of a game file in TextWorld; the same calls as `engine.Session`.

    Raises:
        MissingDependency: textworld or alfworld is not installed.
        MissingData: there is no such file.
        CorruptGame: TextWorld cannot read the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        data = read_game(path)
        self.task = rules_hashes(*(text_field(data, key, self.path) for key in ("pddl_domain", "grammar")))[2]
        self.walkthrough: tuple[str, ...] = tuple(data.get("walkthrough") or ())
        self._env = start(self.path)
        self._commands: list[str] = []
        self._result: Result | None = (
            None  # a reset costs as much as a load, so none is done before it is asked for
        )

    def reset(self) -> Result:
        self._commands = []
        with _ArgumentsKept():
            state = self._env.reset()
        return self._answer(state)

    def step(self, command: str) -> Result:
        """Carry out one command, in a new episode if none was started."""
        if self._result is None:
            self.reset()
        self._commands.append(command)
        state, _, _ = self._env.step(command)
        return self._answer(state)

    def snapshot(self) -> Replay:
        """Return this moment as the commands so far; the original engine has no saved states."""
        result = self.reset() if self._result is None else self._result
        return Replay(tuple(self._commands), result.observation)

    def restore(self, moment: Replay) -> Result:
        """Play the commands of `moment` again from the start, which takes as long as it took."""
        result = self.reset()
        for command in moment.commands:
            result = self.step(command)
        return result

    def close(self) -> None:
        """End the episode; the planner library stays loaded until the process ends, some 2.5 MB a game."""
        self._env.close()
        self._result = None

    def _answer(self, state: Any) -> Result:
        won = bool(state.won)
        # the original gives no score before the first step
        self._result = Result(state.feedback, tuple(state.admissible_commands), won, int(state.score or 0))
        return self._result


def start(path: str) -> Any:
    """Load a game into the original engine, named as ALFWorld names things. Raises as `ReferenceSession`."""
    try:
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    except ImportError as error:
        package = "alfworld" if "alfworld" in str(error) else "textworld"
        raise missing_dependency(package, "alfworld", 'engine="textworld"') from error
    if not Path(path).is_file():
        raise MissingData(f"no game file {path}; run: agentbench data fetch alfworld")
    wanted = textworld.EnvInfos(won=True, admissible_commands=True)
    with _ArgumentsKept():
        try:
            return textworld.start(path, wanted, wrappers=[AlfredDemangler()])
        except (KeyError, ValueError, AssertionError, SystemExit) as error:
            raise CorruptGame(path, f"TextWorld says {type(error).__name__}: {error}") from error


class _ArgumentsKept:
    """Guards `sys.argv`, which the PDDL translator behind TextWorld overwrites at every load and reset."""

    def __enter__(self) -> None:
        self._kept = sys.argv

    def __exit__(self, *_: object) -> None:
        sys.argv = self._kept
