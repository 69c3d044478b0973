"""What the agent reads after a turn: a function of task and program alone, 2,000 characters at most.

No paths of the host, no addresses, no frames but the program's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .extract import Program
from .sandbox.inside import plain
from .tasks import Task, Test
from .verdicts import TestResult, Verdict, told

LONGEST = 2_000
_PART = 300
_FRAMES = 3
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_PLACE = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]+")

NO_CODE = "No code was found in the reply. Put the whole program into one fenced block: ```python ... ```"


def task_text(task: Task) -> str:
    """The task as the first observation: its statement, and the public tests where it does not hold them."""
    if task.benchmark in ("mbpp", "mbpp-sanitized", "mbpp-plus", "custom") and task.public:
        shown = "\n".join(_public(task, test) for test in task.public)
        return f"{task.statement}\nIt must pass:\n{shown}"
    return task.statement


def _public(task: Task, test: Test) -> str:
    if task.kind == "asserts":
        return str(test.input).strip()
    if task.kind == "calls":
        wanted = "" if test.output is None else f" == {plain.unpack(test.output)!r}"
        return cut(call_text(task, test) + wanted, _PART)
    return f"input:\n{cut(test.input, _PART)}\noutput:\n{cut(test.output, _PART)}"


def call_text(task: Task, test: Test) -> str:
    """A test of a function as the call it makes."""
    return f"{task.entry}({', '.join(map(repr, plain.unpack(test.input)))})"


def feedback(task: Task, program: Program, verdict: Verdict) -> str:
    """Say how a program did on the public tests."""
    lines = [_headline(task, verdict)]
    failed = next((place for place, each in enumerate(verdict.tests) if each.verdict != "passed"), None)
    error = verdict.error
    if failed is not None:
        lines += _test_lines(task, task.public[failed], verdict.tests[failed])
        error = verdict.tests[failed].error
    if error:
        lines.append(f"Error: {cut(told(error), _PART)}")
        lines += _frames(error, program)
    elif verdict.verdict not in ("passed", "wrong_answer"):
        lines.append(f"Error: {cut(_limit(task, verdict), _PART)}")
    elif failed is not None and (message := verdict.tests[failed].message):
        lines.append(f"The test said: {cut(message, _PART)}")
    if task.kind != "stdin" and (printed := verdict.stdout.strip()):
        lines.append(f"Printed: {cut(printed[-_PART:], _PART)}")
    return clean("\n".join(lines))[:LONGEST]


def _headline(task: Task, verdict: Verdict) -> str:
    if verdict.verdict == "syntax_error" or (verdict.error and not verdict.tests and verdict.total):
        return "The program does not load."
    if not verdict.total:
        return "The program loads. There are no public tests." if verdict.verdict == "passed" else "It fails."
    return f"{verdict.passed} of {verdict.total} public tests passed."


def _test_lines(task: Task, test: Test, result: TestResult) -> list[str]:
    if task.kind == "asserts":
        lines = [f"Test: {cut(str(test.input).strip(), _PART)}"]
        return lines + ([f"Returned: {cut(result.got, _PART)}"] if result.got else [])
    shown = test.input.rstrip("\n") if task.kind == "stdin" else call_text(task, test)
    lines = [f"Input: {cut(shown, _PART)}"]
    expected = result.expected or (test.output or "" if task.kind == "stdin" else "")
    if task.kind == "calls" and not expected and test.output is not None:
        expected = repr(plain.unpack(test.output))
    if expected:
        lines.append(f"Expected: {cut(expected.rstrip(), _PART)}")
    if result.verdict == "wrong_answer":
        lines.append(f"Got: {cut(result.got.rstrip(), _PART) or '(nothing)'}")
    return lines


def _limit(task: Task, verdict: Verdict) -> str:
    if verdict.verdict == "time_limit":
        idle = "did nothing" in verdict.reason
        return (
            "the program waits and does nothing"
            if idle
            else f"over the limit of {task.call_cpu:g} processor seconds"
        )
    return verdict.reason or verdict.verdict.replace("_", " ")


def _frames(error: Mapping[str, Any], program: Program) -> list[str]:
    """Up to three frames of the program itself, with their lines of source."""
    source = program.text.split("\n")
    lines = []
    for place in list(error.get("frames", ()))[-_FRAMES:]:
        number, name = int(place[0]), str(place[1])
        if program.offset < number <= len(source):
            text = source[number - 1].strip()
            lines.append(f"  line {number - program.offset}, in {name}: {cut(text, 100)}")
    return lines


def cut(text: str, size: int) -> str:
    """Shorten a text in its middle, saying how many characters were left out."""
    text = text.replace("\0", " ... ")
    if len(text) <= size:
        return text
    kept = max(10, (size - 40) // 2)
    return f"{text[:kept]} ...[{len(text) - 2 * kept} characters left out]... {text[-kept:]}"


def clean(text: str) -> str:
    """Take out what differs between machines and runs: addresses, and paths of files."""
    text = _ADDRESS.sub("0x...", text)
    text = _PLACE.sub(lambda found: "<path>/" + found[0].rpartition("/")[2], text)
    return text.encode("utf-8", "replace").decode("utf-8")


def tool_output(verdict: Verdict, program: Program, limits: Sequence[float]) -> str:
    """What a run of the Python tool shows: output, then the error."""
    parts = [cut(verdict.stdout.rstrip(), LONGEST - 400)] if verdict.stdout.strip() else []
    if verdict.error:
        parts.append(
            "\n".join([f"Error: {cut(told(verdict.error), _PART)}", *_frames(verdict.error, program)])
        )
    elif verdict.verdict == "time_limit":
        parts.append(
            f"Error: stopped after {limits[0]:g} processor seconds, or {limits[1]:g} seconds of waiting"
        )
    elif verdict.verdict != "passed":
        parts.append(f"Error: {cut(verdict.reason, _PART)}")
    return clean("\n".join(parts))[:LONGEST] or "(no output)"
