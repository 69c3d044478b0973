"""`agentbench train --num-processes`: the records and losses of one process, and what happens when a process dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agentbench.errors import UsageError
from agentbench.runs.episodes import read_episodes
from agentbench.training.launch import _how_late, launch

pytest.importorskip("torch")
PROMPT = "agentbench.prompts:corridor/transcript"


def command(model, folder, *options, steps=2, launcher=("-m", "agentbench")):
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "algorithm": "grpo",
        "output_dir": str(folder / "run"),
        "model_name_or_path": model,
        "env": {
            "name": "corridor",
            "split": "train",
            "prompt": "agentbench.prompts:corridor/transcript",
            "max_turns": 4,
        },
        "rollout": {"tasks_per_step": 4, "group_size": 4, "concurrency": 16, "max_new_tokens": 6},
        "eval": {"panel": "corridor/test@1", "every": 2, "limit": 6, "temperature": 1.0},
        "max_steps": steps,
        "learning_rate": 0.003,
        "save_steps": 1,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return [sys.executable, *launcher, "train", str(folder / "run.yaml"), *options]


def start(words, **environment):
    known = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**known, "OMP_NUM_THREADS": "1", **environment},
    )


def finished(words, **environment):
    process = start(words, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_two_processes_leave_the_records_and_losses_of_one(model, tmp_path):
    for name, options in (("one", ()), ("two", ("--num-processes", "2"))):
        code, out, err = finished(command(model, tmp_path / name, *options))
        assert code == 0, err
        assert out.count("done in") == 1
    one, two = (tmp_path / name / "run" for name in ("one", "two"))
    for step in range(2):
        ours, theirs = (read_episodes(run / "rollouts" / f"step-{step:06d}.jsonl") for run in (one, two))
        assert [item.id for item in ours] == [item.id for item in theirs]
        assert len(ours) == 16
        for a, b in zip(ours, theirs, strict=True):
            assert (a.task, a.seed, a.success, a.score, a.end) == (b.task, b.seed, b.success, b.score, b.end)
            assert [turn.action.token_ids for turn in a.turns] == [turn.action.token_ids for turn in b.turns]
            assert [turn.observation for turn in a.turns] == [turn.observation for turn in b.turns]
    for step in (0, 2):
        ours, theirs = (
            {(item.task, item.repeat): item for item in read_episodes(run / "eval" / f"step-{step}")}
            for run in (one, two)
        )
        assert ours.keys() == theirs.keys()
        assert len(ours) == 6
        for key, a in ours.items():
            b = theirs[key]
            assert (a.seed, a.success, a.score, a.end) == (b.seed, b.success, b.score, b.end)
            assert [turn.action.token_ids for turn in a.turns] == [turn.action.token_ids for turn in b.turns]
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)
    ]
    assert len(lines[0]) == 3
    probed = ("entropy", "engine_gap", "engine_gap_max", "engine_ratio", "engine_ratio_max", "publish_gap")
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(probed):
            assert b[name] == pytest.approx(a[name], abs=1e-4), name


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc to find the processes")
def test_when_one_process_dies_all_stop_and_the_run_can_go_on(model, tmp_path):
    words = command(model, tmp_path, "--num-processes", "2", steps=200)
    process = start(words)
    deadline = time.monotonic() + 600  # four Python processes with torch start, maybe beside much else
    while not (tmp_path / "run" / "checkpoint-1").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert (
        "process 1 of 2 died (SIGKILL), the others were stopped; checkpoints are intact, --resume goes on"
        in err
    )
    assert "Traceback" not in err
    assert not any(_alive(worker) for worker in workers)
    newest = max(int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*"))
    words = command(model, tmp_path, "--num-processes", "2", "--resume", steps=200)
    again = start(words)
    try:
        while not (tmp_path / "run" / f"checkpoint-{newest + 1}").exists():
            assert again.poll() is None, again.stderr.read()
            time.sleep(0.02)
        workers = children(again.pid)
        assert len(workers) == 2
    finally:
        again.terminate()
        again.communicate(timeout=300)
    assert not any(_alive(worker) for worker in workers)


def test_bad_configuration_stops_before_anything_is_launched(model, tmp_path):
    code, _, err = finished(command(model, tmp_path, "--num-processes", "2", "trainer.clipp=1"))
    assert code == 2
    assert err.startswith("agentbench: unknown key 'trainer.clipp'")
    assert err.count("\n") == 1


def test_groups_that_cannot_be_dealt_evenly_end_with_exit_code_2(model, tmp_path):
    code, _, err = finished(command(model, tmp_path, "--num-processes", "3"))
    assert code == 2
    assert "4 groups cannot be dealt evenly to 3 processes" in err
    assert "Traceback" not in err


def test_accelerates_own_cpu_launch_that_trains_alone_is_refused(model, tmp_path):
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "agentbench")
    code, _, err = finished(command(model, tmp_path, "num_processes=2", launcher=launcher))
    assert code != 0
    assert "num_processes = 2, but 1 process(es) were launched" in err
    assert not (tmp_path / "run").exists()


def test_processes_are_not_started_within_processes(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="leave it out under torchrun"):
        launch(["train", "x.yaml"], 2)


def test_the_failure_that_explains_the_others_is_told():
    # killed, aborted as its peer was gone, gave up on its peer, stopped by the launcher
    assert sorted([-signal.SIGTERM, 1, -signal.SIGABRT, -signal.SIGKILL], key=_how_late) == [
        -signal.SIGKILL,
        -signal.SIGABRT,
        1,
        -signal.SIGTERM,
    ]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_when_the_launcher_ends_so_do_its_processes(model, tmp_path, number, code, said):
    process = start(command(model, tmp_path, "--num-processes", "2", steps=2000))
    deadline = time.monotonic() + 600
    while not (tmp_path / "run" / "checkpoint-1").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = children(process.pid)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=240)
    assert process.returncode == code
    last = [line for line in err.splitlines() if line.startswith("agentbench:")]
    assert (said in last[-1]) if said else not last
    assert "Traceback" not in err
    assert "death signal" not in err  # torch's launcher has words of its own
    while any(_alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
