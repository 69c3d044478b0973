"""The Python tool: runs a program of the agent and gives back what it printed. Each call is a program of its own."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .extract import Program, parses
from .judge import Judge
from .observe import tool_output
from .sandbox import Limits

LIMITS = Limits(cpu=10.0, call_cpu=10.0, idle=5.0, stdout=1 << 18)

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_TAGS = re.compile(r"<(python|submit)>\n?(.*?)(?:</\1>|$)", re.DOTALL)

NO_CALL = (
    "No call was found in the reply. Run code with <python>...</python>, hand in the answer with "
    '<submit>...</submit>; or the same as <tool_call>{"name": "python", "arguments": {"code": ...}}</tool_call>'
)


@dataclass(frozen=True)
class Call:
    """What the agent wants done: "python" or "submit", with a program; "" when nothing was found."""

    name: str
    code: str


def read_call(reply: str) -> Call:
    """Find the call in a reply: the last one; never raises."""
    text = reply.rpartition("</think>")[2]
    for body in reversed(_CALL.findall(text)):
        try:
            found = json.loads(body)
            name, arguments = found["name"], found["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            code = arguments["code"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if name in ("python", "submit", "code_interpreter") and isinstance(code, str):
            return Call("submit" if name == "submit" else "python", code)
    tags = _TAGS.findall(text)
    return Call(*tags[-1]) if tags else Call("", "")


def printing(code: str) -> str:
    """Print the value of a last line that is an expression, as an interactive interpreter does."""
    if not parses(code):
        return code
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        return code
    if isinstance(last.value, ast.Call) and getattr(last.value.func, "id", "") == "print":
        return code
    lines = code.split("\n")
    before = lines[: last.lineno - 1]
    if last.col_offset:  # it shares its line with another statement
        return code
    name = ast.get_source_segment(code, last.value) or ""
    return "\n".join([*before, f"print({name}\n)" if "#" in name else f"print({name})"])


def run_tool(judge: Judge, code: str, earlier: Sequence[str] = ()) -> str:
    """Run a program and tell its output.

    Args:
        judge: whose workers to use.
        code: of this call.
        earlier: cells of the episode to run before it, unseen; their output is not told.
    """
    program = printing(code)
    before = ""
    if earlier:
        cells = json.dumps(list(earlier))
        before = (
            "import io as _io, sys as _sys, json as _json; _kept = _sys.stdout; _sys.stdout = _io.StringIO()\n"
            f"for _cell in _json.loads({cells!r}): exec(compile(_cell, '<earlier>', 'exec'))\n"
            "_sys.stdout = _kept\n"
        )
    verdict = judge.run(before + program, limits=LIMITS)
    return tool_output(verdict, Program(before + program, before.count("\n")), (LIMITS.cpu, LIMITS.idle))
