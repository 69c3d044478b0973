"""Writes prompts as token ids.

What was sampled is never re-tokenised: in a growing conversation only the new message is encoded, and whether a
prompt extends the tokens on record is decided by comparing ids.

Leaves out what the text says (`prompt`) and who samples (`engines`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..env import INFO_KEYS, Info
from ..types import Trajectory, Turn
from .prompt import Prompt
from .template import ChatTemplate

if TYPE_CHECKING:
    from ..policy import View

Where = Literal["before", "after"]
"""Where a private text stands, seen from the student's own message."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a prompt is written from: the part of a `policy.View` that is on record."""

    observation: str
    info: Info
    turns: list[Turn]


def scene_of(trajectory: Trajectory, index: int) -> Scene:
    """The scene in which a turn on record was spoken; its `info` holds what `Turn.shown` kept, and the task."""
    turn = trajectory.turns[index]
    info = {**turn.shown, "task": trajectory.task, "task_type": trajectory.task_type}
    return Scene(turn.observation, info, list(trajectory.turns[:index]))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt: all its ids, those that are new since the last reply, and whether it restarts the record.

    Attributes:
        shown: what it was written from, for `Turn.shown`.
        opened: what it already says of the reply's thought, see `ChatTemplate.opened`.
    """

    prompt_ids: list[int]
    context_ids: list[int]
    fresh: bool
    shown: dict[str, Any] = field(default_factory=dict)
    opened: str = ""


def shown_of(info: Info) -> dict[str, Any]:
    """What a prompt may read of an env's info: the commands on offer and the env's own values; for `Turn.shown`."""
    own = {name: value for name, value in info.items() if name not in INFO_KEYS}
    return {"admissible": list(info.get("admissible", [])), **own}


def prompt_slots(view: View | Scene, *, history: int, max_turns: int) -> dict[str, Any]:
    """What a prompt may say of an episode; `history` is the number of observation-action pairs."""
    steps = len(view.turns)
    window = view.turns[max(0, steps - history) :] if history else []
    return {
        "observation": view.observation,
        "admissible": view.info.get("admissible", []),
        "history": [(turn.observation, turn.env_action or "") for turn in window],
        "turn": steps + 1,
        "steps": steps,
        "max_turns": max_turns,
        "info": view.info,
    }


def opening_messages(prompt: Prompt, text: str) -> list[dict[str, str]]:
    """Messages that open a conversation: the system's, if there is one, and the user's first."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": text}]


class Renderer:
    """Renders the turns of one policy with its tokenizer's chat template.

    What an environment or a model said is encoded as text even where it spells a control token; only the chat template
    and the prompt file steer.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Prompt,
        *,
        history: int,
        max_turns: int,
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind tokenizer and prompt, and try the chat template with the messages to come.

        Args:
            tokenizer: Hugging Face tokenizer with a chat template.
            prompt: the templates.
            history: observation-action pairs shown in a fresh prompt.
            max_turns: filled into the prompt.
            template_options: keyword arguments of the chat template; thinking is off unless told otherwise, and `today`
                is the date it writes, see `template.TODAY`.
        Raises: UsageError: the template is missing, or cannot write this prompt's conversations.
        """
        self.template = ChatTemplate(tokenizer, template_options)
        self.template.check(system=bool(prompt.system), growing=prompt.layout == "growing")
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.history = history
        self.max_turns = max_turns

    def render(self, view: View | Scene, private: str = "", *, where: Where = "after") -> Rendered:
        """Write the prompt for the next turn of an episode.

        Args:
            view: the episode as it stands.
            private: what a teacher alone reads; it joins the message of this turn and is text whatever it spells.
            where: on which side of the message.
        """
        slots = prompt_slots(view, history=self.history, max_turns=self.max_turns)
        text = self.prompt.message(self.template.control.hide(slots), first=not view.turns)
        if private:
            added = self.template.control.hide(private)
            text = f"{text}\n\n{added}" if where == "after" else f"{added}\n\n{text}"
        record, shown = _ids_on_record(view.turns), shown_of(view.info)
        if self.prompt.layout == "continuing" and view.turns:
            context = self._encode(text)
            return Rendered(record + context, context, fresh=False, shown=shown)
        if self.prompt.layout == "growing" and view.turns:
            context = self._closing_ids(view.turns[-1]) + self._next_message_ids(text)
            return Rendered(record + context, context, fresh=False, shown=shown, opened=self.opened)
        prompt_ids = self._encode(self.template.text(opening_messages(self.prompt, text)))
        fresh = not record or prompt_ids[: len(record)] != record
        context = prompt_ids if fresh else prompt_ids[len(record) :]
        return Rendered(prompt_ids, context, fresh=fresh, shown=shown, opened=self.opened)

    def reply_ids(self, text: str, *, command: str = "") -> tuple[int, ...]:
        """Encode a whole reply with its end-of-turn token, as a model would have to sample it.

        A reply that goes on after the observation has none where it ends in a stop string.

        Args:
            text: the reply.
            command: the part of it that came from an environment, which is text whatever it spells.
        """
        hidden = self.template.control.hide(command)
        ids = self._encode(text.replace(command, hidden) if hidden != command else text)
        goes_on = self.prompt.layout == "continuing" and text.endswith(self.prompt.stop)
        return tuple(ids) if goes_on else (*ids, self.end_id)

    @property
    def end_id(self) -> int:
        """The token that ends a reply in this chat template."""
        return self.template.border.end

    @property
    def opened(self) -> str:
        """What every prompt already says of the thought, such as `<think>` and a line break; "" mostly."""
        return self.template.opened

    def _encode(self, text: str) -> list[int]:
        return self.template.control.encode(text)

    def _closing_ids(self, last: Turn) -> list[int]:
        """Ids that close the last reply, unless the model closed it itself."""
        ended = bool(last.action.token_ids) and last.action.token_ids[-1] == self.end_id
        return [] if ended else [self.end_id]

    def _next_message_ids(self, text: str) -> list[int]:
        """Encode the next user message, without the end token that `_closing_ids` takes care of."""
        border = self.template.border
        after = border.head + text + border.tail
        if not border.closing:
            return self._encode(after)
        # Together with the token before it: a tokenizer may treat the text that follows one in a way of its own.
        ids = self._encode(border.closing + after)
        return ids[1:] if ids[:1] == [border.end] else self._encode(after)


def _ids_on_record(turns: Sequence[Turn]) -> list[int]:
    """All ids since the last fresh prompt."""
    ids: list[int] = []
    for turn in turns:
        if turn.fresh:
            ids = []
        ids.extend(turn.context_ids)
        ids.extend(turn.action.token_ids)
    return ids
