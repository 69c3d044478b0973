"""What a task is: a statement, tests of one kind, the rule that compares, limits, and a reference solution."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("stdin", "calls", "asserts")
"""How a program is judged: by what it prints, by what its function returns, by the benchmark's own test text."""


@dataclass(frozen=True)
class Test:
    """One test.

    Attributes:
        input: text for standard input; packed argument list; or the text of a test.
        output: expected text; packed expected value, None where the reference has to say; unused for texts.
    """

    __test__ = False  # not one of pytest's

    input: Any
    output: Any = None


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id: benchmark's own, such as "HumanEval/0".
        benchmark: name of the benchmark; stratum of reports where `stratum` is "".
        statement: what the agent reads.
        kind: one of `KINDS`.
        entry: function that is called; "" for programs that read and print.
        starter: text that a reply may continue: HumanEval's prompt.
        prelude: load LiveCodeBench's imports before the program.
        solution_class: the function is a method of `Solution` where there is one.
        setup: texts that the tester runs before the tests; the names of the program replace what they define.
        names: names in the tests that stand for the program's.
        public: tests that are shown and feed back; `hidden` never repeat their inputs.
        final: the benchmark's own tests, all of which make a success; where nothing else is said, public and hidden.
        rule: how values are compared, as `sandbox.inside.tester` takes it.
        reference: a whole solution; "" where there is none.
        cpu: processor seconds of the whole program; `call_cpu` of one test. Those of the benchmark's own grader.
        reference_times: one test may take four times what the reference takes, but `call_cpu` at least.
        within: the tests use classes of the program, so they run in its process, where a program can forge them.
        defect: why the task is in no split, though a file of programs may be judged by it; "" for sound ones.
    """

    id: str
    benchmark: str
    statement: str
    kind: str
    entry: str = ""
    starter: str = ""
    prelude: bool = False
    solution_class: bool = False
    setup: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    public: tuple[Test, ...] = ()
    hidden: tuple[Test, ...] = ()
    final: tuple[Test, ...] = ()
    rule: Mapping[str, Any] = field(default_factory=lambda: {"name": "equal"}, hash=False)
    reference: str = ""
    cpu: float = 10.0
    call_cpu: float = 10.0
    reference_times: bool = False
    stratum: str = ""
    within: bool = False
    defect: str = ""

    @property
    def tests(self) -> tuple[Test, ...]:
        """The tests that decide."""
        return self.final or self.public + self.hidden

    @property
    def judging(self) -> str:
        """How verdicts come about, for the records."""
        if self.within:
            return "tests, same interpreter"
        return {"stdin": "stdout", "calls": "calls, two processes", "asserts": "tests, two processes"}[
            self.kind
        ]


def program_names(texts: Sequence[str], setup: Sequence[str] = (), reference: str = "") -> tuple[str, ...]:
    """Names that test texts read but nothing defines: they are the program's.

    A builtin's name is the program's only where the reference defines it too (Mbpp/126 asks for a function `sum`).
    """
    read: list[str] = []
    bound: set[str] = set(vars(builtins)) - functions(reference)
    for text in (*setup, *texts):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    read.append(node.id)
                else:
                    bound.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {(each.asname or each.name).partition(".")[0] for each in node.names}
    return tuple(dict.fromkeys(name for name in read if name not in bound))


def functions(program: str) -> set[str]:
    """Names of the functions that a program defines at its top level; none where it cannot be read."""
    try:
        return {node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)}
    except (SyntaxError, ValueError):
        return set()


def library_imports(program: str) -> str:
    """The plain imports of standard modules at the top of a trusted program, for tests that lean on them."""
    lines = []
    for node in ast.parse(program).body:
        if isinstance(node, ast.Import) and all(
            each.name.partition(".")[0] in sys.stdlib_module_names for each in node.names
        ):
            lines.append(ast.unparse(node))
    return "\n".join(lines)
