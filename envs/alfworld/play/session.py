"""Plays an ALFWorld game exactly as the original engine does, thousands of times faster.

`Session` is one running episode of a `Game` (the compiled rules, see `rules`). Leaves out: the sentences (see
`text`), rewards, limits and prompts. Games with other rules: see `reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from . import text
from .pddl import CorruptGame, UnsupportedGame
from .rules import Game
from .state import Action, State

__all__ = [
    "Action",
    "CorruptGame",
    "Game",
    "Result",
    "Session",
    "Snapshot",
    "State",
    "UnsupportedGame",
]


@dataclass(frozen=True, slots=True)
class Result:
    """What a player gets back.

    Attributes:
        observation: the text.
        admissible: the commands that would do something now, sorted as the original sorts them.
        won: the goal holds now; also the original's "done".
        score: 1 when won, else 0.
    """

    observation: str
    admissible: tuple[str, ...]
    won: bool
    score: int


class Snapshot(NamedTuple):
    """A moment of an episode: the state and what the player had just read."""

    state: State
    observation: str


class Session:
    """One episode of a game. Goes on after the goal is reached, as the original engine does."""

    __slots__ = ("_actions", "_admissible", "_observation", "_won", "game", "state")

    def __init__(self, game: Game) -> None:
        self.game = game
        self.reset()

    def reset(self) -> Result:
        self._enter(self.game.start)
        return self._answer(text.introduction(self.game, self.state))

    def step(self, command: str) -> Result:
        """Carry out one command; one that is not admissible, letter by letter, does nothing and says so."""
        action = self._actions.get(command.strip())
        if action is None:
            return self._answer(text.NOTHING_HAPPENS)
        state = self.game.apply(self.state, action)
        if state is not self.state:
            self._enter(state)
        return self._answer(text.feedback(self.game, state, action))

    def snapshot(self) -> Snapshot:
        """Return this moment: immutable, picklable, valid in every session of the same game."""
        return Snapshot(self.state, self._observation)

    def restore(self, moment: Snapshot | State) -> Result:
        """Return to a moment and give what the player read then.

        A bare state (as planners make them) carries no observation: what `look` says there is given.
        """
        if isinstance(moment, State):
            moment = Snapshot(moment, text.look(self.game, moment))
        self._enter(moment.state)
        return self._answer(moment.observation)

    def _enter(self, state: State) -> None:
        self.state = state
        self._actions = self.game.actions(state)
        self._admissible = tuple(sorted(self._actions))
        self._won = self.game.goal.met(state)

    def _answer(self, observation: str) -> Result:
        self._observation = observation
        return Result(observation, self._admissible, self._won, int(self._won))
