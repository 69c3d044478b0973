"""Judges files of programs without a model: what `agentbench judge` does. Leaves out words and printing."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentbench.errors import CorruptData, UsageError
from agentbench.runs.files import Lines, read_lines
from agentbench.runs.stats import Estimate, bootstrap_mean, pass_at_k

from .extract import MODES, extract, parses
from .formats import Record, read_records, read_tasks
from .judge import Judge
from .observe import clean
from .sandbox import Sandbox, survey
from .tasks import Task
from .verdicts import TestResult, Verdict, first_failure, told

RULES = "code-1"
EXTRACTIONS = ("auto", "none", *MODES)

Progress = Callable[[int, int, str], None]
Key = tuple[str, int]


@dataclass(frozen=True)
class Graded:
    """Numbers of a finished file of verdicts.

    Attributes:
        verdicts: how often each verdict was given.
        rates: k -> pass@k over tasks, with its interval; infrastructure verdicts are left out.
        missing: tasks without a program; they count as failed.
    """

    verdicts: Mapping[str, int]
    rates: Mapping[int, Estimate]
    tasks: int
    missing: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> int:
        """Programs that got no verdict because the sandbox broke."""
        return self.verdicts.get("infrastructure", 0)


def grade(
    tasks: Path,
    solutions: Path,
    output: Path,
    *,
    sandbox: Sandbox | None = None,
    workers: int = 2,
    extraction: str = "auto",
    ks: Sequence[int] = (1,),
    resume: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Graded:
    """Judge every program of a file and write one line for each as it is done.

    Args:
        tasks: JSON lines or list, any format of `formats`.
        solutions: lines with `task_id` and `solution` (a whole program) or `completion` (continues the prompt).
        output: lines with task_id, sample, verdict, reason and figures; see docs/code.md.
        sandbox: isolation, interpreter and packages.
        workers: programs judged at the same time.
        extraction: "none" takes texts as they are, "auto" looks for code only in texts that do not parse.
        ks: pass@k to compute; each needs k programs for every task that has any.
        resume: keep what `output` holds already.
        progress: told after each program.
    Raises: UsageError, CorruptData: files or options do not fit; NoIsolation: programs cannot be run here.
    """
    if extraction not in EXTRACTIONS:
        raise UsageError(f"no extraction {extraction!r}; known: {', '.join(EXTRACTIONS)}")
    known = {task.id: task for task in read_tasks(tasks)}
    samples = list(_samples(read_records(solutions), known, solutions))
    counts = Counter(task_id for (task_id, _), _ in samples)
    fewest = min(counts.values(), default=0)
    for k in ks:
        if not 1 <= k <= fewest:
            raise UsageError(
                f"pass@{k} needs {k} programs for each task; the fewest that a task has is {fewest}"
            )
    done = _done(output, resume, known)
    judge = Judge(sandbox, workers)
    facts = {**judge.facts, "rules": RULES}
    lines = Lines(output)
    try:
        left = [(key, record) for key, record in samples if done.get(key, {}).get("program") != _hash(record)]
        judged = len(samples) - len(left)
        progress(judged, len(samples), "programs")
        for key, verdict in _judged(judge, known, left, extraction, workers):
            line = verdict | {"isolation": facts["isolation"], "python": facts.get("python"), "rules": RULES}
            line |= {"packages": facts.get("packages", {}), "landlock": facts.get("abi", 0)}
            lines.append(line)
            done[key] = line
            judged += 1
            progress(judged, len(samples), "programs")
    finally:
        lines.close()
        judge.close()
    final = {key: done[key] for key, _ in samples}
    return _numbers(final, known, ks, facts)


def _samples(
    records: Sequence[Record], known: Mapping[str, Task], path: Path
) -> Iterator[tuple[Key, Record]]:
    """Number the programs of each task in their order."""
    seen: Counter[str] = Counter()
    for place, record in enumerate(records, 1):
        name = str(record.get("task_id", record.get("question_id", "")))
        if name not in known:
            raise UsageError(f"{path}, entry {place}: no task {name!r} in the file of tasks")
        if not isinstance(record.get("solution", record.get("completion")), str):
            raise CorruptData(f"{path}, entry {place}: needs the text 'solution' or 'completion'")
        yield (name, seen[name]), record
        seen[name] += 1


def _done(output: Path, resume: bool, known: Mapping[str, Task]) -> dict[Key, dict[str, Any]]:
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent} to write {output.name} into")
    if not output.exists():
        return {}
    if not resume:
        raise UsageError(f"{output} is there already; --resume goes on with it, another name starts anew")
    Lines(output).close()  # cuts a line that a kill has torn
    found = {}
    for number, line in read_lines(output):
        try:
            key = (str(line["task_id"]), int(line["sample"]))
            if line["rules"] == RULES and key[0] in known and line["verdict"] != "infrastructure":
                found[key] = line
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(f"{output} line {number} is no verdict: {error!r}") from error
    return found


def _judged(
    judge: Judge, known: Mapping[str, Task], left: Sequence[tuple[Key, Record]], extraction: str, workers: int
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Judge several at a time; what is finished first comes first."""
    queue = iter(left)
    running: dict[Future[dict[str, Any]], Key] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < 2 * workers and (item := next(queue, None)) is not None:
                    key, record = item
                    running[pool.submit(_line, judge, known[key[0]], key, record, extraction)] = key
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


def _line(judge: Judge, task: Task, key: Key, record: Record, extraction: str) -> dict[str, Any]:
    code, how = _program(record, task, extraction)
    verdict = judge.judge(task, code, task.tests)
    return {
        "task_id": key[0],
        "sample": key[1],
        **_told(verdict),
        "extraction": how,
        "program": _hash(record),
    }


def _program(record: Record, task: Task, extraction: str) -> tuple[str, str]:
    """The text to run, and how it was found."""
    whole = record.get("solution")
    text = whole if isinstance(whole, str) else task.starter + record["completion"]
    if extraction == "none" or (extraction == "auto" and (parses(text) or "```" not in text)):
        return text, "none"
    mode = "agentbench@1" if extraction == "auto" else extraction
    return extract(whole if isinstance(whole, str) else record["completion"], task, mode).text, mode


def _hash(record: Record) -> str:
    text = record.get("solution", record.get("completion", ""))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _told(verdict: Verdict) -> dict[str, Any]:
    failed = first_failure(verdict.tests)
    told_error = told(verdict.error) if verdict.error else ""
    line = {
        "verdict": verdict.verdict,
        "reason": clean(told_error or verdict.reason)[:300],
        "passed": verdict.passed,
        "total": verdict.total,
        "judging": verdict.judging,
        "cpu_seconds": verdict.cpu,
        "memory_bytes": verdict.rss,
        "tests": [_test(each) for each in verdict.tests],
    }
    if failed is not None:
        line["failed_test"] = verdict.tests.index(failed)
    if failed is not None and failed.verdict == "wrong_answer" and (failed.got or failed.expected):
        line |= {"got": clean(failed.got)[:300], "expected": clean(failed.expected)[:300]}
    return line


def _test(result: TestResult) -> dict[str, Any]:
    line: dict[str, Any] = {"verdict": result.verdict, "cpu_seconds": round(result.cpu, 4)}
    if result.rss:
        line["memory_bytes"] = result.rss
    if result.verdict != "passed":
        line["reason"] = clean(told(result.error) if result.error else result.message)[:300]
    return line


def _numbers(
    lines: Mapping[Key, Mapping[str, Any]],
    known: Mapping[str, Task],
    ks: Sequence[int],
    facts: Mapping[str, Any],
) -> Graded:
    tries: dict[str, list[bool]] = defaultdict(list)
    for (task_id, _), line in lines.items():
        if line["verdict"] != "infrastructure":
            tries[task_id].append(line["verdict"] == "passed")
    missing = len(known) - len({task_id for task_id, _ in lines})
    rates = {}
    for k in ks:
        each = [pass_at_k(len(won), sum(won), k) for won in tries.values() if len(won) >= k]
        each += [0.0] * missing
        rates[k] = bootstrap_mean(each) if each else Estimate(math.nan, math.nan, math.nan, 0)
    return Graded(Counter(str(line["verdict"]) for line in lines.values()), rates, len(known), missing, facts)


def isolation() -> list[dict[str, Any]]:
    """Try every way of isolation, for `agentbench doctor`: way, why it does not hold ("" when it does), facts."""
    return [{"way": proof.way, "reason": proof.reason, **proof.facts} for proof in survey(Sandbox())]


class CodeJudge:
    """The plug-in of `agentbench judge` (entry-point group `agentbench.judges`)."""

    grade = staticmethod(grade)
    isolation = staticmethod(isolation)
    sandbox = Sandbox


JUDGE = CodeJudge()
