"""Reads `<search>…</search>` and `<answer>…</answer>` blocks out of replies, by either of the field's two rules.

`read_reply` is a pure function of the reply; the parser "search" is made of it (`parse.BlockParser`). The command is
the block itself, so that a history shows what was said. Leaves out what a search finds and what an answer is worth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import unknown_name

Rule = Literal["verl-agent", "search-r1"]
RULES = ("verl-agent", "search-r1")

FLAWS: dict[str, str] = {
    "no_action": "the reply has no complete <search> or <answer> block",
    "unclosed": "a <search> or <answer> block was opened and never closed",
    "both": "the reply opens both a <search> and an <answer> block",
    "twice": "the reply opens two <search> or two <answer> blocks",
    "empty_query": "the <search> block holds nothing but blanks",
    "empty_answer": "the <answer> block holds nothing but blanks",
}
"""Everything that can be wrong with a reply."""

CLEAN = ("", "empty_query", "empty_answer")
"""Flaws that are carried out like any other block and cost nothing, as in both references."""

STOPS = ("</search>", "</answer>", "<information>")
"""Where sampling ends: a closed block, or a search result that the model makes up."""

_ANY_BLOCK = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_SEARCH_BLOCK = re.compile(r"<search>(.*?)</search>", re.DOTALL | re.IGNORECASE)
_ANSWER_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_SEARCH_TAG = re.compile(r"<search>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says: `kind` is "search", "answer" or "" (nothing to carry out), `text` what the block holds."""

    kind: str
    text: str
    flaw: str = ""

    @property
    def valid(self) -> bool:
        """Whether the reply follows the rule; the block of an invalid reply is carried out all the same."""
        return self.flaw in CLEAN

    @property
    def command(self) -> str | None:
        """The block as a command, None when there is none."""
        return f"<{self.kind}>{self.text}</{self.kind}>" if self.kind else None


def read_reply(reply: str, rule: str = "verl-agent") -> Reading:
    """Find the block that a reply is about.

    Both rules drop what follows the first closing search tag, else the first closing answer tag, and what follows an
    opened `<information>`: the model may not write its own results. "verl-agent" then takes a search before an
    answer wherever they stand, ignores case, and calls a reply invalid that opens both kinds or one kind twice.
    "search-r1" takes the first complete block, in lower case only.

    Args:
        reply: the model's text, whatever it holds.
        rule: one of `RULES`.
    Raises: UnknownName: no such rule.
    """
    if rule not in RULES:
        raise unknown_name("rule of search blocks", rule, RULES)
    said = reply.partition("<information>")[0]
    kept = _cut(said)
    if rule == "search-r1":
        found = _ANY_BLOCK.search(kept)
        kind, text = (found[1], found[2].strip()) if found else ("", "")
        return Reading(kind, text, _flaw_of(kind, text, said))
    for kind, block in (("search", _SEARCH_BLOCK), ("answer", _ANSWER_BLOCK)):
        if found := block.search(kept):
            text = found[1].strip()
            return Reading(kind, text, _crowd(said) or _flaw_of(kind, text, said))
    return Reading("", "", _flaw_of("", "", said))


def _cut(reply: str) -> str:
    for closing in ("</search>", "</answer>"):
        head, found, _ = reply.partition(closing)
        if found:
            return head + closing
    return reply


def _crowd(reply: str) -> str:
    """Tell whether a reply opens more than one block; counted on all of it, what is dropped later included."""
    searches, answers = len(_SEARCH_TAG.findall(reply)), len(_ANSWER_TAG.findall(reply))
    if searches and answers:
        return "both"
    return "twice" if searches > 1 or answers > 1 else ""


def _flaw_of(kind: str, text: str, reply: str) -> str:
    if kind:
        return "" if text else ("empty_query" if kind == "search" else "empty_answer")
    tags = _SEARCH_TAG.search(reply) or _ANSWER_TAG.search(reply)
    closed = _SEARCH_BLOCK.search(reply) or _ANSWER_BLOCK.search(reply)
    return "unclosed" if tags and not closed else "no_action"


def read_command(command: str, rule: str = "verl-agent") -> Reading:
    """Read a command as an environment of that rule carries it out.

    The environment behind "verl-agent" looks for answer tags again: a search block with a whole answer block in it
    ends the episode with that answer, the last one if there are several.
    """
    if rule == "search-r1":
        found = _ANY_BLOCK.search(command)
        return Reading(found[1], found[2].strip()) if found else Reading("", "", "no_action")
    if "<answer>" in command and "</answer>" in command:
        answers = re.findall(r"<answer>(.*?)</answer>", command, re.DOTALL)
        return Reading("answer", answers[-1].strip() if answers else "")
    found = re.search(r"<search>(.*?)</search>", command, re.DOTALL)
    return Reading("search", found[1].strip()) if found else Reading("", "", "no_action")
