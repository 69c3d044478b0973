"""Keys of endpoints: where they are read, and how they are kept out of every message and record.

Leaves out the header that carries them (`http`) and keys in other places (`config.refuse_keys`).
"""

from __future__ import annotations

import os
import re
from typing import Any

from ..errors import UsageError
from ..foreign import looks_like_key

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANDOM = re.compile(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20,}")
_SHORTEST = 8
"""Keys below this length are no secret, and taking them out of replies would maim those."""
_PART = 10
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def key_of(variable: str | None) -> str:
    """Read the key from an environment variable; "" where none is named or set.

    Raises: UsageError: the name is none, or the key cannot be sent. The key itself is never shown.
    """
    if variable is None:
        return ""
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable) or _is_key(variable):
        raise UsageError(
            "api_key_env takes the name of an environment variable, such as OPENAI_API_KEY; what was given is none (it "
            "is not repeated here, for it may be the key): put the key into a variable and name that"
        )
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError(
            f"the key in the environment variable {variable} holds a character that cannot be sent, such as a "
            "typographic quote, an invisible blank or a line break; paste it again"
        )
    return key


def _is_key(variable: str) -> bool:
    """Whether what should name a variable is a key: by its look, or as random letters and digits that name none."""
    unknown = variable not in os.environ and any(map(_RANDOM.fullmatch, variable.split("_")))
    return looks_like_key(variable) or unknown


class Secret:
    """One key, to be taken out of whatever a server says."""

    def __init__(self, key: str) -> None:
        """Remember it."""
        self.key = key
        whole = len(key) >= _SHORTEST
        parts = {key[at : at + _PART] for at in range(len(key) - _PART + 1)} if whole else set()
        self._parts = re.compile("|".join(map(re.escape, sorted(parts))) or r"(?!)")
        self._hides = whole

    def clean(self, text: str, longest: int) -> str:
        """A server's words for a message: without the key and its parts, control characters and line breaks, cut."""
        if self._hides:
            text = text.replace(self.key, "(key)")
            text = self._parts.sub("(key)", text)
        return " ".join(_CONTROL.sub(" ", text).split())[:longest]

    def without(self, value: Any) -> Any:
        """A JSON value without the key, wherever it stands."""
        if not self._hides:
            return value
        if isinstance(value, str):
            return value.replace(self.key, "(key)") if self.key in value else value
        if isinstance(value, list):
            return [self.without(item) for item in value]
        if isinstance(value, dict):
            return {self.without(name): self.without(item) for name, item in value.items()}
        return value
