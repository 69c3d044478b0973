"""An expert that knows everything: shortest commands to win from any state, and how many there are.

It plays official and generated games alike, for the game's own goal or for another errand in the same room. Leaves
out the search (`planner`) and other goals (`errands`).

An object may be in hand that no receptacle accepts: official games let one take paper towel rolls and teddy bears, but
never put them down again. The game is then lost for good, and the expert says so with `DeadEnd`.
"""

from __future__ import annotations

from agentbench.errors import AgentBenchError

from ..play.goal import Goal
from ..play.rules import Game
from ..play.state import Action, State
from .planner import Planner


class DeadEnd(AgentBenchError):
    """The goal cannot be reached any more from this state."""


class Expert:
    """Plays one game by shortest plans; cheap to ask in any state, in any order.

    Args:
        game: the game to play.
        goal: what to aim for; None: the game's own goal. See `errands.errand_goal`.
    Raises: UsageError: the goal asks for something that no official task does.
    """

    def __init__(self, game: Game, goal: Goal | None = None) -> None:
        self.game = game
        self._planner = Planner(game, goal)
        self._next: tuple[State, list[Action]] | None = None  # where the last plan leads, and its rest

    def act(self, state: State) -> str | None:
        """Return the first command of a shortest plan; None when the goal is met.

        Raises: DeadEnd: no plan is left.
        """
        if self._next is not None and self._next[0] == state:
            actions = self._next[1]
        else:
            actions = self._actions(state)
        if not actions:
            return None
        self._next = self.game.apply(state, actions[0]), actions[1:]
        return command_of(self.game, actions[0])

    def plan(self, state: State) -> list[str]:
        """Return all commands of a shortest plan; raises as `act` does."""
        return [command_of(self.game, action) for action in self._actions(state)]

    def solvable(self, state: State) -> bool:
        """Tell whether the goal can still be reached."""
        return self._planner.plan(state) is not None

    def _actions(self, state: State) -> list[Action]:
        actions = self._planner.plan(state)
        if actions is None:
            held = self.game.objects[state.holding] if state.holding >= 0 else "nothing"
            raise DeadEnd(f"{self.game.name}: {self.game.task!r} cannot be reached any more; holding {held}")
        return actions


def optimal_length(game: Game, state: State | None = None) -> int:
    """Return the least number of commands that win, from `state` or from the start.

    Raises: DeadEnd: the game cannot be won any more.
    """
    return len(Expert(game).plan(game.start if state is None else state))


def command_of(game: Game, action: Action) -> str:
    """Word an action as the game expects it."""
    verb, thing, place = action
    receptacle = game.receptacles[place] if place >= 0 else ""
    match verb:
        case "go":
            return f"go to {receptacle}"
        case "open" | "close":
            return f"{verb} {receptacle}"
        case "take":
            return f"take {game.objects[thing]} from {receptacle}"
        case "move":
            return f"move {game.objects[thing]} to {receptacle}"
        case "use":
            return f"use {game.objects[thing]}"
        case "clean" | "heat" | "cool":
            return f"{verb} {game.objects[thing]} with {receptacle}"
    raise ValueError(f"no command is made from {action}")
