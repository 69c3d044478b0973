"""Finds the program in a model's reply. Never raises on any text.

`agentbench@1` is our rule; `lcb` and `evalplus` do what those benchmarks' own tools do, for comparison with them.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from agentbench.errors import unknown_name

from .tasks import Task

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})([^\n]*)$")
_TAG = re.compile(r"[\s{.]*([\w+#-]*)")
_PYTHON = ("python", "py", "python3", "")
_MARKDOWN = ("markdown", "md")
_STARTS = ("def ", "class ", "import ", "from ", "@")


@dataclass(frozen=True)
class Program:
    """A program found in a reply: `text` is judged, its first `offset` lines are the task's and not the reply's.

    `text` is "" when there is none.
    """

    text: str
    offset: int = 0


@dataclass(frozen=True)
class Block:
    """A fenced block: first word of its info string in lower case, and its lines."""

    tag: str
    text: str


def extract(reply: str, task: Task, mode: str = "agentbench@1") -> Program:
    """Find the program for a task in a reply.

    Raises: UnknownName: no such mode.
    """
    if mode not in MODES:
        raise unknown_name("extraction", mode, MODES)
    text = MODES[mode](reply.replace("\r\n", "\n"), task)
    if not text.strip():
        return Program("")
    return _complete(text, task)


def _complete(text: str, task: Task) -> Program:
    """Continue the task's own text with a body; give a whole function the imports and helpers of its prompt."""
    if not task.starter:
        return Program(text)
    first = next(line for line in text.split("\n") if line.strip())
    if first[0].isspace() and not parses(text):
        return Program(task.starter + text)
    before = preamble(task.starter, task.entry)
    return Program(before + text, before.count("\n"))


def preamble(starter: str, entry: str) -> str:
    """What stands before the tested function in a prompt: imports and helpers that a solution may lean on."""
    try:
        tree = ast.parse(starter)
    except (SyntaxError, ValueError):
        return ""
    kept = [ast.unparse(node) for node in tree.body if getattr(node, "name", "") != entry]
    return "".join(f"{each}\n" for each in kept)


# --- agentbench@1 ---


def _ours(reply: str, task: Task) -> str:
    text = reply.rpartition("</think>")[2]
    if "<think>" in text:
        return ""
    found = blocks(text)
    if not found:
        return _bare(text, task)
    kept = [block for each in found for block in _opened(each) if block.tag in _PYTHON and block.text.strip()]
    if not kept:
        return ""
    texts = [block.text for block in kept]
    if task.starter:  # a body alone is a program too, once it stands below its prompt
        whole = [each for each in texts if parses(each) or _is_body(each, task)]
    else:
        whole = [each for each in texts if parses(each)]
    if task.entry:
        defining = [each for each in whole if defines(each, task.entry, task.solution_class)]
        whole = defining or whole
    return (whole or texts)[-1]


def blocks(text: str) -> list[Block]:
    """Fenced blocks as CommonMark has them, also inside list items; the last may be unclosed."""
    found: list[Block] = []
    inside: list[str] | None = None
    indent, fence, tag = 0, "", ""
    for line in text.split("\n"):
        match = _FENCE.match(line)
        width = len(match[1].expandtabs(4)) if match else 0
        if inside is None:
            if match and not (match[2][0] == "`" and "`" in match[3]):
                inside, indent, fence = [], width, match[2]
                head = _TAG.match(match[3])
                tag = head[1].lower() if head else ""
        elif (
            match
            and match[2][0] == fence[0]
            and len(match[2]) >= len(fence)
            and not match[3].strip()
            and width <= indent + 3
        ):
            found.append(_block(tag, inside, indent))
            inside = None
        else:
            inside.append(line)
    if inside is not None:
        found.append(_block(tag, inside, indent))
    return found


def _block(tag: str, lines: list[str], indent: int) -> Block:
    """Take the opener's indentation from the lines, as far as each has it."""
    taken = []
    for line in lines:
        have = len(line) - len(line.lstrip(" \t"))
        taken.append(line[min(indent, have) :])
    return Block(tag, "\n".join(taken))


def _opened(block: Block) -> list[Block]:
    """A block of markdown is opened once; so is an untagged one that holds blocks and is no program."""
    if block.tag in _MARKDOWN or (block.tag == "" and not parses(block.text)):
        return blocks(block.text) or [block]
    return [block]


def _bare(text: str, task: Task) -> str:
    """A reply without fences: all of it, else the longest part that parses from the first line of code on."""
    if not text.strip():
        return ""
    if parses(text) or (task.starter and _is_body(text, task)):
        return text
    lines = text.split("\n")
    for start, line in enumerate(lines):
        if line.startswith(_STARTS):
            for end in range(len(lines), start, -1):
                part = "\n".join(lines[start:end])
                if parses(part):
                    return part
    return ""


def _is_body(text: str, task: Task) -> bool:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return first[:1].isspace() and parses(task.starter + text)


def parses(text: str) -> bool:
    """Whether Python can read a text; nothing is run."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(text: str, entry: str, solution_class: bool = False) -> bool:
    """Whether a text that parses gives the entry point a value at its top level, or holds `class Solution`."""
    try:
        body = ast.parse(textwrap.dedent(text) if text[:1].isspace() else text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == entry or (solution_class and node.name == "Solution"):
                return True
        elif isinstance(node, ast.Assign) and any(getattr(each, "id", "") == entry for each in node.targets):
            return True
    return False


# --- what the benchmarks' own tools do ---


def _lcb(reply: str, task: Task) -> str:
    """LiveCodeBench: what is between the last two lines that hold three backticks."""
    lines = reply.split("\n")
    fences = [place for place, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else ""


def _evalplus(reply: str, task: Task) -> str:
    """EvalPlus 0.3.1: the longest run of lines that parses; of it, imports and what the entry point needs.

    Of two definitions of one name the first counts; functions without `return` are dropped. Where nothing is left of
    it, the run is taken as it is; where no two lines parse, the reply's first line.
    """
    return _needed(_longest(reply.strip()), task.entry) or _longest(reply)


def _needed(code: str, entry: str) -> str:
    if not parses(code):
        return ""
    imports: list[str] = []
    definitions: dict[str, ast.stmt] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(isinstance(each, ast.Return) for each in ast.walk(node)):
                definitions.setdefault(node.name, node)
        elif isinstance(node, ast.ClassDef):
            definitions.setdefault(node.name, node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            definitions.setdefault(node.targets[0].id, node)
    needed = _reachable(entry, definitions)
    return "\n".join([*imports, *(ast.unparse(node) for name, node in definitions.items() if name in needed)])


def _longest(text: str, limit: int = 400) -> str:
    lines = text.split("\n")[:limit]
    best, size = lines[0], 0
    for start in range(len(lines)):
        if len(lines) - start <= size:
            break
        for end in range(len(lines), start + 1, -1):
            count = sum(1 for line in lines[start:end] if line.strip())
            if count <= size:
                break
            part = "\n".join(lines[start:end])
            if parses(part):
                best, size = part, count
                break
    return best


def _reachable(entry: str, definitions: dict[str, ast.stmt]) -> set[str]:
    seen, left = set(), [entry]
    while left:
        name = left.pop()
        if name not in seen and name in definitions:
            seen.add(name)
            left += [node.id for node in ast.walk(definitions[name]) if isinstance(node, ast.Name)]
    return seen


MODES: dict[str, Callable[[str, Task], str]] = {"agentbench@1": _ours, "lcb": _lcb, "evalplus": _evalplus}
"""Extraction rules by name; a change of a rule is a new name."""
