"""Holds the judge against programs whose verdict is known: references must pass, mutants should not, runs must agree.

    python benchmarks/code_verdicts.py DIR --output FILE      # DIR holds the published files

References of every file are judged once; up to two mutants of each kind per HumanEval and MBPP reference, three times
over. A mutant that passes is an equivalent program, or shows a gap of the benchmark's tests.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from rich.progress import track

from agentbench.envs.code.formats import read_tasks
from agentbench.envs.code.judge import Judge
from agentbench.envs.code.mutants import CHANGES, mutants
from agentbench.envs.code.tasks import Task
from agentbench.machine import versions

FILES = (
    "HumanEval.jsonl",
    "humaneval_plus_seed.jsonl",
    "mbpp.jsonl",
    "sanitized-mbpp.json",
    "mbpp_plus.jsonl",
)
MUTATED = ("HumanEval.jsonl", "mbpp.jsonl")


def references(judge: Judge, folder: Path) -> dict[str, Any]:
    """Judge every reference; the tasks that fail, by file."""
    found = {}
    for name in FILES:
        tasks = read_tasks(folder / name)
        failed = {}
        for task in track(tasks, name, disable=not sys.stderr.isatty()):
            verdict = judge.judge(task, task.reference, task.tests)
            if verdict.verdict != "passed":
                failed[task.id] = {"verdict": verdict.verdict, "known defect": task.defect}
        found[name] = {"tasks": len(tasks), "failed": failed}
    return found


def wrong_programs(folder: Path) -> list[tuple[str, str, Task, str]]:
    """Mutants as (file, kind, task, program)."""
    return [
        (name, kind, task, text)
        for name in MUTATED
        for task in read_tasks(folder / name)
        if not task.defect
        for kind in CHANGES
        for text in list(mutants(task.reference, kind, task.entry))[:2]
    ]


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    judge = Judge()
    found: dict[str, Any] = {
        "command": f"python benchmarks/code_verdicts.py DIR --runs {options.runs}",
        "versions": versions(),
        "sandbox": judge.facts,
        "references": references(judge, options.folder),
    }
    programs = wrong_programs(options.folder)
    runs = []
    loads = [os.getloadavg()[0]]
    for number in range(options.runs):
        each = track(programs, f"mutants, run {number + 1}", disable=not sys.stderr.isatty())
        runs.append([judge.judge(task, text, task.tests).verdict for _, _, task, text in each])
        loads.append(os.getloadavg()[0])
    kinds: dict[str, dict[str, Any]] = defaultdict(dict)
    for name in MUTATED:
        for kind in CHANGES:
            verdicts = [
                v for (file, k, _, _), v in zip(programs, runs[0], strict=True) if (file, k) == (name, kind)
            ]
            fell = sum(verdict != "passed" for verdict in verdicts)
            kinds[name][kind] = {
                "mutants": len(verdicts),
                "failed": fell,
                "share": round(fell / len(verdicts), 3),
            }
    found["mutants"] = kinds
    found["verdicts of run 1"] = Counter(runs[0])
    found["programs with different verdicts between runs"] = sum(
        len(set(each)) > 1 for each in zip(*runs, strict=True)
    )
    found["load averages"] = loads
    judge.close()
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
