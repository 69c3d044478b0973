"""Stop strings: texts that end a reply, found in its tokens as they are sampled.

A reply ends with the token that completes a stop string, whole: what was sampled is what is kept and trained on, so
its text may go on for a character or two where that token does. Nothing is decoded and encoded again.
Leaves out end tokens, which are the engines' own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_MARGIN = 8
"""Tokens looked at beyond those that a stop string can consist of: the first ones of a piece may read differently."""

_CLOSING_TAG = re.compile(r"</([\w-]+)>")


class StopFinder:
    """Finds stop strings in tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Bind the tokenizer that turns ids into a reply's text."""
        self._tokenizer = tokenizer

    def ends(self, ids: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether the last token completes a stop string.

        Args:
            ids: of the reply so far.
            stop: the stop strings.
        """
        if not stop or not len(ids):
            return False
        # every token that shows at all has at least one byte, so no stop string begins before this piece
        piece = list(ids[-(max(len(text.encode()) for text in stop) + _MARGIN) :])
        now = self._decode(piece)
        if not any(text in now for text in stop):
            return False
        old = len(
            self._decode(piece[:-1]).rstrip("\ufffd")
        )  # half a character reads so until its other half comes
        return any(now.find(text, max(0, old - len(text) + 1)) >= 0 for text in stop)

    def length(self, ids: Sequence[int], stop: Sequence[str], least: int = 0) -> int | None:
        """Number of tokens after which a reply ends.

        Args:
            ids: of a reply.
            stop: the stop strings.
            least: stop strings completed before this many tokens do not count.
        Returns: tokens up to and with the one that completes a stop string; None when none does.
        """
        if not stop:
            return None
        return next((n for n in range(max(1, least), len(ids) + 1) if self.ends(ids[:n], stop)), None)

    def _decode(self, ids: Sequence[int]) -> str:
        ids = [int(token) for token in ids]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def cut_text(text: str, stop: Sequence[str]) -> str | None:
    """Cut a text after the stop string that is complete first; None when there is none.

    For endpoints that speak text alone; engines with tokens use `StopFinder`.
    """
    ends = [text.index(one) + len(one) for one in stop if one in text]
    return text[: min(ends)] if ends else None


def put_back(text: str, stop: Sequence[str]) -> str:
    """Add the closing tag that an endpoint met and kept to itself.

    Args:
        text: of a reply that ended at a stop string or by itself, which such endpoints do not tell.
        stop: the stop strings.
    Returns: the text with that closing tag, among the stop strings, whose opening tag was opened last and stands open;
        the text itself where there is none.
    """
    opened = {}
    for one in stop:
        tag = _CLOSING_TAG.fullmatch(one)
        if tag is not None:
            opened[text.rfind(f"<{tag[1]}>")] = one
    last = max(opened, default=-1)
    return text + opened[last] if last >= 0 else text
