"""Measures the sandbox and the judge: four comparisons with a process per program, start-up, memory, several workers.

    python benchmarks/code.py                      # HumanEval(+) where it was imported, generated tasks elsewhere
    python benchmarks/code.py --programs 40 --output FILE

Times are processor milliseconds of everything that takes part (this process, the sandbox, the child processes), which a
busy machine slows only through its caches; wall times are given beside them. The four comparisons are kept apart:
a process per test input, anything that imports numpy, `python` of this environment per program, `python -I -S` per
program. Every comparison runs the same programs and tests, and its processes have no isolation at all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentbench.envs.code import dataset
from agentbench.envs.code.judge import Judge
from agentbench.envs.code.observe import call_text
from agentbench.envs.code.sandbox import Sandbox
from agentbench.envs.code.sandbox.inside import plain
from agentbench.envs.code.tasks import Task
from agentbench.errors import MissingData
from agentbench.machine import versions

TICK = os.sysconf("SC_CLK_TCK")
NUMPY = "import numpy as np\ndef f(x):\n    return float(np.dot(np.ones(10), np.arange(10)) + x)\n"
ISOLATED = (sys.executable, "-I", "-S")
Figures = dict[str, Any]


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            yield from tree(int(child))


def tree_cpu(pids: Sequence[int]) -> float:
    """Processor seconds of processes and of the children that they have buried."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICK


def pids(judge: Judge) -> list[int]:
    """All processes of a judge's workers."""
    return [pid for slot in judge._all for worker in slot.workers.values() for pid in tree(worker.pid)]


def measured(run: Callable[[], list[float]], judge: Judge | None = None) -> Figures:
    """Processor milliseconds an item, and wall quantiles, of a run that returns the wall seconds of its items."""
    members = pids(judge) if judge else []
    own, below, inside = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN), tree_cpu(members)
    walls = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - below.ru_utime - below.ru_stime
    cpu = time.process_time() - own + children + tree_cpu(members) - inside
    ordered = sorted(walls)
    return {
        "n": len(walls),
        "cpu_ms": round(1e3 * cpu / len(walls), 3),
        "wall_ms_p50": round(1e3 * statistics.median(ordered), 2),
        "wall_ms_p99": round(1e3 * ordered[int(0.99 * (len(ordered) - 1))], 2),
    }


def timed(call: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def as_script(task: Task) -> str:
    """A task's reference and tests as one script that a plain interpreter runs."""
    if task.kind == "asserts":
        return "\n".join([*task.setup, task.reference, *(str(test.input) for test in task.tests)])
    checks = [f"assert {call_text(task, test)} == {plain.unpack(test.output)!r}" for test in task.tests]
    return "\n".join([task.reference, *checks])


def spawn(command: Sequence[str], script: str) -> None:
    """One process for one program."""
    done = subprocess.run([*command, "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr[-300:]


def tasks(split: str, fallback: str, count: int) -> tuple[str, list[Task]]:
    """Tasks of a published split where it was imported, of a generated one elsewhere."""
    try:
        return split, [dataset.find_task(name) for name in dataset.tasks(split)[:count]]
    except MissingData:
        return fallback, [dataset.find_task(name) for name in dataset.tasks(fallback)[:count]]


def judged(judge: Judge, items: Sequence[Task]) -> list[float]:
    """Judge the references; wall seconds each."""

    def one(task: Task) -> None:
        verdict = judge.judge(task, task.reference, task.tests)
        assert verdict.verdict == "passed", (task.id, verdict)

    return [timed(lambda task=task: one(task)) for task in items]  # type: ignore[misc]


def per_program(judge: Judge, count: int) -> Figures:
    """A program with all its tests: this judge, `python -I -S`, and `python` of this environment."""
    split, items = tasks("humaneval", "mini-test", count)
    # Slow tests of the benchmark itself would hide what a grader costs.
    quick = [task for task in items if judge.judge(task, task.reference, task.tests).cpu < 0.05]
    scripts = [as_script(task) for task in quick]
    found: Figures = {"tasks": split, "programs": len(quick)}
    found["judge"] = measured(lambda: judged(judge, quick * 3), judge)
    for name, command in (("python -I -S", ISOLATED), ("python of the environment", (sys.executable,))):
        found[name] = measured(lambda command=command: [timed(lambda: spawn(command, s)) for s in scripts])  # type: ignore[misc]  # noqa: B023
    return found


def per_input(judge: Judge, count: int) -> Figures:
    """A process per test input, against one fork that answers all calls."""
    split, items = tasks("humaneval-plus-seed", "mini-test", count)
    items = [task for task in items if task.kind == "calls"]
    for task in items:
        judge.judge(task, task.reference, task.tests)  # the expected values are known from here on
    inputs = sum(len(task.tests) for task in items)
    found: Figures = {"tasks": split, "programs": len(items), "inputs": inputs}
    found["judge"] = measured(lambda: judged(judge, items * 2), judge)
    found["judge"]["cpu_ms_an_input"] = round(found["judge"]["cpu_ms"] * len(items) / inputs, 4)
    scripts = [f"{task.reference}\n{call_text(task, test)}\n" for task in items for test in task.tests[:2]]
    sample = scripts[:: max(1, len(scripts) // 40)]
    found["process"] = measured(lambda: [timed(lambda: spawn(ISOLATED, script)) for script in sample])  # noqa: B023
    return found


def with_numpy(judge: Judge, count: int) -> Figures:
    """A program that imports numpy."""
    run = f"{NUMPY}\nassert f(1.0) == 46.0"
    from agentbench.envs.code.tasks import Test

    task = Task("numpy", "", "", "calls", entry="f", hidden=(Test([1.0], 46.0),), reference=NUMPY)
    judged(judge, [task])
    return {
        "judge": measured(lambda: judged(judge, [task] * 5 * count), judge),
        "python of the environment": measured(
            lambda: [timed(lambda: spawn((sys.executable,), run)) for _ in range(count)]
        ),
    }


def workers(sandbox: Sandbox, count: int) -> Figures:
    """Programs a wall second with one, two and four workers, memory of each, and the cost of a start."""
    split, items = tasks("humaneval", "mini-test", count)
    found: Figures = {"tasks": split}
    for number in (1, 2, 4):
        judge = Judge(sandbox, number)
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(lambda task: judge.judge(task, task.reference, task.tests), items))  # noqa: B023 - starts
            seconds = timed(lambda: list(pool.map(lambda t: judge.judge(t, t.reference, t.tests), items * 2)))  # noqa: B023
        found[f"{number} workers"] = {
            "programs_a_second": round(2 * len(items) / seconds, 1),
            "pss_mib_a_worker": round(memory(judge) / number / 2**20, 1),
        }
        judge.close()
    found["start_cpu_s"] = {str(preload): start(sandbox, preload) for preload in (False, True)}
    return found


def memory(judge: Judge) -> int:
    """Proportional bytes of a judge's processes."""
    total = 0
    for pid in pids(judge):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def start(sandbox: Sandbox, preload: bool) -> float:
    """Processor seconds of a worker's start with its self-test, without and with the packages."""
    from agentbench.envs.code.sandbox import choose, open_worker

    way = choose(sandbox).way
    own = time.process_time()
    worker = open_worker(sandbox, way, preload=preload)
    members = list(tree(worker.pid))
    seconds = time.process_time() - own + tree_cpu(members)
    worker.close()
    return round(seconds, 3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    sandbox = Sandbox(options.isolation)
    judge = Judge(sandbox)
    found: Figures = {
        "command": " ".join(["python", "benchmarks/code.py", *sys.argv[1:]]),
        "versions": versions(),
        "sandbox": judge.facts,
        "load": os.getloadavg(),
        "cpus": os.cpu_count(),
        "per program": per_program(judge, options.programs),
        "per input": per_input(judge, options.programs),
        "numpy": with_numpy(judge, 20),
        "workers": workers(sandbox, min(40, options.programs)),
    }
    judge.close()
    program, given, numpy = found["per program"], found["per input"], found["numpy"]
    found["ratios of processor time"] = {
        "process per test input": round(given["process"]["cpu_ms"] / given["judge"]["cpu_ms_an_input"], 1),
        "importing numpy": round(numpy["python of the environment"]["cpu_ms"] / numpy["judge"]["cpu_ms"], 1),
        "python of the environment": round(
            program["python of the environment"]["cpu_ms"] / program["judge"]["cpu_ms"], 1
        ),
        "python -I -S": round(program["python -I -S"]["cpu_ms"] / program["judge"]["cpu_ms"], 1),
    }
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
