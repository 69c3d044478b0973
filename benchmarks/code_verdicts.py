"""Holds the judge against programs whose verdict is known: references must pass, mutants should not, runs must agree.

    python benchmarks/code_verdicts.py DIR --work FILE.jsonl --output FILE      # DIR holds the published files

References of every file are judged, and up to two mutants of each kind per HumanEval and MBPP reference: all with a
negated condition, every n-th of the other kinds (`--every`). Every n-th mutant of each kind and every n-th reference is
judged over again. A mutant that passes is an equivalent program, or shows a gap of the benchmark's tests. `--work`
keeps each verdict as it is given, and a second call goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from agentbench.envs.code.formats import read_tasks
from agentbench.envs.code.judge import Judge
from agentbench.envs.code.mutants import CHANGES, mutants
from agentbench.envs.code.tasks import Task
from agentbench.machine import versions
from agentbench.runs.files import Lines, read_lines

FILES = (
    "HumanEval.jsonl",
    "humaneval_plus_seed.jsonl",
    "mbpp.jsonl",
    "sanitized-mbpp.json",
    "mbpp_plus.jsonl",
)
MUTATED = ("HumanEval.jsonl", "mbpp.jsonl")
REFERENCE, WHOLE = "reference", "negated if"


@dataclass(frozen=True)
class Program:
    """One program to judge: where it comes from, what was done to it, and whether it is judged in every run."""

    file: str
    kind: str
    number: int
    task: Task
    text: str
    again: bool

    @property
    def name(self) -> str:
        """One name a program."""
        return f"{self.file}|{self.kind}|{self.number}|{self.task.id}"


def programs(folder: Path, every: int) -> Iterator[Program]:
    """References of all files, then mutants, every n-th of them but of one kind all; in a fixed order."""
    for file in FILES:
        for number, task in enumerate(read_tasks(folder / file)):
            yield Program(file, REFERENCE, number, task, task.reference, number % every == 0)
    for file in MUTATED:
        tasks = [task for task in read_tasks(folder / file) if not task.defect]
        for kind in CHANGES:
            texts = [
                (task, text) for task in tasks for text in list(mutants(task.reference, kind, task.entry))[:2]
            ]
            for number, (task, text) in enumerate(texts):
                if number % every == 0 or kind == WHOLE:
                    yield Program(file, kind, number, task, text, number % every == 0)


def judge_all(items: list[Program], runs: int, work: Path) -> dict[tuple[str, int], str]:
    """Verdicts by (name, run); those on file already are not given again."""
    known = {(line["name"], line["run"]): line["verdict"] for _, line in read_lines(work)}
    lines = Lines(work)
    judge = Judge()
    for run in range(runs):
        left = [item for item in items if (item.again or run == 0) and (item.name, run) not in known]
        for item in track(left, f"run {run + 1}", disable=not sys.stderr.isatty()):
            verdict = judge.judge(item.task, item.text, item.task.tests)
            known[item.name, run] = verdict.verdict
            lines.append({"name": item.name, "run": run, "verdict": verdict.verdict, "load": os.getloadavg()[0],
                          "cpu_seconds": verdict.cpu})  # fmt: skip
    judge.close()
    lines.close()
    return known


def summary(items: list[Program], runs: int, known: dict[tuple[str, int], str], work: Path) -> dict[str, Any]:
    """Counts, and every reference that fails."""
    references: dict[str, Any] = {}
    kinds: dict[str, dict[str, Any]] = defaultdict(dict)
    for file in FILES:
        own = [item for item in items if item.file == file and item.kind == REFERENCE]
        bad = {item.task.id: known[item.name, 0] for item in own if known[item.name, 0] != "passed"}
        notes = {item.task.id: item.task.defect for item in own if item.task.defect}
        references[file] = {"tasks": len(own), "failed": bad, "in no split": notes}
        for kind in CHANGES if file in MUTATED else ():
            verdicts = [known[item.name, 0] for item in items if (item.file, item.kind) == (file, kind)]
            fell = sum(verdict != "passed" for verdict in verdicts)
            kinds[file][kind] = {
                "mutants": len(verdicts),
                "failed": fell,
                "share": round(fell / len(verdicts), 3),
                "verdicts": Counter(verdicts),
            }
    again = [item for item in items if item.again]
    differ = [item.name for item in again if len({known[item.name, run] for run in range(runs)}) > 1]
    loads = [line["load"] for _, line in read_lines(work)]
    return {
        "references": references,
        "mutants": kinds,
        "programs judged in every run": len(again),
        "their verdicts": Counter(known[item.name, 0] for item in again),
        "of them with different verdicts": differ,
        "infrastructure": sum(verdict == "infrastructure" for verdict in known.values()),
        "load average": {"lowest": min(loads), "mean": sum(loads) / len(loads), "highest": max(loads)},
        "processor seconds": round(sum(line["cpu_seconds"] for _, line in read_lines(work))),
    }


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    items = list(programs(options.folder, options.every))
    known = judge_all(items, options.runs, options.work)
    judge = Judge()
    found = {
        "command": f"python benchmarks/code_verdicts.py DIR --runs {options.runs} --every {options.every} --work FILE",
        "versions": versions(),
        "sandbox": judge.facts,
        "cpus": os.cpu_count(),
        **summary(items, options.runs, known, options.work),
    }
    judge.close()
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
