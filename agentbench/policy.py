"""Policies turn what an episode shows into the next action. Leaves out the loop that asks them (`rollout`).

`submit` hands over the episodes that wait for an action, `poll` returns decisions as they become ready, so one slow
answer never holds up the others. Policies that know at once derive from `InstantPolicy`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .engines import Completion, Engine, Request
from .env import EnvSpec, Expert, Explorer, Info, TextEnv
from .errors import ContextFull, UsageError
from .parse import Parser
from .render import Renderer
from .types import Action, Failure, SamplingParams, Trajectory, Turn, derive_seed


@dataclass(slots=True)
class View:
    """A running episode as a policy sees it; `env` is for privileged policies (experts) only.

    Attributes:
        key: id of the episode, unique among those running.
        turns: what happened so far.
        observation: the text to answer now.
        info: the env's info at this moment.
    """

    key: str
    spec: EnvSpec
    env: TextEnv
    task: str
    seed: int
    repeat: int
    observation: str
    info: Info
    turns: list[Turn] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next: the action as said, and the command for the env (None: unparseable).

    Attributes:
        invalid: name of the parse failure, "" when the reply was clean.
        end: set when the policy cannot go on: "context_full" or "error" (with `failure`).
    """

    action: Action
    env_action: str | None
    context_ids: Sequence[int] = ()
    fresh: bool = True
    invalid: str = ""
    end: str = ""
    failure: Failure | None = None


class Policy(Protocol):
    """Chooses actions for many episodes at a time."""

    @property
    def info(self) -> dict[str, Any]:
        """Say who acts, for the records; equal info means equal behaviour given the seed."""
        ...

    def submit(self, views: Sequence[View]) -> None:
        """Ask for one decision for each episode."""
        ...

    def poll(self) -> list[tuple[str, Decision]]:
        """Return (episode key, decision) pairs that are ready; waits for at least one if any is pending."""
        ...

    def forget(self, key: str) -> None:
        """Drop what is kept for an episode that has ended."""
        ...


class InstantPolicy:
    """Base of policies that answer at once: implement `decide`."""

    name = "instant"

    def __init__(self) -> None:
        """Start with nothing pending."""
        self._ready: list[tuple[str, Decision]] = []

    @property
    def info(self) -> dict[str, Any]:
        """Say who acts."""
        return {"policy": self.name}

    def decide(self, view: View) -> str:
        """Return the command for this episode."""
        raise NotImplementedError

    def decision(self, view: View) -> Decision:
        """Say the command as it is, without tokens."""
        command = self.decide(view)
        return Decision(Action(command, author=self.name), env_action=command)

    def submit(self, views: Sequence[View]) -> None:
        """Decide for each episode."""
        for view in views:
            try:
                decision = self.decision(view)
            except UsageError:
                raise
            except Exception as error:  # a broken expert ends its own episode, not the run
                failure = Failure(type(error).__name__, str(error), "policy")
                decision = Decision(Action(""), None, end="error", failure=failure)
            self._ready.append((view.key, decision))

    def poll(self) -> list[tuple[str, Decision]]:
        """Return everything decided since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def forget(self, key: str) -> None:
        """Nothing is kept per episode."""


class ExpertPolicy(InstantPolicy):
    """Plays the env's own expert."""

    name = "expert"

    def __init__(self) -> None:
        """Start with no experts; one is made for each episode."""
        super().__init__()
        self._experts: dict[str, Expert] = {}

    def decide(self, view: View) -> str:
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

    def decide(self, view: View) -> str:
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

    def decide(self, view: View) -> str:
        """Draw among the admissible commands."""
        choices = view.info["admissible"] or ["look"]
        rng = random.Random(derive_seed(view.seed, "random", len(view.turns)))
        return str(rng.choice(choices))


class NullPolicy(InstantPolicy):
    """Always says the same useless thing; a benchmark where it succeeds is broken."""

    name = "null"

    def decide(self, view: View) -> str:
        """Say "nothing"."""
        return "nothing"


class ScriptedPolicy(InstantPolicy):
    """Says the lines it was given, by task or for all; then says nothing."""

    name = "scripted"

    def __init__(self, lines: Sequence[str] | Mapping[str, Sequence[str]] | Callable[[View], str]) -> None:
        """Take one list for every task, a list per task id, or a function of the view."""
        super().__init__()
        self.lines = lines

    def decide(self, view: View) -> str:
        """Say the next line."""
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

    def decide(self, view: View) -> str:
        """Repeat the recorded command; "nothing" after the end of the recording."""
        recording = self.recorded.get((view.task, view.repeat))
        if recording is None:
            raise UsageError(f"the replay file has no episode of task {view.task!r} (repeat {view.repeat})")
        turn = len(view.turns)
        return (recording.turns[turn].env_action or "") if turn < len(recording.turns) else "nothing"


class ModelPolicy:
    """A language model: prompt rendered to ids once, sampled ids kept, reply parsed into a command."""

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        parser: Parser,
        sampling: SamplingParams,
        *,
        author: str = "student",
        guided: bool = False,
    ) -> None:
        """Put an engine, a renderer and a parser together.

        Args:
            engine: samples replies.
            renderer: writes prompts as token ids.
            parser: reads commands out of replies.
            sampling: temperature and limits.
            author: stamped on every action.
            guided: sample only among the admissible commands (guided choice); needs an env that lists them.
        """
        self.engine = engine
        self.renderer = renderer
        self.parser = parser
        self.sampling = sampling
        self.author = author
        self.guided = guided
        self._pending: dict[str, tuple[list[int], bool]] = {}
        self._ready: list[tuple[str, Decision]] = []

    @property
    def info(self) -> dict[str, Any]:
        """Say which model acts, how it samples, and with which prompt."""
        sampling = {name: getattr(self.sampling, name) for name in SamplingParams.__slots__}
        return {
            "policy": "model",
            "author": self.author,
            "engine": self.engine.info,
            "prompt": self.renderer.prompt.info,
            "parser": self.parser.name,
            "guided": self.guided,
            "sampling": sampling,
        }

    @property
    def usage(self) -> dict[str, float]:
        """What the engine has used so far; {} where it does not count."""
        return dict(getattr(self.engine, "usage", {}))

    def submit(self, views: Sequence[View]) -> None:
        """Render each episode's prompt and queue it at the engine."""
        requests = []
        for view in views:
            rendered = self.renderer.render(view)
            total = len(rendered.prompt_ids) + self.sampling.max_new_tokens
            if total > self.engine.max_context:
                self._ready.append((view.key, Decision(Action(""), None, end="context_full")))
                continue
            self._pending[view.key] = (rendered.context_ids, rendered.fresh)
            requests.append(
                Request(
                    key=view.key,
                    token_ids=rendered.prompt_ids,
                    sampling=self.sampling,
                    seed=derive_seed(view.seed, "turn", len(view.turns)),
                    slot=view.key,
                    choices=self._choices(view) if self.guided else None,
                )
            )
        if requests:
            self.engine.submit(requests)

    def _choices(self, view: View) -> tuple[tuple[int, ...], ...]:
        if not view.info["admissible"]:
            raise UsageError(
                f"guided choice needs admissible commands, but env {view.spec.id!r} lists none here"
            )
        return tuple(
            self.renderer.reply_ids(self.parser.format(command)) for command in view.info["admissible"]
        )

    def poll(self) -> list[tuple[str, Decision]]:
        """Parse whatever replies are ready."""
        ready, self._ready = self._ready, []
        if ready:
            return ready
        for completion in self.engine.poll():
            context_ids, fresh = self._pending.pop(completion.key)
            ready.append(
                (completion.key, decide_on(completion, self.parser, self.author, context_ids, fresh))
            )
        return ready

    def forget(self, key: str) -> None:
        """Let the engine drop the conversation's cache."""
        self.engine.release(key)


def decide_on(
    completion: Completion,
    parser: Parser,
    author: str,
    context_ids: Sequence[int] = (),
    fresh: bool = True,
) -> Decision:
    """Turn an engine's answer into a decision: read the command, or say why the episode ends here."""
    error = completion.failure
    if isinstance(error, ContextFull):
        return Decision(Action(""), None, end="context_full")
    if error is not None:
        failure = Failure(type(error).__name__, str(error), "engine")
        return Decision(Action(""), None, end="error", failure=failure)
    assert completion.action is not None
    parsed = parser.parse(completion.action.text)
    action = replace(completion.action, author=author)
    return Decision(action, parsed.command, context_ids, fresh, invalid=parsed.failure)
