"""Reads the env command out of a model's reply, and counts every way that fails. Never raises on model text.

Parsers are named in an EnvSpec or a prompt: "tags:30" does what the field does, "lenient" takes what a person would,
"search" reads search and answer blocks, "plain" takes the reply's line and "whole" all of it. Whether a command makes
sense is for the env to say.
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
    "tag_in_command": "the command holds an action or think tag: the tags were named, doubled or nested",
    "no_think": "the reply has no <think>…</think> block",
    "chinese": "the reply holds Chinese characters",
    "empty": "the reply is empty, or all of it is thought",
    "many_lines": "the command has more than one line",
}
"""Every parse failure a parser may report."""

_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL | re.IGNORECASE)
_CHINESE = re.compile("[\u4e00-\u9fff]")
_OTHER_THOUGHT = re.compile(r"\[(/?)THINK\]|<(/?)seed:think>|◁(/?)think▷")
"""How Magistral, Seed-OSS and Kimi-VL mark a thought; all others write `<think>`."""

_TAG = re.compile(r"<\s*/?\s*(action|think)\b[^>]*>", re.IGNORECASE)


def thought_tags(text: str) -> str:
    """Write every family's marks of a thought as `<think>` and `</think>`."""
    return _OTHER_THOUGHT.sub(lambda mark: f"<{mark[1] or mark[2] or mark[3] or ''}think>", text)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command, and why the reply was not clean ("" when it was); `command` is None if there is none to try."""

    command: str | None
    failure: str = ""


class Parser(Protocol):
    """Reads commands from replies, and writes a command the way it wants to read it.

    `opened` is what the prompt had already written of the reply: an open `<think>`, or an empty thought.
    """

    name: str

    def parse(self, reply: str, opened: str = "", finish: str = "stop") -> Parsed:
        """Read the command; `finish` is why the reply ended ("length": it was cut)."""
        ...

    def format(self, command: str, opened: str = "") -> str:
        """Write the shortest clean reply that parses to `command`."""
        ...


def _after(whole: str, opened: str) -> str:
    """What is left to say of a reply when the prompt has said `opened`."""
    if not opened:
        return whole
    if whole.startswith(opened):
        return whole[len(opened) :]
    _, _, rest = whole.partition("</think>")
    if not rest:  # a reply without a thought
        return whole if "</think>" in opened else f"\n</think>\n\n{whole}"
    return rest.lstrip() if "</think>" in opened else f"\n</think>{rest}"


class TagParser:
    """`<think>…</think><action>…</action>`, with the fallback of the field.

    The reply is lower-cased and the first action block is taken. Without one, the last `tail` characters are sent to
    the env and the turn counts as invalid; so does a reply without a think block or with Chinese characters.
    Source: verl-agent's projection of ALFWorld (tail 30) and WebShop (tail 20).

    Departures: think tags count in any case, and `</think>` must follow `<think>` (there: the case as written, any
    order). A `</action>` before the first `<action>` is passed over (there: the command is empty, the turn clean).
    Magistral's, Seed-OSS's and Kimi-VL's marks of a thought are think tags (there: none).
    An empty block, and a reply of blanks alone, give no command and count (there: "" is sent, the turn clean; the
    blanks are sent). A command that holds an action or think tag counts (there: the turn is clean).
    """

    def __init__(self, tail: int, *, keep: bool = False) -> None:
        """Remember how many trailing characters stand in for a missing action; `keep` leaves the case as written."""
        self.tail = tail
        self.keep = keep
        self.name = f"tags:{tail}:keep" if keep else f"tags:{tail}"

    def parse(self, reply: str, opened: str = "", finish: str = "stop") -> Parsed:
        """Read the first action block."""
        reply = thought_tags(reply)
        text = reply if self.keep else reply.lower()
        if not text.strip():
            return Parsed(None, "empty")
        found = _ACTION.search(text)
        if found is None:
            return Parsed(text[-self.tail :] or None, "no_action")
        command = found.group(1).strip()
        if not command:
            return Parsed(None, "empty_action")
        if _TAG.search(command):
            return Parsed(command, "tag_in_command")
        whole = (opened + reply).lower()
        think = whole.find("<think>")
        if think == -1 or whole.find("</think>", think) == -1:
            return Parsed(command, "no_think")
        return Parsed(command, "chinese" if _CHINESE.search(reply) else "")

    def format(self, command: str, opened: str = "") -> str:
        """Write an empty thought and the command."""
        return _after(f"<think>\n\n</think>\n\n<action>{command}</action>", opened)


_THOUGHT = re.compile(r"<\s*(think|thinking)\s*>.*?<\s*/\s*\1\s*>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"<\s*/\s*think(ing)?\s*>", re.IGNORECASE)
_OPEN = re.compile(r"<\s*action\b[^<>]*>", re.IGNORECASE)
_CLOSED = re.compile(
    r"<\s*action\b[^<>]*>((?:(?!<\s*action\b).)*?)<\s*/\s*action\s*>", re.DOTALL | re.IGNORECASE
)
_FENCE = re.compile(r"^\s*```[^\n`]*\n(.*?)(```)?\s*$", re.DOTALL)
_QUOTES = (("```", "```"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"))
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


class LenientParser:
    """Takes the command that a person would read: for everybody who need not match the field.

    The last closed action block after the thought that is not empty; tags may hold blanks or attributes; a block left
    open reaches to the end of a reply that was not cut. Quotes, backticks, fences and a final dot around the command
    go, blanks become one, full-width letters ASCII, invisible ones nothing; the first of several lines is taken and
    the turn counts. A thought is not asked for. Without a block there is no command.
    """

    def __init__(self, *, keep: bool = False) -> None:
        """`keep` leaves the case of commands as written; else they are lower-cased."""
        self.keep = keep
        self.name = "lenient:keep" if keep else "lenient"

    def parse(self, reply: str, opened: str = "", finish: str = "stop") -> Parsed:
        """Read the last action block outside the thought."""
        if not reply.strip():
            return Parsed(None, "empty")
        spoken = _THOUGHT_END.split(_THOUGHT.sub("", opened + thought_tags(reply)))[-1]
        blocks: list[str] = _CLOSED.findall(spoken) or self._open_block(spoken, finish)
        if not blocks:
            return Parsed(None, "no_action")
        lines = next((lines for block in reversed(blocks) if (lines := _lines(block))), [])
        if not lines:
            return Parsed(None, "empty_action")
        command = lines[0] if self.keep else lines[0].lower()
        if _TAG.search(command):
            return Parsed(command, "tag_in_command")
        return Parsed(command, "many_lines" if len(lines) > 1 else "")

    def _open_block(self, spoken: str, finish: str) -> list[str]:
        """A block closed by another opening tag, or open to the end of a reply that ended by itself."""
        *closed, rest = _OPEN.split(spoken)
        if closed and rest.strip():
            return [rest.split("</", 1)[0]] if finish == "stop" else []
        return closed[1:][-1:]

    def format(self, command: str, opened: str = "") -> str:
        """Write an empty thought and the command."""
        return _after(f"<think>\n\n</think>\n\n<action>{command}</action>", opened)


def _lines(block: str) -> list[str]:
    """Lines of a block that say something, each freed of what stands around a command."""
    fenced = _FENCE.match(block)
    text = (fenced[1] if fenced else block).translate(_INVISIBLE).translate(_WIDE)
    return [line for line in map(_bare, text.splitlines()) if line]


def _bare(line: str) -> str:
    """A command without the quotes and the final dot around it, blanks made one."""
    line = " ".join(line.split())
    while True:
        before = line
        for left, right in _QUOTES:
            if len(line) >= len(left) + len(right) and line.startswith(left) and line.endswith(right):
                line = line[len(left) : -len(right)].strip()
        if line.endswith(".") and not line.endswith(".."):
            line = line[:-1].rstrip()
        if line == before:
            return line


class PlainParser:
    """The reply is the command: one line after the thought, if there is one; blanks around it ignored."""

    name = "plain"

    def parse(self, reply: str, opened: str = "", finish: str = "stop") -> Parsed:
        """Take the first line that is not blank."""
        lines = [line.strip() for line in _spoken(opened + reply).splitlines() if line.strip()]
        if not lines:
            return Parsed(None, "empty")
        return Parsed(lines[0], "many_lines" if len(lines) > 1 else "")

    def format(self, command: str, opened: str = "") -> str:
        """Write the command itself, after what ends an open thought."""
        return _after(command, opened)


class WholeParser:
    """All that follows the thought is the command, line breaks included: for envs that find what they want in it."""

    name = "whole"

    def parse(self, reply: str, opened: str = "", finish: str = "stop") -> Parsed:
        """Hand on the reply."""
        spoken = _spoken(opened + reply)
        return Parsed(spoken) if spoken.strip() else Parsed(None, "empty")

    def format(self, command: str, opened: str = "") -> str:
        """Write the command itself, after what ends an open thought."""
        return _after(command, opened)


def _spoken(whole: str) -> str:
    """What comes after the thought; nothing where the thought never ended."""
    _, closed, spoken = thought_tags(whole).rpartition("</think>")
    return "" if not closed and spoken.lstrip().startswith("<think>") else spoken


class BlockParser:
    """The parser "search:RULE"; "search" alone is "search:verl-agent"."""

    def __init__(self, rule: str = "verl-agent") -> None:
        """Read by `rule`, one of `blocks.RULES`."""
        if rule not in RULES:
            raise unknown_name("rule of search blocks", rule, RULES)
        self.rule = rule
        self.name = f"search:{rule}"

    def parse(self, reply: str, opened: str = "", finish: str = "stop") -> Parsed:
        """Read the block; a flaw that costs nothing is not reported as a failure."""
        reading = read_reply(reply, self.rule)
        return Parsed(reading.command, "" if reading.valid else reading.flaw)

    def format(self, command: str, opened: str = "") -> str:
        """Write the command itself, after what ends an open thought: thoughts are asked for, but never checked."""
        return _after(command, opened)


def get_parser(name: str) -> Parser:
    """Build the parser of that name.

    "plain"; "whole"; "tags:N" with N trailing characters as fallback; "lenient"; "search" or "search:RULE", see
    `blocks`. Those with tags and "lenient" lower-case commands, unless ":keep" is added.
    """
    kind, *options = name.split(":")
    if kind == "search" and len(options) < 2:
        return BlockParser(*options)
    keep = options[-1:] == ["keep"]
    options = options[:-1] if keep else options
    if kind == "whole" and not options and not keep:
        return WholeParser()
    if kind == "plain" and not options and not keep:
        return PlainParser()
    if kind == "lenient" and not options:
        return LenientParser(keep=keep)
    if kind == "tags" and len(options) == 1 and options[0].isdecimal() and options[0].isascii():
        return TagParser(int(options[0]), keep=keep)
    raise unknown_name(
        "parser",
        name,
        ["lenient", "lenient:keep", "plain", "whole", "search", "tags:20", "tags:30", "tags:30:keep"],
        "N in tags:N is any whole number.",
    )
