"""Writes prompts as token ids.

What was sampled is never re-tokenised: in a growing conversation only the new message is encoded, and whether a
prompt extends the tokens on record is decided by comparing ids.

Leaves out what the text says (`prompt`) and who samples (`engines`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..env import INFO_KEYS, Info
from ..errors import UsageError
from ..types import Turn
from .prompt import Prompt

if TYPE_CHECKING:
    from ..policy import View

_REPLY = "{reply goes here}"
_MESSAGE = "{message goes here}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt: all its ids, those that are new since the last reply, and whether it restarts the record.

    Attributes:
        shown: what it was written from, for `Turn.shown`.
    """

    prompt_ids: list[int]
    context_ids: list[int]
    fresh: bool
    shown: dict[str, Any] = field(default_factory=dict)


def shown_of(info: Info) -> dict[str, Any]:
    """What a prompt may read of an env's info: the commands on offer and the env's own values; for `Turn.shown`."""
    own = {name: value for name, value in info.items() if name not in INFO_KEYS}
    return {"admissible": list(info.get("admissible", [])), **own}


def prompt_slots(view: View, *, history: int, max_turns: int) -> dict[str, Any]:
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
    """Renders the turns of one policy with its tokenizer's chat template."""

    def __init__(
        self,
        tokenizer: Any,
        prompt: Prompt,
        *,
        history: int,
        max_turns: int,
        template_options: dict[str, Any] | None = None,
    ) -> None:
        """Bind tokenizer and prompt.

        Args:
            tokenizer: Hugging Face tokenizer with a chat template.
            prompt: the templates.
            history: observation-action pairs shown in a fresh prompt.
            max_turns: filled into the prompt.
            template_options: keyword arguments of the chat template; thinking is off unless told otherwise.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                f"the tokenizer {getattr(tokenizer, 'name_or_path', '?')!r} has no chat template; "
                "use an instruct model, or save the tokenizer with one (tokenizer.chat_template = ...)"
            )
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.history = history
        self.max_turns = max_turns
        self.template_options = {"enable_thinking": False, **(template_options or {})}

    def render(self, view: View) -> Rendered:
        """Write the prompt for the next turn of an episode."""
        text = self.prompt.message(
            prompt_slots(view, history=self.history, max_turns=self.max_turns), first=not view.turns
        )
        record, shown = _ids_on_record(view.turns), shown_of(view.info)
        if self.prompt.layout == "growing" and view.turns:
            context = self._closing_ids(view.turns[-1]) + self._next_message_ids(text)
            return Rendered(record + context, context, fresh=False, shown=shown)
        prompt_ids = self._encode(self._template(opening_messages(self.prompt, text)))
        if record and prompt_ids[: len(record)] == record:
            return Rendered(prompt_ids, prompt_ids[len(record) :], fresh=False, shown=shown)
        return Rendered(prompt_ids, prompt_ids, fresh=True, shown=shown)

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """Encode a whole reply with its end-of-turn token, as a model would have to sample it."""
        return (*self._encode(text), self.end_id)

    @cached_property
    def end_id(self) -> int:
        """The token that ends a reply in this chat template."""
        return self._encode(self._after_reply[0])[0]

    def _template(self, messages: list[dict[str, str]]) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self.template_options
        )
        return str(rendered)

    def _encode(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]

    @cached_property
    def _after_reply(self) -> tuple[str, str]:
        """Template text between a reply and the next user message, and from there to the next reply."""
        said = {"role": "assistant", "content": _REPLY}
        asked = {"role": "user", "content": _MESSAGE}
        after = self._template([*opening_messages(self.prompt, "x"), said, asked]).partition(_REPLY)[2]
        head, found, tail = after.partition(_MESSAGE)
        if not found:
            raise UsageError(
                "this tokenizer's chat template rewrites messages, so a growing conversation cannot be kept "
                "token by token; use a prompt with 'layout: fresh'"
            )
        return head, tail

    def _closing_ids(self, last: Turn) -> list[int]:
        """Ids that close the last reply, unless the model closed it itself."""
        ended = bool(last.action.token_ids) and last.action.token_ids[-1] == self.end_id
        return [] if ended else [self.end_id]

    def _next_message_ids(self, text: str) -> list[int]:
        """Encode the next user message, without the end token that `_closing_ids` takes care of."""
        head, tail = self._after_reply
        return self._encode(head + text + tail)[1:]


def _ids_on_record(turns: Sequence[Turn]) -> list[int]:
    """All ids since the last fresh prompt."""
    ids: list[int] = []
    for turn in turns:
        if turn.fresh:
            ids = []
        ids.extend(turn.context_ids)
        ids.extend(turn.action.token_ids)
    return ids
