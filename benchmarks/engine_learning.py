"""Sums up ATOD runs that differ in their engine only: does the engine change what is learnt?

    python benchmarks/engine_learning.py RUNS results/engines

RUNS holds the folders hf-SEED and vllm-SEED of
`agentbench train examples/learning/atod.yaml rollout.engine=ENGINE seed=SEED ...`. Writes learning.json and
learning.md. Trains nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from agentbench.runs.compare import compare_runs
from agentbench.runs.episodes import read_episodes
from agentbench.runs.stats import wilson

ENGINES = ("hf", "vllm")


def summarise(run: Path) -> dict[str, Any]:
    """First and last evaluation of a run, and how far its engine was from its trainer."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    folders = sorted((run / "eval").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    found: dict[str, Any] = {"steps": len(steps)}
    for label, folder in (("first", folders[0]), ("last", folders[-1])):
        episodes = read_episodes(folder)
        good = [item for item in episodes if item.ok]
        rate = wilson(sum(bool(item.success) for item in good), len(good))
        found[label] = {"success": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}
        found[label]["errors"] = len(episodes) - len(good)
    found["engine_gap_max"] = max(line["engine_gap_max"] for line in steps)
    found["publish_gap_max"] = max(line["publish_gap"] for line in steps)
    found["rollout_success_last"] = steps[-1].get("rollout/success")
    timings = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    found["rollout_wall_s"] = sum(line.get("seconds/rollout", 0.0) for line in timings)
    return found


def main(runs: Path, output: Path) -> None:
    """Write the table and the figures."""
    seeds = sorted(int(path.name.removeprefix("hf-")) for path in runs.glob("hf-*"))
    record: dict[str, Any] = {"seeds": seeds, "runs": {}, "pairs": {}}
    lines = [
        "| engine | seed | before | after | 95 % interval | n | errors | largest engine gap (nats) |",
        "|---" * 8 + "|",
    ]
    for engine in ENGINES:
        for seed in seeds:
            found = record["runs"][f"{engine}-{seed}"] = summarise(runs / f"{engine}-{seed}")
            first, last = found["first"], found["last"]
            interval = f"{last['low']:.1%} – {last['high']:.1%}"
            cells = [engine, seed, f"{first['success']:.1%}", f"{last['success']:.1%}", interval, last["n"]]
            cells += [first["errors"] + last["errors"], f"{found['engine_gap_max']:.1e}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| seed | vllm - hf, game by game | 95 % interval | McNemar p |", "|---|---|---|---|"]
    for seed in seeds:
        steps = record["runs"][f"hf-{seed}"]["steps"]
        a, b = (runs / f"{engine}-{seed}" / "eval" / f"step-{steps}" for engine in ENGINES)
        paired = compare_runs(a, b).success
        assert paired is not None
        difference = paired.difference
        record["pairs"][str(seed)] = {
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "mcnemar_p": paired.p,
        }
        lines.append(
            f"| {seed} | {difference.value:+.1%} | {difference.low:+.1%} – {difference.high:+.1%} | {paired.p:.2f} |"
        )
    means = {
        e: statistics.mean(record["runs"][f"{e}-{s}"]["last"]["success"] for s in seeds) for e in ENGINES
    }
    record["mean_success"] = means
    lines += [
        "",
        "Mean over seeds: " + ", ".join(f"{engine} {value:.1%}" for engine, value in means.items()) + ".",
    ]
    output.mkdir(parents=True, exist_ok=True)
    (output / "learning.json").write_text(json.dumps(record, indent=1) + "\n")
    (output / "learning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    main(arguments.runs, arguments.output)
