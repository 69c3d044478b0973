"""A language model as a policy: prompt ids in, sampled ids kept, reply parsed. Leaves out text engines (`chat`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..dialogue.parse import Parser
from ..dialogue.render import Rendered, Renderer
from ..engine import Completion, Engine, Request, TextEngine
from ..errors import ContextFull, UsageError
from ..policy import Decision, Policy, View
from ..types import Action, Failure, Guided, SamplingParams, derive_seed

_TEMPLATE = re.compile(r"[\[(]\s*<[^<>]*>\s*[\])]")
"""A place for free words in a listed command, such as `search[<your query>]`."""


class ModelPolicy(Policy):
    """A language model: prompt rendered to ids once, sampled ids kept, reply parsed into a command."""

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        parser: Parser,
        sampling: SamplingParams,
        *,
        author: str = "student",
        guided: Guided = False,
        model: str | None = None,
    ) -> None:
        """Put an engine, a renderer and a parser together.

        Args:
            engine: samples replies.
            renderer: writes prompts as token ids.
            parser: reads commands out of replies.
            sampling: temperature and limits.
            author: stamped on every action.
            guided: sample only among the admissible commands (guided choice), token by token or "whole"; needs an env
                that lists them.
            model: name of the weights that play, where the engine was opened with others (in training).

        Raises: UsageError: the engine cannot weigh whole commands.
        """
        if guided == "whole" and not getattr(engine, "weighs_choices", False):
            raise UsageError(
                f"guided: whole is more than engine {engine.info.get('name')!r} can do; use engine: hf, "
                "or guided: true"
            )
        self.engine = engine
        self.renderer = renderer
        self.parser = parser
        self.sampling = sampling
        self.author = author
        self.guided = guided
        self.model = model
        self._pending: dict[str, Rendered] = {}
        self._ready: list[tuple[str, Decision]] = []

    @property
    def info(self) -> dict[str, Any]:
        """Say which model acts, how it samples, and with which prompt."""
        return {
            "policy": "model",
            "author": self.author,
            "engine": {**self.engine.info, **({"model": self.model} if self.model is not None else {})},
            "prompt": self.renderer.prompt.info,
            "template": self.renderer.template.info,
            "parser": self.parser.name,
            "guided": self.guided,
            "sampling": self.sampling.info,
        }

    @property
    def usage(self) -> dict[str, float]:
        """What the engine has used so far."""
        return self.engine.usage

    def close(self) -> None:
        self.engine.close()

    def submit(self, views: Sequence[View]) -> None:
        """Render each episode's prompt and queue it at the engine."""
        requests = []
        for view in views:
            rendered = self.renderer.render(view)
            choices = self._choices(view, rendered.opened) if self.guided else None
            sampling = self.sampling
            if choices:  # a command that is on the list may be said to its end
                longest = max(map(len, choices))
                sampling = replace(sampling, max_new_tokens=max(sampling.max_new_tokens, longest))
            total = len(rendered.prompt_ids) + sampling.max_new_tokens
            if total > self.engine.max_context:
                self._ready.append((view.key, no_room(self._does_not_fit(len(rendered.prompt_ids)))))
                continue
            self._pending[view.key] = rendered
            requests.append(
                Request(
                    key=view.key,
                    token_ids=rendered.prompt_ids,
                    sampling=sampling,
                    seed=derive_seed(view.seed, "turn", len(view.turns)),
                    slot=view.key,
                    choices=choices,
                    whole=self.guided == "whole",
                    end_ids=(self.renderer.end_id,),
                )
            )
        if requests:
            self.engine.submit(requests)

    def _does_not_fit(self, prompt: int) -> str:
        return (
            f"the prompt of {prompt} tokens + max_new_tokens {self.sampling.max_new_tokens} exceeds the context of "
            f"{self.engine.max_context}; lower max_new_tokens, or shorten the prompt (history)"
        )

    def _choices(self, view: View, opened: str) -> tuple[tuple[int, ...], ...]:
        if not view.info["admissible"]:
            raise UsageError(
                f"guided choice needs admissible commands, but env {view.spec.id!r} lists none here"
            )
        for command in view.info["admissible"]:
            if _TEMPLATE.search(command):
                raise UsageError(
                    f"guided choice would say {command!r} as it stands: env {view.spec.id!r} lists it for free words. "
                    "Play without guided choice (--guided, rollout.guided)"
                )
        return tuple(
            self.renderer.reply_ids(self.parser.format(command, opened), command=command)
            for command in view.info["admissible"]
        )

    def poll(self, timeout: float | None = None) -> list[tuple[str, Decision]]:
        """Parse whatever replies are ready; wait for one at most `timeout` seconds, where the engine can."""
        ready, self._ready = self._ready, []
        if ready:
            return ready
        for completion in poll_engine(self.engine, timeout):
            rendered = self._pending.pop(completion.key, None)
            if rendered is not None:  # else of an episode that was given up
                ready.append((completion.key, decide_on(completion, self.parser, self.author, rendered)))
        return ready

    def forget(self, key: str) -> None:
        """Let the engine drop the conversation's cache, and a request that is still out."""
        if self._pending.pop(key, None) is not None:
            drop_requests(self.engine, [key])
        self._ready = [item for item in self._ready if item[0] != key]
        self.engine.release(key)


def no_room(message: str) -> Decision:
    """The conversation no longer fits the context; `message` says by how much."""
    return Decision(
        Action(""), None, end="context_full", failure=Failure(ContextFull.__name__, message, "engine")
    )


def poll_engine(engine: Engine | TextEngine, timeout: float | None) -> list[Completion]:
    """Wait for answers, at most `timeout` seconds where the engine can wait for a time."""
    if timeout is None or "timeout" not in inspect.signature(engine.poll).parameters:
        return engine.poll()
    return engine.poll(timeout=timeout)  # type: ignore[call-arg]


def drop_requests(engine: Engine | TextEngine, keys: Sequence[str]) -> None:
    """Stop requests that nobody waits for any more, where the engine can."""
    drop = getattr(engine, "drop", None)
    if drop is not None:
        drop(keys)


def decide_on(
    completion: Completion,
    parser: Parser,
    author: str,
    rendered: Rendered,
) -> Decision:
    """Turn an engine's answer to a prompt into a decision: read the command, or say why the episode ends here."""
    error = completion.failure
    if isinstance(error, ContextFull):
        return no_room(str(error))
    if error is not None:
        failure = Failure(type(error).__name__, str(error), "engine")
        return Decision(Action(""), None, end="error", failure=failure)
    assert completion.action is not None
    action = replace(completion.action, author=author)
    parsed = parser.parse(action.text, rendered.opened, action.finish)
    return Decision(
        action,
        parsed.command,
        rendered.context_ids,
        rendered.fresh,
        invalid=parsed.failure,
        shown=rendered.shown,
    )
