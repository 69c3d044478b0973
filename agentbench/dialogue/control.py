"""Keeps text apart from control: what an environment says never becomes a special token of a model.

Text that merely spells a control token is marked where it enters a prompt (`ControlTokens.hide`) and encoded piece by
piece as the letters it is (`ControlTokens.encode`). Leaves out which texts are foreign (`render`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_MARKUP = re.compile(r"[<>\[\]{}|｜]")
_THINK = (
    "<think>",
    "</think>",
    "<seed:think>",
    "</seed:think>",
    "[THINK]",
    "[/THINK]",
    "◁think▷",
    "◁/think▷",
)
_FIRST_MARK = 0x100000
"""Marks are characters of Unicode's last private plane, which neither tokenizers nor environments give a meaning."""


def control_tokens(tokenizer: Any, template_text: str) -> dict[str, int]:
    """Text -> id of every token that steers a conversation.

    These are the special tokens, and of the other added tokens those that the chat template writes and the borders of a
    thought; an added token that is an ordinary word ("cabinet 3") is none.

    Args:
        tokenizer: Hugging Face tokenizer.
        template_text: source of the chat template, and what it wrote for a sample conversation.
    """
    specials = getattr(tokenizer, "all_special_tokens", ()), getattr(tokenizer, "all_special_ids", ())
    found: dict[str, int] = dict(zip(*specials, strict=False))
    for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        text = str(token.content)
        written = text in _THINK or (_MARKUP.search(text) is not None and text in template_text)
        if token.special or written:
            found[text] = int(number)
    return {text: number for text, number in found.items() if text and not text.isspace()}


class ControlTokens:
    """The control tokens of one tokenizer and chat template.

    Attributes:
        ids: text -> id.
    """

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        """Look them up; see `control_tokens` for the arguments."""
        self.ids = control_tokens(tokenizer, template_text)
        self._tokenizer = tokenizer
        # As tokenizers do, the longest of several that begin at one place wins.
        self._names = sorted(self.ids, key=lambda text: (-len(text), text))
        self._spelled = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        self._index = {name: number for number, name in enumerate(self._names)}
        last = _FIRST_MARK + max(0, len(self._names) - 1)
        self._marks = re.compile(f"[{chr(_FIRST_MARK)}-{chr(last)}]")

    def first(self, text: str) -> tuple[str, str, str] | None:
        """What stands before the first control token of a text, that token, and what stands after it."""
        match = self._spelled.search(text)
        return None if match is None else (text[: match.start()], match[0], text[match.end() :])

    def hide(self, value: Any) -> Any:
        """Mark whatever spells a control token in a text, or in the texts of a list or mapping."""
        if isinstance(value, str):
            if self._spelled.search(value) is None:
                return value
            return self._spelled.sub(lambda match: chr(_FIRST_MARK + self._index[match[0]]), value)
        if isinstance(value, Mapping):
            return {name: self.hide(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.hide(item) for item in value)
        return value

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; marked spellings become ordinary tokens, all else is encoded as ever."""
        if self._marks.search(text) is None:
            return self._ids(text)
        ids: list[int] = []
        for position, (piece, token) in enumerate(self._pieces(text)):
            ids += self._piece(piece, first=position == 0)
            if token is not None:
                ids.append(self.ids[token])
        return ids

    def _pieces(self, text: str) -> list[tuple[str, str | None]]:
        """Cut at the control tokens that are meant: (text before it, token); None after the last."""
        pieces: list[tuple[str, str | None]] = []
        at = 0
        for match in self._spelled.finditer(text):
            pieces.append((text[at : match.start()], match[0]))
            at = match.end()
        return [*pieces, (text[at:], None)]

    def _piece(self, text: str, *, first: bool) -> list[int]:
        """Encode text in which everything spelled is foreign."""
        if not text:
            return []
        plain = self._marks.sub(lambda match: self._names[ord(match[0]) - _FIRST_MARK], text)
        if plain == text:
            return self._inside(text, first=first, split=False)
        ids = self._inside(plain, first=first, split=True)
        if not set(ids) & set(self.ids.values()):
            return ids
        # Added tokens that are not special are found even then; without their first letter they are mere text.
        ids, at = [], 0
        for match in self._spelled.finditer(plain):
            for part in (plain[at : match.start() + 1], plain[match.start() + 1 : match.end()]):
                ids += self._inside(part, first=first and not ids, split=True)
            at = match.end()
        return ids + self._inside(plain[at:], first=first and not ids, split=True)

    def _inside(self, text: str, *, first: bool, split: bool) -> list[int]:
        """Encode a piece as it would stand inside a longer text, where some tokenizers begin with a blank."""
        if first or not text or not self._adds_blank:
            return self._ids(text, split=split)
        anchor = self._ids("\n")
        ids = self._ids("\n" + text, split=split)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._ids(text, split=split)

    @cached_property
    def _adds_blank(self) -> bool:
        """Whether the tokenizer puts a blank before a text (SentencePiece), so that pieces differ from the whole."""
        anchor = self._ids("\n")
        return self._ids("\nx")[len(anchor) :] != self._ids("x")

    def _ids(self, text: str, *, split: bool = False) -> list[int]:
        options = {"split_special_tokens": True} if split and self._can_split else {}
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False, **options)]

    @cached_property
    def _can_split(self) -> bool:
        try:
            self._tokenizer.encode("x", add_special_tokens=False, split_special_tokens=True)
        except TypeError:
            return False
        return True
