"""Reads benchmark files as they are published into tasks, and the two custom forms. Judges nothing.

Known by their keys: HumanEval, EvalPlus (HumanEval+ and MBPP+), MBPP, sanitized MBPP, LiveCodeBench; and custom tasks:
`{"task_id", "tests": ["assert f(1) == 2", ...]}` and `{"task_id", "tests": [{"input": "2 3", "output": "5"}, ...]}`.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentbench.errors import CorruptData, UsageError

from .sandbox.inside import plain
from .tasks import Task, Test, functions, library_imports, program_names

Record = Mapping[str, Any]

DEFECTS: dict[str, str] = {
    "mbpp/367": "the tests use Node, which only the solution defines",
    "mbpp/927": "the tests use Node, which only the solution defines",
    "mbpp/601": "the tests pass objects of Pair, a class of the solution",
}
"""Tasks in no split, by benchmark and number, and why. Their tests run in the process of the program."""

NOTES: dict[str, str] = {
    "humaneval/47": "one example of the docstring is wrong (15.0 for a median of 8.0) and is no public test",
    "mbpp/596": "the tests use sys, which only the solution imports: the tester imports it",
    "mbpp-plus/255": "inputs whose answer has more than 200,000 parts are left out (the largest takes 121 MB)",
    "humaneval-plus/32": "two inputs are left out on which the reference itself is off by more than 1",
}
"""Tasks that are judged in part, or with help, and how."""

# Not the doctest module: it loads a debugger, and finds a module of another name beside a script.
_EXAMPLE = re.compile(r"^[ \t]*>>> (.*)\n((?:[ \t]*(?!>>>|\"\"\"|''')\S.*\n)+)", re.MULTILINE)
_WRONG_EXAMPLES = ("median([-10, 4, 6, 1000, 10, 20])",)
_PARTS = 200_000
_UNSOLVED = ("[[1, -1, 0, 32]]", "[[-20, 156, -864, 2667, -4392, 3744, -1440, 79]]")


def read_records(path: Path) -> list[Record]:
    """Read JSON lines, or one JSON list.

    Raises: CorruptData: the file holds something else.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise CorruptData(f"{path} cannot be read as text: {error}") from error
    records: list[Any] = []
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise CorruptData(f"{path} is no JSON ({error})") from error
    for place, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise CorruptData(f"{path}: entry {place} must be an object, found {type(record).__name__}")
    return records


def kind_of(record: Record) -> str:
    """Tell a record's format by its keys.

    Raises: CorruptData: it is none of those known.
    """
    keys = record.keys()
    if "plus_input" in keys:
        return "evalplus"
    if "question_id" in keys and "public_test_cases" in keys:
        return "livecodebench"
    if "tests" in keys:
        return "custom"
    if "test" in keys and "entry_point" in keys:
        return "humaneval"
    if "test_list" in keys:
        return "mbpp" if "text" in keys else "sanitized"
    raise CorruptData(
        f"a task with the keys {', '.join(sorted(keys)) or 'none'} is of no known format: expected HumanEval (test, "
        "entry_point), EvalPlus (plus_input), MBPP (test_list), LiveCodeBench (question_id, public_test_cases) or a "
        "custom task (tests)"
    )


def read_task(record: Record) -> Task:
    """Make a task out of one record.

    Raises: CorruptData: a key is missing or of the wrong kind; the message names the task.
    """
    kind = kind_of(record)
    name = record.get("task_id", record.get("question_id", "?"))
    try:
        return _READERS[kind](record)
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise CorruptData(f"task {name!r} ({kind}) is broken: {type(error).__name__}: {error}") from error


def read_tasks(path: Path) -> list[Task]:
    """Read a whole file.

    Raises: CorruptData: it is broken. UsageError: two tasks share an id.
    """
    tasks = [read_task(record) for record in read_records(path)]
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise UsageError(f"{path}: the task {task.id!r} occurs twice; ids must be unique")
        seen.add(task.id)
    if not tasks:
        raise CorruptData(f"{path} holds no tasks")
    return tasks


def fingerprint(record: Record) -> str:
    """Eight hex digits of a record's content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


# --- HumanEval and MBPP: the benchmark's own test text ---


def _humaneval(record: Record) -> Task:
    prompt, entry = record["prompt"], record["entry_point"]
    examples = doc_examples(prompt, entry)
    public = tuple(Test(f"assert {call} == {value}") for call, value in examples)
    final = Test(f"{record['test']}\ncheck({entry})\n")
    hidden = _without(record["test"], [call for call, _ in examples])
    return Task(
        id=str(record["task_id"]),
        benchmark="humaneval",
        statement=prompt,
        kind="asserts",
        entry=entry,
        starter=prompt,
        setup=(prompt,),
        names=(entry,),
        public=public,
        hidden=(Test(f"{hidden}\ncheck({entry})\n"),),
        final=(final,),
        reference=prompt + record.get("canonical_solution", "") if "canonical_solution" in record else "",
        cpu=3.0,
        call_cpu=3.0,
    )


def doc_examples(prompt: str, entry: str) -> list[tuple[str, str]]:
    """Calls of a function and their literal results, out of the `>>>` examples of its docstring."""
    found = []
    for match in _EXAMPLE.finditer(prompt):
        try:
            call = ast.parse(match[1].strip(), mode="eval").body
            value = ast.literal_eval(match[2].strip())
            if not isinstance(call, ast.Call) or call.keywords or not isinstance(call.func, ast.Name):
                continue
            for argument in call.args:
                ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            continue
        if call.func.id == entry and ast.unparse(call) not in _WRONG_EXAMPLES:
            found.append((ast.unparse(call), repr(value)))
    return list(dict.fromkeys(found))


def _without(test: str, calls: Sequence[str]) -> str:
    """The test text without the assertions about the calls that are public."""
    tree = ast.parse(test)
    public = {ast.dump(ast.Tuple(_call(call).args, ast.Load())) for call in calls}

    class Drop(ast.NodeTransformer):
        def visit_Assert(self, node: ast.Assert) -> ast.stmt:
            for part in ast.walk(node.test):
                candidate = isinstance(part, ast.Call) and getattr(part.func, "id", "") == "candidate"
                if candidate and ast.dump(ast.Tuple(part.args, ast.Load())) in public:  # type: ignore[attr-defined]
                    return ast.Pass()
            return node

    return ast.unparse(ast.fix_missing_locations(Drop().visit(tree)))


def _call(text: str) -> ast.Call:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    return call


def _mbpp(record: Record) -> Task:
    return _asserted(record, "mbpp", record["text"], [record.get("test_setup_code", "")])


def _sanitized(record: Record) -> Task:
    return _asserted(record, "mbpp-sanitized", record["prompt"], ["\n".join(record.get("test_imports", ()))])


def _asserted(record: Record, benchmark: str, text: str, setup: Sequence[str]) -> Task:
    code = record.get("code", "")
    before = [*setup, _imports(code)]
    tests = tuple(Test(each) for each in record["test_list"])
    names = program_names([test.input for test in tests], before, code)
    number = f"mbpp/{record['task_id']}"
    return Task(
        id=str(record["task_id"]),
        benchmark=benchmark,
        statement=text.strip(),
        kind="asserts",
        entry=_entry(code, names),
        setup=tuple(before),
        names=names,
        public=tests[:1],
        hidden=tests[1:],
        reference=code,
        within=number in DEFECTS,
        defect=DEFECTS.get(number, ""),
    )


def _imports(code: str) -> str:
    try:
        return library_imports(code)
    except SyntaxError:
        return ""


def _entry(code: str, names: Sequence[str]) -> str:
    """The tested function: a name of the tests that the solution defines; without a solution, the last one called."""
    defined = functions(code)
    return next((name for name in names if name in defined), names[-1] if names else "")


# --- EvalPlus: argument lists, the reference says what is right ---


def _evalplus(record: Record) -> Task:
    mbpp = str(record["task_id"]).lower().startswith("mbpp")
    entry, prompt = record["entry_point"], record["prompt"]
    texts = dict.fromkeys([*record["base_input"], *record["plus_input"]])
    inputs = [ast.literal_eval(text) for text in texts if entry != "find_zero" or text not in _UNSOLVED]
    if entry == "combinations_colors":
        inputs = [each for each in inputs if _combined(*each) <= _PARTS]
    final = tuple(Test(plain.pack(list(value))) for value in inputs)
    if mbpp:
        public: tuple[Test, ...] = final[:1]
    else:
        examples = doc_examples(prompt, entry)
        public = tuple(
            Test(
                plain.pack([ast.literal_eval(each) for each in _call(call).args]),
                plain.pack(ast.literal_eval(value)),
            )
            for call, value in examples
        )
    shown = [test.input for test in public]
    return Task(
        id=str(record["task_id"]),
        benchmark="mbpp-plus" if mbpp else "humaneval-plus",
        statement=_docstring(prompt) if mbpp else prompt,
        kind="calls",
        entry=entry,
        starter="" if mbpp else prompt,
        public=public,
        hidden=tuple(test for test in final if test.input not in shown),
        final=final,
        rule={
            "name": "evalplus",
            "dataset": "mbpp" if mbpp else "humaneval",
            "entry_point": entry,
            "atol": record.get("atol") or 0,
            "compatible": False,
        },
        reference=record["canonical_solution"] if mbpp else prompt + record["canonical_solution"],
        cpu=61.0,
        call_cpu=1.0,
        reference_times=True,
    )


def _combined(items: Any, count: Any) -> int:
    """How many parts the answer of `combinations_colors` has: combinations with repetition, each of `count` items."""
    return math.comb(len(items) + count - 1, count) * (count + 1) if items and count > 0 else 1


def _docstring(prompt: str) -> str:
    """MBPP+ prompts are one docstring."""
    return prompt.strip().strip("'\"").strip()


# --- LiveCodeBench ---


def _livecodebench(record: Record) -> Task:
    cases = record["public_test_cases"]
    cases = json.loads(cases) if isinstance(cases, str) else cases
    metadata = record.get("metadata") or "{}"
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    functional = cases[0]["testtype"] == "functional"
    read = _functional if functional else _stdin
    tests = tuple(read(case["input"], case["output"]) for case in cases)
    starter = record.get("starter_code", "")
    return Task(
        id=str(record["question_id"]),
        benchmark="livecodebench",
        statement=record["question_content"].strip()
        + (f"\n\nStart from:\n{starter.rstrip()}" if starter else ""),
        kind="calls" if functional else "stdin",
        entry=metadata["func_name"] if functional else "",
        prelude=True,
        solution_class=functional,
        public=tests[:1],
        hidden=_unlike(tests[:1], tests[1:]),
        final=tests,
        rule={"name": "lcb"},
        cpu=6.0 * (len(tests) + 1) if functional else 6.0,
        call_cpu=6.0,
        stratum=record.get("difficulty", ""),
    )


def _functional(given: str, wanted: str) -> Test:
    return Test(
        plain.pack([json.loads(line) for line in given.split("\n") if line.strip()]),
        plain.pack(json.loads(wanted)),
    )


def _stdin(given: str, wanted: str) -> Test:
    return Test(given, wanted)


def _unlike(shown: Sequence[Test], tests: Sequence[Test]) -> tuple[Test, ...]:
    """Tests whose input is not shown already."""
    known = [test.input for test in shown]
    return tuple(test for test in tests if test.input not in known)


# --- custom ---


def _custom(record: Record) -> Task:
    tests, task_id = record["tests"], str(record["task_id"])
    if not isinstance(tests, list) or not tests:
        raise ValueError("'tests' must be a list that is not empty")
    cpu = float(record.get("cpu_seconds", 10.0))
    if isinstance(tests[0], str):
        setup = tuple(filter(None, [record.get("setup", "")]))
        given = record.get("reference", "")
        named = [record["entry_point"]] if "entry_point" in record else program_names(tests, setup, given)
        return Task(
            id=task_id,
            benchmark="custom",
            statement=record.get("prompt", ""),
            kind="asserts",
            entry=named[0] if named else "",
            setup=setup,
            names=tuple(dict.fromkeys([*named, *program_names(tests, setup)])),
            public=tuple(Test(each) for each in tests[:1]),
            hidden=tuple(Test(each) for each in tests[1:]),
            reference=record.get("reference", ""),
            cpu=cpu,
            call_cpu=cpu,
        )
    cases = tuple(Test(str(each["input"]), str(each["output"])) for each in tests)
    return Task(
        id=task_id,
        benchmark="custom",
        statement=record.get("prompt", ""),
        kind="stdin",
        prelude=bool(record.get("prelude", False)),
        public=cases[:1],
        hidden=_unlike(cases[:1], cases[1:]),
        final=cases,
        reference=record.get("reference", ""),
        cpu=cpu,
        call_cpu=cpu,
    )


_READERS: dict[str, Callable[[Record], Task]] = {
    "humaneval": _humaneval,
    "evalplus": _evalplus,
    "mbpp": _mbpp,
    "sanitized": _sanitized,
    "livecodebench": _livecodebench,
    "custom": _custom,
}


def numbered(records: Sequence[Record], prefix: str) -> Iterator[tuple[str, Record]]:
    """Give records ids that say benchmark, number and content: "mbpp/1@0a1b2c3d"."""
    for record in records:
        name = str(record.get("task_id", record.get("question_id"))).rpartition("/")[2]
        yield f"{prefix}/{name}@{fingerprint(record)}", record
