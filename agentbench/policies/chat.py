"""A model behind an endpoint that takes messages: the same prompts and parsers as `policy.ModelPolicy`, without tokens.

Recorded actions hold text alone. Leaves out how messages travel (`engines.openai`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..dialogue.parse import Parser
from ..dialogue.prompt import Prompt
from ..dialogue.render import Rendered, opening_messages, prompt_slots, shown_of
from ..engine import Checked, Message, TextEngine, TextRequest
from ..errors import UsageError
from ..policy import Decision, Policy, View
from ..types import SamplingParams, derive_seed
from .model import decide_on, drop_requests, poll_engine

NO_REPLY = "(no reply)"
"""Stands for an empty reply in a conversation that goes on; records keep the empty text."""


class ChatPolicy(Policy):
    """A language model that is spoken to in messages."""

    def __init__(
        self,
        engine: TextEngine,
        prompt: Prompt,
        parser: Parser,
        sampling: SamplingParams,
        *,
        history: int,
        max_turns: int,
        author: str = "student",
    ) -> None:
        """Put an engine, a prompt and a parser together.

        Args:
            engine: answers messages.
            prompt: writes them.
            parser: reads commands out of replies.
            sampling: temperature and limits.
            history: observation-action pairs shown in a fresh prompt.
            max_turns: filled into the prompt.
            author: stamped on every action.
        """
        self.engine = engine
        self.prompt = prompt
        self.parser = parser
        self.sampling = sampling
        self.history, self.max_turns, self.author = history, max_turns, author
        self._conversations: dict[str, tuple[Message, ...]] = {}
        self._pending: dict[str, Rendered] = {}
        self._said: dict[str, str] = {}
        if prompt.layout == "continuing":
            raise UsageError(
                f"the prompt {prompt.name!r} goes on inside one reply (layout: continuing), and a chat endpoint takes "
                "whole messages only; give a growing or fresh one (agentbench list prompts), or serve the model with "
                "engine vllm-server"
            )
        if isinstance(engine, Checked):
            engine.check(sampling)

    @property
    def info(self) -> dict[str, Any]:
        """Say which model acts, how it samples, and with which prompt."""
        return {
            "policy": "model",
            "author": self.author,
            "engine": self.engine.info,
            "prompt": self.prompt.info,
            "parser": self.parser.name,
            "guided": False,
            "sampling": self.sampling.info,
        }

    @property
    def usage(self) -> dict[str, float]:
        """What the engine has used so far."""
        return self.engine.usage

    def close(self) -> None:
        self.engine.close()

    def submit(self, views: Sequence[View]) -> None:
        """Write each episode's messages and send them."""
        for view in views:
            self._pending[view.key] = Rendered([], [], fresh=True, shown=shown_of(view.info))
        self.engine.ask(
            [
                TextRequest(
                    key=view.key,
                    messages=self._messages(view),
                    sampling=self.sampling,
                    seed=derive_seed(view.seed, "turn", len(view.turns)),
                )
                for view in views
            ]
        )

    def _messages(self, view: View) -> tuple[Message, ...]:
        slots = prompt_slots(view, history=self.history, max_turns=self.max_turns)
        text = self.prompt.message(slots, first=not view.turns)
        if self.prompt.layout == "growing" and view.turns:
            last = self._said.get(view.key, view.turns[-1].action.text)
            # Strict servers refuse a message without content, though a model may well say nothing.
            said: Message = {"role": "assistant", "content": last if last.strip() else NO_REPLY}
            asked: Message = {"role": "user", "content": text}
            messages = (*self._conversations[view.key], said, asked)
        else:
            messages = tuple(opening_messages(self.prompt, text))
        if self.prompt.layout == "growing":
            self._conversations[view.key] = messages
        return messages

    def poll(self, timeout: float | None = None) -> list[tuple[str, Decision]]:
        """Parse whatever replies are ready; wait for one at most `timeout` seconds."""
        ready = []
        for item in poll_engine(self.engine, timeout):
            rendered = self._pending.pop(item.key, None)
            if rendered is None:
                continue  # of an episode that was given up
            text = item.action.text if item.action is not None else ""
            if item.content is not None:
                self._said[item.key] = item.content
            if "</think>" in text.partition("<think>")[0]:
                rendered = replace(rendered, opened="<think>")  # by the server's chat template
            ready.append((item.key, decide_on(item, self.parser, self.author, rendered)))
        return ready

    def forget(self, key: str) -> None:
        """Drop the conversation of an ended episode, and a request that is still out."""
        if self._pending.pop(key, None) is not None:
            drop_requests(self.engine, [key])
        self._conversations.pop(key, None)
        self._said.pop(key, None)
