"""One card's learning comparison: SFT of a base model on expert episodes, then three methods from one early checkpoint.

    python benchmarks/gpu/learn.py FOLDER [--runs runs/gpu] [--seconds 500] [--bf16] [--methods gkd,atod,grpo]
    python benchmarks/gpu/learn.py --tiny [--runs FOLDER]

FOLDER is a model such as `agentbench model fetch smollm2-135m-q4` writes. The last checkpoint of the SFT run teaches,
the student is the first one with success of at least `--student`. The methods then run as processes of their own, all
at once: each is bound by Python and kernel launches, not by the card. Runs that are not over when the time is up are
told to stop; every figure is on disk as soon as it is known, and what was measured is one JSON line a run. `--tiny`
plays two steps of everything with a toy model that is made on the spot, one run at a time, to prove on any machine that
it works. Leaves out what the methods do (`agentbench train`) and whether the numbers are right (`make gpu` tests that).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
PAIR = {"group_stats": "trajectory", "reduction": "trajectory_mean"}
METHODS = {
    "gkd": {"divergence": "reverse_kl", "reduction": "trajectory_mean"},
    "atod": {
        "kappa": {"kind": "linear", "start": 1.0, "end": 0.1, "steps": 24},
        "rho": {"kind": "linear", "start": 1.0, "end": 2.0, "steps": 24},
        **PAIR,
    },
    "grpo": PAIR,
}
TAUGHT = ("gkd", "atod")


def launch(config, folder):
    """Start one training run; returns its process."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "output_dir": str(folder / "run")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "agentbench", "train", str(folder / "config.yaml")]
    with open(folder / "log.txt", "w") as log:  # the child keeps its own copy of the handle
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)


def finish(processes, deadline):
    """Wait for all until the deadline, then tell those that still run to stop; returns what became of each."""
    ends = {}
    for name, process in processes.items():
        ends[name] = "done"
        try:
            process.wait(max(1.0, deadline - time.time()))
        except subprocess.TimeoutExpired:
            ends[name] = "out of time"
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.returncode and ends[name] == "done":
            ends[name] = f"exit {process.returncode}"
    return ends


def lines(path):
    """The JSON lines of a file; a last one that is torn is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def successes(run):
    """Success on the panel by step."""
    return {m["step"]: m["eval/success"] for m in lines(run / "metrics.jsonl") if "eval/success" in m}


def figures(name, folder, end):
    """What one run has shown."""
    run = folder / "run"
    steps = [line for line in lines(run / "metrics.jsonl") if "loss" in line]
    clock = [line for line in lines(run / "timings.jsonl") if "seconds/update" in line]
    found = {"run": name, "end": end, "steps": len(steps), "success": successes(run)}
    for key in ("reward", "teacher_gap", "engine_gap", "publish_gap"):
        values = [line[key] for line in steps if key in line]
        if values:
            found[key] = {"first": values[0], "last": values[-1]}
    for key in ("seconds/rollout", "seconds/update", "seconds/publish"):
        if clock:
            found[key] = sum(line.get(key, 0.0) for line in clock) / len(clock)
    return found


def toy(folder):
    """A random model of the household's words; returns its folder."""
    from agentbench.models.tiny import make_model, make_tokenizer

    words = [f"{name} {n}" for name in ("cabinet", "drawer", "shelf", "countertop") for n in range(1, 4)]
    texts = ["go to cabinet 1", "You are in the middle of a room."]
    make_model(folder, make_tokenizer(folder, texts, entities=words), hidden=32, layers=2)
    return str(folder)


def fitted(name, asked):
    """A configuration of this folder, with what the command line says of all runs."""
    config = yaml.safe_load((HERE / name).read_text())
    config |= {"tokens_per_micro_batch": 32768, "bf16": asked.bf16}
    options = {"slots": 128, **({"dtype": "bfloat16"} if asked.bf16 else {})}
    config["rollout"] |= {"engine_options": options, "concurrency": 128}
    if asked.tiny:
        config |= {"max_steps": 2, "save_steps": 1}
        config["env"]["max_turns"] = 4
        config["eval"] |= {"every": 1, "limit": 2}
        config["rollout"] |= {"tasks_per_step": 2, "group_size": min(2, config["rollout"]["group_size"])}
    return config


def main():
    """Train, and print one line for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="base model")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--student", type=float, default=0.1, help="least success of the student")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--bf16", action="store_true", help="products, engine and teacher in bfloat16")
    parser.add_argument("--from-sft", type=Path, help="run folder of an SFT run that is there already")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    methods = asked.methods.split(",")
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"no method {unknown[0]!r}; allowed: {', '.join(METHODS)}")
    if not (asked.folder or asked.tiny or asked.from_sft):
        parser.error("give the folder of a base model, or --tiny")
    runs, began = asked.runs.resolve(), time.time()
    if runs.exists() and any(runs.iterdir()):
        parser.error(f"{runs} is not empty; name another folder with --runs")
    sft = asked.from_sft
    if sft is None:
        base = toy(runs / "base") if asked.tiny else asked.folder
        config = {**fitted("sft.yaml", asked), "model_name_or_path": base}
        ends = finish({"sft": launch(config, runs / "sft")}, began + asked.seconds * 0.45)
        print(json.dumps(figures("sft", runs / "sft", ends["sft"])), flush=True)
        sft = runs / "sft" / "run"
    saved = sorted((int(p.name.removeprefix("checkpoint-")), p) for p in sft.glob("checkpoint-*"))
    if len(saved) < 2:
        sys.exit(
            f"{sft} holds {len(saved)} checkpoints, and student and teacher are two of them; see log.txt there"
        )
    won, teacher = successes(sft), saved[-1][1]
    student = next((p for s, p in saved[:-1] if won.get(s, 0) >= asked.student), saved[0][1])
    print(json.dumps({"student": student.name, "teacher": teacher.name}), flush=True)
    ends, running = {}, {}
    for name in methods:
        config = {"algorithm": name, **fitted("rl.yaml", asked), "trainer": METHODS[name]}
        config["model_name_or_path"] = str(student)
        if name in TAUGHT:
            dtype = {"dtype": "bfloat16"} if asked.bf16 else {}
            config["teachers"] = [{"model_name_or_path": str(teacher), **dtype}]
        running[name] = launch(config, runs / name)
        if asked.tiny:  # one at a time where cores are few
            ends |= finish({name: running[name]}, began + asked.seconds)
    ends |= finish(
        {name: process for name, process in running.items() if name not in ends}, began + asked.seconds
    )
    for name in methods:
        print(json.dumps(figures(name, runs / name, ends[name])), flush=True)
    if bad := [f"{name}: {end}" for name, end in ends.items() if end.startswith("exit")]:
        sys.exit("; ".join(bad))


if __name__ == "__main__":
    main()
