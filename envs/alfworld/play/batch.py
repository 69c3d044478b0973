"""Plays the games of a TextWorld batch with the native engine, value for value as TextWorld's own batch would.

`NativeBatch` has the calls of TextWorld's batches of games (`load`, `reset`, `step`, `close`). Which set-ups it can
play is said by `Wanted.of`; a single game whose rules the native engine does not know is played by TextWorld in its
place in the batch. Leaves out the order of games, seeds and rendering, which stay TextWorld's (see `bridge`).
"""

from __future__ import annotations

import copy
import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentbench.bridges import say_once

from .pddl import CorruptGame, UnsupportedGame
from .rules import Game
from .session import Session

NEVER_SAID = (
    "description", "inventory", "location", "win_facts", "fail_facts", "last_action", "game", "max_score",
    "objective", "entities", "typed_entities", "verbs", "possible_admissible_commands", "possible_commands",
    "intermediate_reward",
)  # fmt: skip
"""What TextWorld answers with None in every game of this kind, on every step."""

SAID = ("feedback", "last_command", "won", "lost", "admissible_commands", "moves", "score")
"""What the native engine knows."""

Answer = tuple[str, int, bool, dict[str, Any]]
"""Observation, score, whether the game is over, infos."""


@dataclass(frozen=True)
class Wanted:
    """How a batch is set up, as far as it changes what is answered.

    Attributes:
        basics: names of the infos asked for, see `SAID` and `NEVER_SAID`.
        extras: names of the further infos; they come under "extra.<name>".
        limit: steps after which a game is over; None or 0 is without end.
        tells_file: the wrapper is there that puts the game's file into the infos of a reset.
        wrappers: as given, for games that TextWorld has to play.
    """

    basics: tuple[str, ...]
    extras: tuple[str, ...]
    limit: int | None
    tells_file: bool
    wrappers: tuple[Any, ...]
    request_infos: Any

    @classmethod
    def of(
        cls, request_infos: Any, limit: int | None, wrappers: Sequence[Any], *, shares_wrappers: bool
    ) -> Wanted | str:
        """Read a set-up; the reason in words where TextWorld itself has to play it.

        Args:
            request_infos: TextWorld's `EnvInfos`.
            limit: `max_episode_steps`.
            wrappers: classes or instances; compared by the name of the class, since many projects carry a copy.
            shares_wrappers: several games of one process would get the same wrapper instances.
        """
        names = [
            wrapper.__name__ if isinstance(wrapper, type) else type(wrapper).__name__ for wrapper in wrappers
        ]
        unknown = [name for name in names if name not in ("AlfredDemangler", "AlfredInfos")]
        if unknown:
            return f"the wrapper {unknown[0]} is TextWorld's to play"
        if names.count("AlfredDemangler") != 1:
            return "without one AlfredDemangler the objects have other names"
        if any(getattr(wrapper, "shuffle", False) for wrapper in wrappers):
            return "domain_randomization numbers the objects at random"
        if shares_wrappers and not all(isinstance(wrapper, type) for wrapper in wrappers):
            return "several games of one process share a wrapper instance"
        unknown = [name for name in request_infos.basics if name not in (*SAID, *NEVER_SAID)]
        if unknown:
            return f"only TextWorld knows the info {unknown[0]!r}"
        tells_file = "AlfredInfos" in names
        extras, basics = tuple(request_infos.extras), tuple(request_infos.basics)
        return cls(basics, extras, limit, tells_file, tuple(wrappers), request_infos)


class Games:
    """The compiled games of a process, about 0.3 MB each; those not played for longest are forgotten."""

    def __init__(self, kept: int) -> None:
        """Keep at most `kept` games; 0 keeps none."""
        self.kept = kept
        self.quiet = False
        self._games: OrderedDict[tuple[str, int, int], Game] = OrderedDict()

    def load(self, path: str) -> Game:
        """Compile a game, or return it as compiled before; a file that has changed is compiled again.

        Raises: FileNotFoundError: as TextWorld does. CorruptGame, UnsupportedGame: see `Game.load`.
        """
        stamp = os.stat(path)
        key = (path, stamp.st_mtime_ns, stamp.st_size)
        game = self._games.pop(key, None)
        if game is None:
            game = Game.load(path)
        self._games[key] = game
        while len(self._games) > self.kept:
            self._games.popitem(last=False)
        return game


class Player(Protocol):
    """Plays one game of a batch."""

    def reset(self) -> tuple[str, dict[str, Any]]:
        """Start over: observation and infos."""
        ...

    def step(self, command: str) -> Answer:
        """Carry out a command."""
        ...


class NativePlayer:
    """Plays one game natively."""

    def __init__(self, wanted: Wanted, path: str, game: Game) -> None:
        """Load a game, not yet started."""
        self.wanted = wanted
        self.path = path
        self.session = Session(game)
        self._walkthrough = list(game.walkthrough)
        self._steps = self._moves = 0

    def reset(self) -> tuple[str, dict[str, Any]]:
        """Start over. No score is given before the first step, as in TextWorld."""
        self._steps = self._moves = 0
        self._result = self.session.reset()
        return self._result.observation, self._infos(
            None, None, self.path if self.wanted.tells_file else None
        )

    def step(self, command: str) -> Answer:
        """Carry out a command; the limit and the goal end the game."""
        command = command.strip()
        self._moves += command in self._result.admissible
        self._result = self.session.step(command)
        self._steps += 1
        result, limit = self._result, self.wanted.limit
        done = result.won or bool(limit and self._steps >= limit)
        return result.observation, result.score, done, self._infos(command, result.score, None)

    def _infos(self, command: str | None, score: int | None, path: str | None) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for name in self.wanted.basics:
            if name == "admissible_commands":
                infos[name] = list(self._result.admissible)
            elif name == "won":
                infos[name] = self._result.won
            elif name == "feedback":
                infos[name] = self._result.observation
            elif name == "lost":
                infos[name] = False
            elif name == "moves":
                infos[name] = self._moves
            else:
                infos[name] = {"last_command": command, "score": score}.get(name)
        for name in self.wanted.extras:
            known = {"gamefile": path, "walkthrough": self._walkthrough}
            infos[f"extra.{name}"] = known.get(name)
        return infos


class OriginalPlayer:
    """Plays one game with TextWorld, put together as TextWorld puts its batches together."""

    def __init__(self, wanted: Wanted, path: str) -> None:
        """Load a game, not yet started."""
        from textworld.envs.wrappers import Filter, GenericEnvironment, Limit

        env = GenericEnvironment(wanted.request_infos)
        if wanted.limit:
            env = Limit(env, max_episode_steps=wanted.limit)
        for wrapper in (*wanted.wrappers, Filter):
            # a copy of an instance, as each process of the original's own batch would have
            env = (wrapper if isinstance(wrapper, type) else copy.copy(wrapper))(env)
        self._env = env
        arguments = sys.argv
        try:
            env.load(path)
        finally:
            sys.argv = arguments  # the PDDL translator behind TextWorld overwrites it

    def reset(self) -> tuple[str, dict[str, Any]]:
        """Start over."""
        arguments = sys.argv
        try:
            observation, infos = self._env.reset()
        finally:
            sys.argv = arguments
        return observation, infos

    def step(self, command: str) -> Answer:
        """Carry out a command."""
        observation, score, done, infos = self._env.step(command)
        return observation, score, done, infos


class NativeBatch:
    """Several games at once, in step; a finished game repeats its last answer."""

    def __init__(self, wanted: Wanted, size: int, games: Games, *, strict: bool) -> None:
        """Make room for `size` games.

        Args:
            wanted: what is answered.
            size: number of games.
            games: compiled games, shared by the process.
            strict: refuse a number of commands that is not `size`, as TextWorld does where it uses processes.
        """
        self.wanted = wanted
        self.batch_size = size
        self.games = games
        self.strict = strict
        self.players: list[Player] = []
        self.last: list[Answer | None] = []

    def load(self, files: Sequence[str]) -> None:
        """Load the next games, one for each place."""
        assert len(files) == self.batch_size
        self.players = [self._player(path) for path in files]

    def _player(self, path: str) -> Player:
        try:
            game = self.games.load(path)
        except (UnsupportedGame, CorruptGame) as refusal:
            self._say("game", f"TextWorld plays what the native engine does not know; the first is {refusal}")
            return OriginalPlayer(self.wanted, path)
        if "walkthrough" in self.wanted.extras and not game.walkthrough:
            self._say("walkthrough", f"TextWorld plays {path}, which holds no walkthrough and needs a plan")
            return OriginalPlayer(self.wanted, path)
        return NativePlayer(self.wanted, path, game)

    def _say(self, about: str, message: str) -> None:
        if not self.games.quiet:
            say_once(about, message)

    def reset(self) -> tuple[tuple[str, ...], dict[str, list[Any]]]:
        """Start all games: observations, and for each info the values of all games."""
        self.last = [None] * self.batch_size
        started = [player.reset() for player in self.players]
        return tuple(text for text, _ in started), _columns([infos for _, infos in started])

    def step(
        self, commands: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[int, ...], tuple[bool, ...], dict[str, list[Any]]]:
        """Carry out a command in each game that is not over: observations, scores, ends, infos."""
        if self.strict:
            assert isinstance(commands, list | tuple), "Expected a list of actions."
            assert len(commands) == len(self.players), "Expected one action per environment."
        answers: list[Answer] = []
        for place, (player, command) in enumerate(zip(self.players, commands, strict=False)):
            last = self.last[place]
            answers.append(last if last is not None and last[2] else player.step(command))
        self.last = list(answers)
        texts, scores, dones, infos = zip(*answers, strict=True)
        return texts, scores, dones, _columns(infos)

    def close(self) -> None:
        """Nothing is held; the games go on being remembered for the next reset."""


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn a dict per game into a list per info."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
