"""Text that others wrote (servers, plug-ins, files, models), made fit to be shown on one line and to be kept.

Leaves out what is said about it: every message of the project passes through here on its way to a terminal or a page.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from typing import Any

SHOWN = 2000
"""Characters of a foreign text that a message keeps."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move the cursor, turn the direction of writing, hide, or cannot be written at all."""

_PREFIX = (
    r"(?<![A-Za-z0-9])("
    r"(sk|pk|gsk|xai|nvapi|fw|csk|pplx|dapi|tgp|r8|ghp|github_pat|glpat|jina|pa)[-_]|hf_|AIza|AKIA|eyJ(?=[\w-]+\.[\w-]+\.)"
    r")(?=[\w-]*\d)"
)
_KEY_LIKE = re.compile(_PREFIX + r"[\w-]{16,}")
"""A provider's prefix and a long rest with a digit: names of models and hosts begin like that too ("skywork-…")."""

_SHOWN_KEY = re.compile(_PREFIX + r"(?=[\w-]*[A-Za-z0-9]{16})[\w-]{16,}")
"""As above with one long random part: folders of runs may have names like the others."""

_VALUES = reprlib.Repr()
_VALUES.maxlevel, _VALUES.maxstring, _VALUES.maxother, _VALUES.maxlong = 3, 120, 120, 60
_VALUES.maxdict = _VALUES.maxlist = _VALUES.maxtuple = _VALUES.maxset = 6


def printable(text: str, limit: int = SHOWN) -> str:
    r"""Write control, direction and surrogate characters as escapes ("\x1b", "\u202e"), and cut what is too long.

    What looks like an API key, put into a wrong place, is not repeated.

    Args:
        text: as it came.
        limit: characters that are kept, from the beginning; further ones are counted.
    Returns: text on one line that any terminal shows as it is and UTF-8 can hold.
    """
    kept = _SHOWN_KEY.sub("(key)", " ".join(text[:limit].split()))
    if not kept.isascii() or not kept.isprintable():
        kept = "".join(_escaped(char) if unicodedata.category(char) in _UNSEEN else char for char in kept)
    left = len(text) - limit
    return f"{kept} … and {left} more characters" if left > 0 else kept


def message_of(error: BaseException) -> str:
    """What an exception says; a stranger's may fail to say anything."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be made)"


def looks_like_key(value: Any) -> bool:
    """Whether a text holds what looks like a key of a known provider."""
    return isinstance(value, str) and _KEY_LIKE.search(value) is not None


def page(text: str) -> str:
    """Write a text of several lines whole, with escapes as `printable` has them; line breaks and tabs stay."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    kept = ("\n", "\t")
    return "".join(
        _escaped(char) if char not in kept and unicodedata.category(char) in _UNSEEN else char
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def writable(text: str, limit: int = SHOWN) -> str:
    """Cut a text and replace what UTF-8 cannot hold, so that it can be part of a record; line breaks stay."""
    if len(text) > limit:
        text = f"{text[:limit]} … and {len(text) - limit} more characters"
    return text.encode("utf-8", "replace").decode()


def visible(text: str, limit: int = SHOWN) -> str:
    """Write what a page would hide or turn around as escapes, and cut what is too long; line breaks and tabs stay."""
    kept = "".join(
        _escaped(char) if char not in "\n\t" and unicodedata.category(char) in _UNSEEN else char
        for char in text[:limit]
    )
    left = len(text) - limit
    return f"{kept} … and {left} more characters" if left > 0 else kept


def shortened(value: Any) -> str:
    """Show any value for a message, as `repr` does, at a size that fits; nesting without end takes no time."""
    return printable(_VALUES.repr(value), 300)


def cell(text: str) -> str:
    """Make a text fit for a cell of a Markdown table: one line, without marks that mean something there."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("|", "\\|").replace("`", "\\`")
