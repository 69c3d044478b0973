"""Demonstrations: experts and mixed behaviour whose commands carry token ids, as if a model had said them.

Supervised trainers learn from such turns, and from an expert's labels on the states others visit. Leaves out which
turns are trained on (`trainers.sft`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..dialogue.parse import Parser
from ..dialogue.render import Renderer
from ..env import Expert
from ..errors import ConfigError, UsageError
from ..policy import Decision, InstantPolicy, View
from ..types import REPLAY, Action, Trajectory, Turn, derive_seed

BEHAVIOURS = ("random", "half_random", "other_goal", "expert")


class TokenisedPolicy(InstantPolicy):
    """Lets a policy that knows its command at once speak in the tokens of a model."""

    def __init__(
        self, inner: InstantPolicy, renderer: Renderer, parser: Parser, author: str | None = None
    ) -> None:
        """Wrap `inner`; prompts and replies are rendered just as for a model, `author` None keeps inner's name."""
        super().__init__()
        self.author = author
        self.inner = inner
        self.renderer = renderer
        self.parser = parser
        self.name = inner.name

    @property
    def info(self) -> dict[str, Any]:
        return self.inner.info

    def command(self, view: View) -> str:
        return self.inner.command(view)

    def reply(self, view: View) -> Decision:
        """Render the prompt and the clean reply that carries the command."""
        inner = self.inner.reply(view)
        rendered = self.renderer.render(view)
        reply = self.parser.format(inner.action.text, rendered.opened)
        ids = self.renderer.reply_ids(reply, command=inner.action.text)
        action = Action(reply, ids, (0.0,) * len(ids), author=self.author or inner.action.author)
        return Decision(action, inner.env_action, rendered.context_ids, rendered.fresh, shown=rendered.shown)

    def forget(self, key: str) -> None:
        self.inner.forget(key)


class RecordedPolicy(InstantPolicy):
    """Says recorded episodes again: replies in the very tokens on record, prompts as the run writes them.

    A recording without token ids (an expert's) is said in the model's tokens. What the env shows is compared with the
    record turn by turn.
    """

    name = REPLAY

    def __init__(
        self, recordings: Mapping[str, Trajectory], renderer: Renderer, parser: Parser, source: str
    ) -> None:
        """Take one episode for each task; `source` names them in errors."""
        super().__init__()
        self.recordings = recordings
        self.renderer = renderer
        self.parser = parser
        self.source = source

    @property
    def info(self) -> dict[str, Any]:
        return {"policy": self.name, "recordings": self.source}

    def reply(self, view: View) -> Decision:
        """Say the recorded turn.

        Raises: UsageError: the task is not on record, or the env shows something else than it did then.
        """
        turn, rendered = self._turn(view), self.renderer.render(view)
        action = replace(turn.action, author=self.name)
        if not action.token_ids:
            text = self.parser.format(turn.env_action or "", rendered.opened)
            ids = self.renderer.reply_ids(text, command=turn.env_action or "")
            action = Action(text, ids, (0.0,) * len(ids), author=self.name)
        return Decision(
            action, turn.env_action, rendered.context_ids, rendered.fresh, turn.invalid, shown=rendered.shown
        )

    def command(self, view: View) -> str:
        return self._turn(view).env_action or ""

    def _turn(self, view: View) -> Turn:
        recorded, number = self.recordings.get(view.task), len(view.turns)
        if recorded is None or number >= len(recorded.turns):
            had = "no episode" if recorded is None else f"only {len(recorded.turns)} turns"
            raise UsageError(
                f"{self.source!r} has {had} of task {view.task!r}; turn {number} cannot be replayed"
            )
        turn = recorded.turns[number]
        if turn.observation != view.observation:
            raise UsageError(
                f"env {view.spec.id!r} shows another observation at turn {number} of task {view.task!r} than "
                f"{self.source!r} has on record: it was recorded under other rules or options (env.options), or by "
                "another version; record it again (agentbench eval)"
            )
        return turn


class MixturePolicy(InstantPolicy):
    """Mixed behaviour: each episode follows one kind, and any turn may be an impossible command.

    Kinds: "random" (admissible commands), "half_random" (expert or random, even odds on every turn), "other_goal"
    (expert of another goal of the same scene), "expert". All draws follow from the episode's seed.
    """

    name = "mixture"

    def __init__(self, shares: Mapping[str, float], demonstrator: InstantPolicy) -> None:
        """Take the shares.

        Args:
            shares: kind -> weight among episodes; "impossible" -> probability per turn.
            demonstrator: the expert of the kinds "expert" and "half_random".
        Raises: ConfigError: unknown kind, or no kind with a positive share.
        """
        super().__init__()
        for kind, share in shares.items():
            if kind not in (*BEHAVIOURS, "impossible"):
                raise ConfigError(f"unknown behaviour {kind!r}; known: {', '.join(BEHAVIOURS)}, impossible")
            if share < 0:
                raise ConfigError(f"the share of behaviour {kind!r} is {share}; it may not be negative")
        self.kinds = [kind for kind in BEHAVIOURS if shares.get(kind, 0) > 0]
        self.weights = [shares[kind] for kind in self.kinds]
        self.impossible = shares.get("impossible", 0.0)
        if not self.kinds:
            raise ConfigError("mixed behaviour needs a positive share of: " + ", ".join(BEHAVIOURS))
        self.demonstrator = demonstrator
        self._decoys: dict[str, Expert] = {}

    @property
    def info(self) -> dict[str, Any]:
        return {"policy": self.name, "shares": dict(zip(self.kinds, self.weights, strict=True))}

    def reply(self, view: View) -> Decision:
        """Act as this episode's kind does; a turn that the episode's true expert chose is the expert's."""
        kind = random.Random(derive_seed(view.seed, "kind")).choices(self.kinds, self.weights)[0]
        rng = random.Random(derive_seed(view.seed, "mixture", len(view.turns)))
        author = "mixture"
        if rng.random() < self.impossible:
            command = _impossible(view, rng)
        elif kind == "random" or (kind == "half_random" and rng.random() < 0.5):
            command = str(rng.choice(view.info["admissible"] or ["look"]))
        else:
            other = kind == "other_goal"
            command = self._decoy(view).act() if other else self.demonstrator.command(view)
            author = "mixture" if other else "expert"
        return Decision(Action(command, author=author), env_action=command)

    def command(self, view: View) -> str:
        return self.reply(view).action.text

    def _decoy(self, view: View) -> Expert:
        if view.key not in self._decoys:
            if view.spec.decoy is None:
                raise UsageError(f"env {view.spec.id!r} has no expert of other goals; leave out 'other_goal'")
            self._decoys[view.key] = view.spec.decoy(view.env, derive_seed(view.seed, "goal"))
        return self._decoys[view.key]

    def forget(self, key: str) -> None:
        """Drop the experts of an ended episode."""
        self._decoys.pop(key, None)
        self.demonstrator.forget(key)


def _impossible(view: View, rng: random.Random) -> str:
    """Join the verb of one admissible command to the objects of another; usually impossible, never nonsense."""
    commands = view.info["admissible"] or ["look"]
    verb = str(rng.choice(commands)).split(" ")[0]
    objects = str(rng.choice(commands)).split(" ")[1:]
    return " ".join([verb, *objects])
