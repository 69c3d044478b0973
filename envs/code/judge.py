"""Judges programs: a pool of warm workers, the three kinds of tests, retries of broken infrastructure.

Leaves out isolation (`sandbox`), what the verdicts are called (`verdicts`) and where tasks come from (`formats`).
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .sandbox import (
    Limits,
    Outcome,
    Sandbox,
    SandboxFailure,
    Worker,
    choose,
    open_worker,
    run_script,
    run_tests,
)
from .sandbox.inside.compare import stdout_equal
from .tasks import Task, Test
from .verdicts import TestResult, Verdict, cause, death, first_failure, told

_PROGRAMS_PER_WORKER = 10_000
_BYTES_PER_WORKER = 512 << 20
_PROGRAMS_BETWEEN_LOOKS = 16
_WARM_FAILURES = 2


class _Slot:
    """One worker, and a second one with the packages loaded once a program mentions them."""

    def __init__(self) -> None:
        self.workers: dict[bool, Worker] = {}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


class Judge:
    """Judges programs, several at a time. Thread-safe; made for one process (`shared` gives each its own)."""

    def __init__(self, sandbox: Sandbox | None = None, workers: int = 1) -> None:
        """Prove the isolation; workers start when they are needed.

        Raises: NoIsolation: none holds here.
        """
        self.sandbox = sandbox or Sandbox()
        self.proof = choose(self.sandbox)
        self._free = [_Slot() for _ in range(workers)]
        self._all = list(self._free)
        self._changed = threading.Condition()
        self._expected: dict[str, tuple[list[Any], list[float]]] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """What may move a verdict: way, interpreter, packages, version of Landlock, limits that were clamped."""
        return {"isolation": self.proof.way, **self.proof.facts}

    @property
    def label(self) -> str:
        """The facts in a few words, such as "root, Python 3.11.7, numpy 2.4.6"."""
        packages = [f"{name} {version}" for name, version in self.proof.facts.get("packages", {}).items()]
        return ", ".join([self.proof.way, f"Python {self.proof.facts.get('python', '?')}", *packages])

    def close(self) -> None:
        """End all workers."""
        for slot in self._all:
            slot.close()

    # --- verdicts ---

    def judge(self, task: Task, code: str, tests: Sequence[Test], *, stop: bool = True) -> Verdict:
        """Run a program on tests of its task.

        Args:
            task: whose tests they are.
            code: the whole program.
            tests: some or all of the task's.
            stop: leave after the first test that fails.
        """
        if not code.strip():
            return Verdict("no_code", "there is no program", total=len(tests), judging=task.judging)
        if task.kind == "stdin":
            return self._scripts(task, code, tests, stop)
        limits = Limits(cpu=task.cpu, call_cpu=task.call_cpu)
        order: dict[str, Any] = {"stop": stop}
        if task.kind == "asserts":
            kind = "within" if task.within else "asserts"
            texts = [test.input for test in tests]
            order |= {"kind": kind, "setup": task.setup, "names": task.names, "tests": texts}
        else:
            expected = [test.output for test in tests]
            if any(value is None for value in expected):
                expected, seconds = self.expected(task, tests)
                if task.reference_times:
                    limits = _times(task, seconds)
            inputs = [test.input for test in tests]
            order |= {
                "kind": "calls",
                "entry": task.entry,
                "inputs": inputs,
                "expected": expected,
                "rule": task.rule,
            }
        outcome = self._tests(task, code, order, limits)
        return _tested(task, outcome, len(tests))

    def run(
        self, code: str, stdin: str = "", *, limits: Limits | None = None, prelude: bool = False
    ) -> Verdict:
        """Run a program for its output alone."""
        limits = limits or Limits()
        outcome = self._script(code, stdin, limits, prelude)
        found = cause(outcome)
        verdict, reason, error = found or ("passed", "", None)
        if found is None and (left := _exit_code(outcome)):
            verdict, reason = "runtime_error", f"left with status {left}"
        return Verdict(verdict, reason, error=error, **_figures(outcome))

    def expected(self, task: Task, tests: Sequence[Test]) -> tuple[list[Any], list[float]]:
        """Packed values that the reference returns, and the processor seconds it took; kept for the next program.

        Raises: SandboxFailure: the reference does not come to its end.
        """
        if task.id not in self._expected:
            inputs = [test.input for test in task.tests]
            order = {
                "kind": "calls",
                "entry": task.entry,
                "inputs": inputs,
                "expected": None,
                "rule": task.rule,
                "stop": True,
            }
            outcome = self._tests(task, task.reference, order, Limits(cpu=120, call_cpu=60))
            values = [each.get("value", _MISSING) for each in outcome.results if each["verdict"] == "passed"]
            if len(values) != len(inputs):
                failed = outcome.results[-1] if outcome.results else {}
                told = failed.get("error") or outcome.load or outcome.reason
                raise SandboxFailure(f"the reference solution of {task.id} does not run: {told}")
            self._expected[task.id] = values, [each["cpu"] for each in outcome.results]
        values, seconds = self._expected[task.id]
        places = {id(test): place for place, test in enumerate(task.tests)}
        chosen = [places[id(test)] for test in tests]
        return [values[place] for place in chosen], [seconds[place] for place in chosen]

    # --- runs ---

    def _tests(self, task: Task, code: str, order: Mapping[str, Any], limits: Limits) -> Outcome:
        job = {"mode": "calls", "code": code, "prelude": task.prelude, "solution_class": task.solution_class}
        return self._retried(code, lambda worker: run_tests(worker, job, order, limits))

    def _script(self, code: str, stdin: str, limits: Limits, prelude: bool) -> Outcome:
        job = {"mode": "script", "code": code, "prelude": prelude}
        data = stdin.encode("utf-8", "surrogatepass")
        return self._retried(code, lambda worker: run_script(worker, job, data, limits))

    def _scripts(self, task: Task, code: str, tests: Sequence[Test], stop: bool) -> Verdict:
        results: list[TestResult] = []
        worst: dict[str, Any] = {"cpu": 0.0, "rss": 0, "stdout": "", "stderr": ""}
        for test in tests:
            limits = Limits(
                cpu=task.cpu, stdout=(1 << 20) + len(test.output.encode("utf-8", "surrogatepass"))
            )
            outcome = self._script(code, test.input, limits, task.prelude)
            figures = _figures(outcome)
            worst = figures | {"cpu": worst["cpu"] + figures["cpu"], "rss": max(worst["rss"], figures["rss"])}
            results.append(_printed(outcome, test))
            if stop and results[-1].verdict != "passed":
                break
        return _summed(task, results, len(tests), worst)

    def _retried(self, code: str, run: Callable[[Worker], Outcome]) -> Outcome:
        """Run on a warm worker, and once more on a fresh one if the sandbox broke; never blame the program."""
        reason = ""
        for _attempt in range(_WARM_FAILURES):
            with self._slot() as slot:
                try:
                    worker = self._worker(slot, self._wants_packages(code))
                    outcome = run(worker)
                except SandboxFailure as error:
                    reason = str(error)
                    slot.close()
                    continue
                if outcome.stopped != "infrastructure":
                    return outcome
                reason = outcome.reason
                slot.close()
        return Outcome(stopped="infrastructure", reason=f"twice: {reason}")

    def _wants_packages(self, code: str) -> bool:
        return any(name in code for name in self.sandbox.packages)

    def _worker(self, slot: _Slot, preload: bool) -> Worker:
        worker = slot.workers.get(preload)
        if worker is not None and _worn(worker):
            worker.close()
            worker = None
        if worker is None:
            worker = slot.workers[preload] = open_worker(self.sandbox, self.proof.way, preload=preload)
        return worker

    @contextmanager
    def _slot(self) -> Iterator[_Slot]:
        with self._changed:
            while not self._free:
                self._changed.wait()
            slot = self._free.pop()
        try:
            yield slot
        finally:
            with self._changed:
                self._free.append(slot)
                self._changed.notify()


def _worn(worker: Worker) -> bool:
    """Whether a worker has served its time, or its standing processes have grown: large values leave holes behind."""
    if worker.served >= _PROGRAMS_PER_WORKER:
        return True
    return worker.served % _PROGRAMS_BETWEEN_LOOKS == 0 and worker.memory() > _BYTES_PER_WORKER


_MISSING = object()


_judges: dict[tuple[Sandbox, int, int], Judge] = {}
_lock = threading.Lock()


def shared(sandbox: Sandbox, workers: int) -> Judge:
    """The judge of this process for a sandbox; the first call proves the isolation.

    Raises: NoIsolation: none holds here.
    """
    key = (sandbox, workers, os.getpid())
    with _lock:
        if key not in _judges:
            if not _judges:
                atexit.register(close_shared)
            _judges[key] = Judge(sandbox, workers)
        return _judges[key]


def close_shared() -> None:
    """End the workers of all shared judges of this process."""
    with _lock:
        for (_, _, pid), judge in _judges.items():
            if pid == os.getpid():
                judge.close()
        _judges.clear()


def _times(task: Task, seconds: Sequence[float]) -> Limits:
    """EvalPlus's limits: four times the reference for each input, at least one second; one minute for all."""
    each = [max(task.call_cpu, 4 * second) for second in seconds]
    return Limits(cpu=min(60.0, sum(each)) + 1, call_cpu=max(each, default=task.call_cpu))


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "cpu": round(outcome.cpu, 4),
        "rss": outcome.rss,
        "stdout": outcome.stdout.decode("utf-8", "replace"),
        "stderr": outcome.stderr.decode("utf-8", "replace"),
    }


def _tested(task: Task, outcome: Outcome, total: int) -> Verdict:
    """Put the results of the tester and the end of the program into one verdict."""
    results = [
        TestResult(
            each["verdict"],
            each.get("cpu", 0.0),
            each.get("got", ""),
            each.get("expected", ""),
            each.get("message", ""),
            each.get("error"),
        )
        for each in outcome.results
    ]
    found = cause(outcome)
    if found is not None:
        # Results of a program that did not come through say only that it was gone.
        verdict, reason, error = found
        kept = tuple(result for result in results if result.verdict in ("passed", "wrong_answer"))
        return Verdict(verdict, reason, kept, total, task.judging, error=error, **_figures(outcome))
    whole = _summed(task, results, total, _figures(outcome))
    died = death(outcome)
    return (
        replace(whole, reason=died) if died and whole.reason == "left before the tests were done" else whole
    )


def _summed(task: Task, results: Sequence[TestResult], total: int, figures: Mapping[str, Any]) -> Verdict:
    failed = first_failure(results)
    verdict, reason, error = "passed", "", None
    if failed is not None:
        verdict, error = failed.verdict, failed.error
        reason = told(error) if error else failed.message or failed.verdict.replace("_", " ")
    elif len(results) < total:
        verdict, reason = "runtime_error", "left before the tests were done"
    return Verdict(verdict, reason, tuple(results), total, task.judging, error=error, **figures)


def _printed(outcome: Outcome, test: Test) -> TestResult:
    """Judge what one run printed."""
    found = cause(outcome)
    if found is not None:
        verdict, reason, error = found
        return TestResult(verdict, outcome.cpu, rss=outcome.rss, message=reason, error=error)
    if left := _exit_code(outcome):
        return TestResult("runtime_error", outcome.cpu, rss=outcome.rss, message=f"left with status {left}")
    got = outcome.stdout.decode("utf-8", "replace")
    if stdout_equal(got, test.output):
        return TestResult("passed", outcome.cpu, rss=outcome.rss)
    return TestResult("wrong_answer", outcome.cpu, rss=outcome.rss, got=got, expected=test.output)


def _exit_code(outcome: Outcome) -> int:
    """Exit status of a script that left behind the interpreter's back; 0 for one that ended."""
    if outcome.ended or outcome.status is None or not os.WIFEXITED(outcome.status):
        return 0
    return os.WEXITSTATUS(outcome.status)
