"""Players that are bad on purpose: the mixture of behaviour that small models need in their training data.

A teacher that has only seen clean episodes is useless in the states students get into, so training episodes begin
with turns of such players, which are not trained on. One player plays one episode. Leaves out the mixing
proportions, which are the trainer's.
"""

from __future__ import annotations

import random
from typing import Final, Literal, get_args

from agentbench.errors import unknown_name

from .errands import draw_errand, errand_goal
from .expert import DeadEnd, Expert
from .rules import Game
from .state import State

Kind = Literal["expert", "random", "half_expert", "other_goal", "impossible"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_IMPOSSIBLE: Final = (
    "go to {place}", "open {place}", "close {place}", "take {thing} from {place}", "move {thing} to {place}",
    "heat {thing} with {place}", "clean {thing} with {place}", "cool {thing} with {place}", "use {thing}",
    "examine {thing}",
)  # fmt: skip


class NoisyPlayer:
    """Plays one episode of a game badly in one way.

    Args:
        game: the game to play.
        kind: "expert": not badly at all; "random": any admissible command; "half_expert": random every
            other time; "other_goal": an expert of some other errand in the room, and of another when that
            is done; "impossible": commands that are well-formed and do nothing.
        rng: where all chance comes from.
    Raises: UnknownName: no such kind.
    """

    def __init__(self, game: Game, kind: Kind, rng: random.Random) -> None:
        if kind not in KINDS:
            raise unknown_name("kind of noisy player", kind, KINDS)
        self.game, self.kind, self.rng = game, kind, rng
        self._expert: Expert | None = Expert(game) if kind in ("expert", "half_expert") else None

    def act(self, state: State) -> str:
        """Return the next command.

        Where its expert has nothing to say (goal met, or a dead end) the player acts at random.
        """
        if self.kind == "impossible":
            return self._impossible(state)
        if self.kind == "half_expert" and self.rng.random() < 0.5:
            return self._random(state)
        if self.kind == "other_goal":
            return self._errand(state) or self._random(state)
        return self._ask(state) or self._random(state)

    def _ask(self, state: State) -> str | None:
        if self._expert is None:
            return None
        try:
            return self._expert.act(state)
        except DeadEnd:
            return None

    def _errand(self, state: State) -> str | None:
        """Go on with the errand at hand; take up another one when it is done or hopeless."""
        for _ in range(5):
            command = self._ask(state)
            if command is not None:
                return command
            errand = draw_errand(self.game, self.rng)
            if errand is None:
                break
            self._expert = Expert(self.game, errand_goal(self.game, errand))
        return None

    def _random(self, state: State) -> str:
        return self.rng.choice(sorted(self.game.actions(state)))

    def _impossible(self, state: State) -> str:
        admissible = self.game.actions(state)
        while True:
            template = self.rng.choice(_IMPOSSIBLE)
            thing, place = self.rng.choice(self.game.objects), self.rng.choice(self.game.receptacles)
            command = template.format(thing=thing.strip(), place=place)
            if command not in admissible:
                return command
