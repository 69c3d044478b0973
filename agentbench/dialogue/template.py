"""What a chat template does with a conversation: how a reply ends, what a prompt already opens, what it refuses.

It is asked with sample messages when a policy is built, so that a model which cannot be spoken to is named before the
first prompt. Leaves out what prompts say (`prompt`) and the ids on record (`render`).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2

from ..errors import ConfigError, UsageError
from .control import ControlTokens
from .parse import thought_tags

TODAY = "2024-07-26"
"""The day that templates with a calendar are told, unless `template_options.today` names another: prompts must not
change overnight. It is the one that Llama's own templates fall back on."""

_SYSTEM = "{system text 27182}"
_REPLY = "{reply 14142 goes here}"
_MESSAGE = "{message 31415 goes here}"
_FIRST = "{first message 16180}"
_DIGITS = {_SYSTEM: "27182", _MESSAGE: "31415"}  # a template may rewrite letters, but may it drop the text?


@dataclass(frozen=True, slots=True)
class Border:
    """Template text around the next user message of a conversation.

    Attributes:
        end: id of the token that ends a reply.
        closing: its text where the template writes it after a reply, else "" (the tokenizer's own end token is used).
        head: from the end of a reply, end token left out, to the next user message.
        tail: from there to the next reply.
    """

    end: int
    closing: str
    head: str
    tail: str


class ChatTemplate:
    """A tokenizer's chat template with fixed options and a fixed calendar.

    Attributes:
        options: as given to the template, thinking off unless told otherwise.
        today: the day it is told, ISO.
        control: its control tokens.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] | None = None) -> None:
        """Bind the options.

        Args:
            tokenizer: Hugging Face tokenizer with a chat template.
            options: keyword arguments of the template; `today` (a date) sets its calendar instead.
        Raises: UsageError: no chat template. ConfigError: `today` is no date.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                f"the tokenizer {getattr(tokenizer, 'name_or_path', '?')!r} has no chat template; "
                "use an instruct model, or save the tokenizer with one (tokenizer.chat_template = ...)"
            )
        self._tokenizer = tokenizer
        named = getattr(tokenizer, "get_chat_template", None)  # a tokenizer may have several, by name
        self._source = str(named() if named else tokenizer.chat_template)
        self.options = {"enable_thinking": False, **(options or {})}
        self.today = str(self.options.pop("today", TODAY))
        try:
            day = datetime.datetime.fromisoformat(self.today)
        except ValueError as error:
            raise ConfigError(
                f"template_options.today = {self.today!r} is no date; write it as {TODAY}"
            ) from error
        self._fixed = {"chat_template": _calendar(day) + self._source} if self.tells_the_date else {}

    @property
    def tells_the_date(self) -> bool:
        """Whether the template writes today's date."""
        return "strftime_now" in self._source

    @property
    def info(self) -> dict[str, Any]:
        """Options, and the date where one is written, for the records."""
        return {**self.options, **({"today": self.today} if self.tells_the_date else {})}

    @cached_property
    def control(self) -> ControlTokens:
        """The tokens that this template and tokenizer steer conversations with."""
        try:
            sample = self.text([_said("user", _MESSAGE), _said("assistant", _REPLY), _said("user", _MESSAGE)])
        except UsageError:
            sample = ""
        return ControlTokens(self._tokenizer, self._source + sample)

    def text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write messages, up to where the next reply begins.

        Raises: UsageError: the template refuses them.
        """
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                **self._fixed,
                **self.options,
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UsageError(
                f"the chat template of {self._name} refuses a conversation: {_line(error)}"
            ) from error
        return str(rendered)

    @property
    def _name(self) -> str:
        return repr(getattr(self._tokenizer, "name_or_path", "?"))

    def check(self, *, system: bool, growing: bool) -> None:
        """Try what a prompt will ask of the template.

        Args:
            system: there will be a system message.
            growing: one conversation is kept token by token.
        Raises: UsageError: it refuses, drops or rewrites messages; says what to do instead.
        """
        written = self.text([_said("user", _MESSAGE)])
        if system:
            try:
                written = self.text([_said("system", _SYSTEM), _said("user", _MESSAGE)])
            except UsageError as error:
                raise UsageError(f"{error}; {_NO_SYSTEM}") from error
        for marker in (_SYSTEM, _MESSAGE) if system else (_MESSAGE,):
            if _DIGITS[marker] not in written:
                kind = "system" if marker == _SYSTEM else "user"
                hint = _NO_SYSTEM if marker == _SYSTEM else "use another tokenizer or template"
                raise UsageError(f"the chat template of {self._name} leaves {kind} messages out; {hint}")
        if growing and (self._around_message is None or self._rewrites(system)):
            raise UsageError(
                f"the chat template of {self._name} rewrites messages, so a growing conversation cannot be kept "
                "token by token; use a prompt with 'layout: fresh'"
            )
        if header := self._header:
            raise UsageError(
                f"the chat template of {self._name} has {header!r} before a reply, and its prompts do not end with it: "
                "the model would write that itself, and it would be read as a part of the reply; use a template with a "
                "generation prompt, or a server that reads such replies (engine openai)"
            )
        _ = self.border

    @cached_property
    def _around_message(self) -> tuple[str, str] | None:
        """Template text between a reply and the next message, and from there to the next reply; None: rewritten."""
        try:
            whole = self.text([_said("user", "x"), _said("assistant", _REPLY), _said("user", _MESSAGE)])
        except UsageError:
            return None
        head, found, tail = whole.partition(_REPLY)[2].partition(_MESSAGE)
        return (head, tail) if found else None

    def _rewrites(self, system: bool) -> bool:
        """Whether what was written changes as a conversation grows.

        A system message may wander to the last user message (Mistral's do that), old messages may be left out, messages
        may be numbered; and the third message may begin otherwise than the second.
        """
        first = [*([_said("system", _SYSTEM)] if system else []), _said("user", _FIRST)]
        second = [*first, _said("assistant", _REPLY), _said("user", _MESSAGE)]
        third = [*second, _said("assistant", _REPLY), _said("user", _MESSAGE)]
        before, found, _ = self.text(first).partition(_FIRST)
        longer = self.text(third)
        if not found or not all(self.text(more).startswith(before + _FIRST) for more in (second, third)):
            return True
        pieces = longer.split(_REPLY)
        return len(pieces) != 3 or pieces[1].partition(_MESSAGE)[0] != pieces[2].partition(_MESSAGE)[0]

    @cached_property
    def _header(self) -> str:
        """Words of the template before a reply that its prompts leave to the model; marks of a thought are none."""
        asked = [_said("user", _FIRST)]
        try:
            whole = self.text([*asked, _said("assistant", _REPLY), _said("user", "x")])
        except UsageError:
            return ""
        before, found, _ = whole.partition(_REPLY)
        prompt = self.text(asked)
        pairs = enumerate(zip(before, prompt, strict=False))
        shared = next((at for at, (mine, its) in pairs if mine != its), min(len(before), len(prompt)))
        if not found or _FIRST not in before[:shared]:
            return ""
        header = before[shared:]
        words = thought_tags(header).replace("<think>", "").replace("</think>", "")
        while (control := self.control.first(words)) is not None:
            words = control[0] + control[2]
        return header if any(letter.isalpha() for letter in words) else ""

    @cached_property
    def border(self) -> Border:
        """How a reply ends and the next begins.

        A reply ends with the first control token after it; blanks before that are the template's layout and no part of
        a reply. A template that writes none leaves it to the tokenizer's end token.

        Raises: UsageError: neither names one.
        """
        around = self._around_message or ("", self.text([_said("user", _MESSAGE)]).partition(_MESSAGE)[2])
        head, tail = around
        first = self.control.first(head)
        if first is not None and not first[0].strip():
            return Border(self.control.ids[first[1]], first[1], first[2], tail)
        end = getattr(self._tokenizer, "eos_token_id", None)
        if end is None:
            raise UsageError(
                f"neither the chat template nor the tokenizer {self._name} names a token that ends a reply; "
                "set eos_token in tokenizer_config.json"
            )
        return Border(int(end), "", head, tail)

    @cached_property
    def opened(self) -> str:
        """What a prompt already says of the reply's thought, from its `<think>` on; "" where it says nothing."""
        tail = thought_tags(self.border.tail)
        at = tail.rfind("<think>")
        if (
            at < 0 and (end := tail.rfind("</think>")) >= 0
        ):  # DeepSeek-V3.1 closes a thought that was never opened
            return f"<think>{tail[end:]}"
        return tail[at:] if at >= 0 else ""


_NO_SYSTEM = "put the text of 'system' into the prompt's 'first' (and 'later') instead"


def _calendar(day: datetime.datetime) -> str:
    """A template's clock that stands still: a macro in place of transformers' function, which tells today's date."""
    codes = [f"%{sign}{letter}" for sign in ("", "-") for letter in "aAbBcdHIjmMpSUwWxXyYZ"]
    filled = "".join(f".replace({code!r}, {day.strftime(code)!r})" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filled} }}}}{{%- endmacro %}}"


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
