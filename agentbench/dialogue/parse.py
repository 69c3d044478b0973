"""Reads the env command out of a model's reply, and counts every way that fails. Never raises on model text.

Parsers are named in an EnvSpec: "tags:30", "search", "plain". Whether a command makes sense is for the env to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from ..errors import unknown_name
from .blocks import RULES, read_reply

FAILURES: dict[str, str] = {
    "no_action": "the reply has no closed <action>…</action>",
    "empty_action": "the action tags hold nothing but blanks",
    "no_think": "the reply has no <think>…</think> block",
    "chinese": "the reply holds Chinese characters",
    "empty": "the reply is empty",
    "many_lines": "a bare-command reply has more than one line",
}
"""Every parse failure a parser may report."""

_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
_CHINESE = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command, and why the reply was not clean ("" when it was); `command` is None if there is none to try."""

    command: str | None
    failure: str = ""


class Parser(Protocol):
    """Reads commands from replies, and writes a command the way it wants to read it."""

    name: str

    def parse(self, reply: str) -> Parsed:
        """Read the command."""
        ...

    def format(self, command: str) -> str:
        """Write the shortest clean reply that parses to `command`."""
        ...


class TagParser:
    """`<think>…</think><action>…</action>`, with the fallback of the field.

    The reply is lower-cased and the first action block is taken. Without one, the last `tail` characters are sent to
    the env and the turn counts as invalid; so does a reply without a think block or with Chinese characters.
    Source: verl-agent's projection of ALFWorld (tail 30) and WebShop (tail 20).
    """

    def __init__(self, tail: int) -> None:
        """Remember how many trailing characters stand in for a missing action."""
        self.tail = tail
        self.name = f"tags:{tail}"

    def parse(self, reply: str) -> Parsed:
        """Read the first action block."""
        text = reply.lower()
        found = _ACTION.search(text)
        if found is None:
            return Parsed(text[-self.tail :] or None, "no_action" if text else "empty")
        command = found.group(1).strip()
        if not command:
            return Parsed(None, "empty_action")
        think = text.find("<think>")
        if think == -1 or text.find("</think>", think) == -1:
            return Parsed(command, "no_think")
        return Parsed(command, "chinese" if _CHINESE.search(reply) else "")

    def format(self, command: str) -> str:
        """Write an empty thought and the command."""
        return f"<think>\n\n</think>\n\n<action>{command}</action>"


class PlainParser:
    """The reply is the command: one line, blanks around it ignored."""

    name = "plain"

    def parse(self, reply: str) -> Parsed:
        """Take the first line that is not blank."""
        lines = [line.strip() for line in reply.splitlines() if line.strip()]
        if not lines:
            return Parsed(None, "empty")
        return Parsed(lines[0], "many_lines" if len(lines) > 1 else "")

    def format(self, command: str) -> str:
        """Write the command itself."""
        return command


class BlockParser:
    """The parser "search:RULE"; "search" alone is "search:verl-agent"."""

    def __init__(self, rule: str = "verl-agent") -> None:
        """Read by `rule`, one of `blocks.RULES`."""
        if rule not in RULES:
            raise unknown_name("rule of search blocks", rule, RULES)
        self.rule = rule
        self.name = f"search:{rule}"

    def parse(self, reply: str) -> Parsed:
        """Read the block; a flaw that costs nothing is not reported as a failure."""
        reading = read_reply(reply, self.rule)
        return Parsed(reading.command, "" if reading.valid else reading.flaw)

    def format(self, command: str) -> str:
        """Write the command itself: a thought is asked for in prompts, but never checked."""
        return command


def get_parser(name: str) -> Parser:
    """Build the parser of that name.

    Args:
        name: "plain"; "tags:N" with N trailing characters as fallback; "search" or "search:RULE", see `blocks`.
    """
    kind, _, option = name.partition(":")
    if kind == "search":
        return BlockParser(option or "verl-agent")
    if kind == "plain" and not option:
        return PlainParser()
    if kind == "tags" and option.isdigit():
        return TagParser(int(option))
    raise unknown_name(
        "parser", name, ["plain", "search", "tags:20", "tags:30"], "N in tags:N is any whole number."
    )
