"""Whole evaluations under two versions of this project, by turns in one run: what does a change cost per episode?

Each version is an interpreter that has it installed. A process of its own plays a panel with a policy that takes no
time, several times, records and report included; its first time, with all imports, does not count. Seconds are of the
processor. The smallest of all rounds says most: whatever else the machine does only adds.
Usage: python benchmarks/evaluation_cost.py BEFORE/bin/python AFTER/bin/python [--rounds 6] [--times 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

PLAYED = (("corridor/test@1", "random"), ("alfworld/mini@1", "expert"), ("webshop/mini@1", "expert"))
PLAY = """
import json, sys, tempfile, time
try:
    from agentbench.evaluation.evaluate import EvalConfig, evaluate
except ImportError:  # before evaluation was a package
    from agentbench.evaluate import EvalConfig, evaluate
panel, policy, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
seconds = []
for number in range(times + 1):
    with tempfile.TemporaryDirectory() as folder:
        config = EvalConfig(panel=panel, policy=policy, output_dir=folder + "/run")
        start = time.process_time()
        evaluate(config)
        seconds.append(time.process_time() - start)
print(json.dumps(seconds[1:]))
"""


def play(python: str, panel: str, policy: str, times: int) -> list[float]:
    """Seconds of each evaluation in a process of its own."""
    command = [python, "-c", PLAY, panel, policy, str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    """Measure by turns and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    versions = (given.before, given.after)
    seconds: dict[str, list[list[float]]] = {f"{panel} {policy}": [[], []] for panel, policy in PLAYED}
    for _ in range(given.rounds):
        for panel, policy in PLAYED:
            for version, python in enumerate(versions):
                seconds[f"{panel} {policy}"][version] += play(python, panel, policy, given.times)
    print("| panel, policy | before, median ms | now | medians | before, smallest ms | now | smallest |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, both in seconds.items():
        cells = []
        for middle in (statistics.median, min):
            before, after = (1e3 * middle(found) for found in both)
            cells += [f"{before:.1f}", f"{after:.1f}", f"{after / before - 1:+.1%}"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.json:
        given.json.write_text(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
