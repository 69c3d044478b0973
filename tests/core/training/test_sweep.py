"""Sweeps: a table file expands into runs, survives kill -9, and its table is what the runs give."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from places import ROOT

from agentbench.cli import run as command
from agentbench.config import validate
from agentbench.errors import ConfigError, UnknownName, UsageError
from agentbench.registry import trainer_spec
from agentbench.training.check import check
from agentbench.training.sweep import read_sweep, run_sweep, select
from agentbench.training.sweep_table import page_of, record_of

ATOD = ROOT / "examples" / "tables" / "atod-table1.yaml"


def table(model, output, **changes):
    return {
        "id": "toy",
        "title": "Toy",
        "source": "nobody, Table 0",
        "output_dir": str(output),
        "baseline": "clone",
        "methods": {
            "clone": {"algorithm": "sft", "trainer": {"takeover": [0, 0]}},
            "reward": {"algorithm": "grpo", "trainer": {"ref_kl_coef": 0.0}},
        },
        "scales": {
            "small": {
                "seeds": [1, 2],
                "values": {
                    "model_name_or_path": model,
                    "max_steps": 2,
                    "learning_rate": 0.003,
                    "save_steps": 1,
                    "save_total_limit": None,
                    "trainer": {"reduction": "trajectory_mean"},
                    "eval": {"panel": "corridor/test@1", "every": 1, "limit": 6, "temperature": 1.0},
                },
                "methods": {"reward": {"learning_rate": 0.001}},
                "settings": {
                    "corridor": {
                        "published": "theirs",
                        "values": {
                            "env": {
                                "name": "corridor",
                                "split": "train",
                                "prompt": "corridor/transcript",
                                "max_turns": 4,
                            },
                            "rollout": {
                                "tasks_per_step": 2,
                                "group_size": 2,
                                "max_new_tokens": 6,
                                "concurrency": 4,
                            },
                        },
                    }
                },
            }
        },
        "published": {
            "theirs": {
                "values": {"clone": 0.5, "before": 0.25},
                "protocol": {
                    "env.max_turns": 4,
                    "rollout.group_size": 8,
                    "teachers.0.model_name_or_path": "large",
                },
                "notes": ["one seed"],
            }
        },
    } | changes


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def test_expansion_puts_layers_over_each_other(model, tmp_path):
    plan = read_sweep(write(tmp_path / "t.yaml", table(model, tmp_path / "out")), "small")
    assert [run.name for run in plan.runs] == [
        f"corridor/{method}/seed-{seed}" for method in ("clone", "reward") for seed in (1, 2)
    ]
    clone, reward = plan.runs[0].config, plan.runs[2].config
    assert clone.trainer == {"reduction": "trajectory_mean", "takeover": [0, 0]}
    assert reward.trainer == {"reduction": "trajectory_mean", "ref_kl_coef": 0.0}
    assert (clone.learning_rate, reward.learning_rate, clone.seed) == (0.003, 0.001, 1)
    assert clone.output_dir == str(tmp_path / "out" / "small" / "corridor" / "clone" / "seed-1")
    assert [run.seed for run in select(plan, "*/reward/*")] == [1, 2]
    with pytest.raises(UsageError, match="no run fits 'webshop"):
        select(plan, "webshop/*")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "magic"}, "baseline 'magic' is not one of the methods: clone, reward"),
        (
            {"methods": {"clone": {"algorithm": "sft", "max_stepz": 3}, "reward": {"algorithm": "grpo"}}},
            r"corridor/clone: unknown key 'max_stepz'",
        ),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"published": {}}, "no published column 'theirs'"),
    ],
)
def test_a_wrong_file_is_one_line(model, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        read_sweep(write(tmp_path / "t.yaml", table(model, tmp_path / "out", **change)), "small")


def test_an_unknown_scale_names_those_there_are(model, tmp_path):
    with pytest.raises(UnknownName, match="no scale 'large'; known: small"):
        read_sweep(write(tmp_path / "t.yaml", table(model, tmp_path)), "large")


def test_a_run_that_cannot_be_made_is_refused_before_any_is(tmp_path, capsys, model):
    values = table(model, tmp_path / "out")
    values["methods"]["reward"]["trainer"] = {"colour": 1}
    file = write(tmp_path / "t.yaml", values)
    assert command(["sweep", str(file), "--dry-run"]) == 1
    shown = capsys.readouterr().out
    assert "[1] unknown key 'trainer.colour'" in shown
    assert "4 runs, 2 with a problem" in shown
    assert command(["sweep", str(file)]) == 2
    assert "corridor/reward/seed-1: unknown key 'trainer.colour'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills by signal")
def test_kill_9_in_the_middle_ends_with_the_same_table(model, tmp_path, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    file = write(tmp_path / "t.yaml", table(model, tmp_path / "out"))
    second = tmp_path / "out" / "small" / "corridor" / "clone" / "seed-2" / "metrics.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "agentbench", "sweep", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 300
    while not second.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    plan = read_sweep(file, "small")
    assert [run.finished for run in plan.runs] == [True, False, False, False]
    first = (plan.runs[0].folder / "metrics.jsonl").stat().st_mtime_ns

    assert command(["sweep", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (plan.runs[0].folder / "metrics.jsonl").stat().st_mtime_ns == first  # finished runs are left alone
    assert found["failed"] == {}
    whole = read_sweep(write(tmp_path / "whole.yaml", table(model, tmp_path / "whole")), "small")
    assert run_sweep(list(whole.runs), report=lambda line: None) == {}
    assert timeless(record_of(plan)) == timeless(record_of(whole))

    check_record(found, plan)
    check_page(plan, file, capsys)


def timeless(record):
    for setting in record["settings"].values():
        for method in setting["methods"].values():
            del method["seconds"]
    return record


def check_record(found, plan):
    setting = found["settings"]["corridor"]
    clone, reward = setting["methods"]["clone"], setting["methods"]["reward"]
    lines = [
        [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        for run in plan.runs[:2]
    ]
    a, b = (steps[-1]["eval/success"] for steps in lines)
    # two runs: mean (a + b) / 2, sd |a - b| / sqrt 2, half-width t(0.975, 1) = 12.7062 times sd / sqrt 2
    assert clone["last"]["mean"] == pytest.approx((a + b) / 2)
    assert clone["last"]["sd"] == pytest.approx(abs(a - b) / math.sqrt(2))
    ends = (a + b) / 2 - 12.7062 * abs(a - b) / 2, (a + b) / 2 + 12.7062 * abs(a - b) / 2
    # a share ends at 0 and 1
    assert clone["last"]["low"] == pytest.approx(max(0.0, ends[0]), rel=1e-4)
    assert clone["last"]["high"] == pytest.approx(min(1.0, ends[1]), rel=1e-4)
    best = [max(line["eval/success"] for line in steps[1:]) for steps in lines]
    assert clone["best"]["mean"] == pytest.approx(sum(best) / 2)
    assert setting["before"]["n"] == 2  # one a seed, not one a run
    assert clone["against_baseline"] is None
    against = reward["against_baseline"]
    assert set(against["by_seed"]) == {"1", "2"}
    assert against["difference"] == pytest.approx(reward["last"]["mean"] - clone["last"]["mean"])
    assert clone["trained_tokens"]["1"] == sum(line.get("trained_tokens", 0) for line in lines[0])


def check_page(plan, file, capsys):
    page = (plan.folder / "table.md").read_text()
    assert page == page_of(json.loads((plan.folder / "table.json").read_text()))
    assert "| clone | 2 of 2 |" in page
    assert "| 50.00 |" in page
    assert "rollout.group_size: published 8, here 2" in page
    assert "teachers.0.model_name_or_path: published large, here None" in page
    assert "env.max_turns" not in page  # equal
    assert "- one seed" in page
    assert command(["sweep", str(file), "--check"]) == 0
    capsys.readouterr()
    (plan.folder / "table.md").write_text(page.replace("50.00", "60.00"))
    assert command(["sweep", str(file), "--check"]) == 1
    assert "table.md is stale from line" in capsys.readouterr().out
    # a run that another version of the file made is refused, never shown
    changed = yaml.safe_load(file.read_text())
    changed["scales"]["small"]["values"]["learning_rate"] = 0.004
    file.write_text(yaml.safe_dump(changed))
    assert command(["sweep", str(file)]) == 2
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_table_of_atod_expands_into_valid_runs(scale, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_sweep(ATOD, scale)
    assert len(plan.runs) == {"small": 3 * 6 * 3, "paper": 9 * 6 * 3}[scale]
    for run in plan.runs:
        spec = trainer_spec(run.config.algorithm)
        settings = validate(spec.config, run.config.trainer, f"{run.name} trainer.")
        if spec.refuse is not None:
            spec.refuse(run.config, settings)
        assert run.config.eval is not None
    for run in plan.runs:
        if scale == "small" and run.setting == "alfworld":
            check(run.config)


def test_published_numbers_are_those_of_the_paper():
    published = yaml.safe_load(ATOD.read_text())["published"]
    # Table 1: mean over the three environments, as the paper prints it
    for method, mean in {"grpo": 33.17, "opd": 67.73, "sod": 65.74, "tcod": 66.88, "atod": 70.62}.items():
        found = [
            100 * published[f"{env}-0.6B"]["values"][method] for env in ("alfworld", "search-qa", "webshop")
        ]
        assert sum(found) / 3 == pytest.approx(mean, abs=0.006)
    for method, mean in {"grpo": 40.30, "sdar": 41.94, "opd": 64.91, "tcod": 66.05, "atod": 71.58}.items():
        found = [
            100 * published[f"{env}-1.7B"]["values"][method] for env in ("alfworld", "search-qa", "webshop")
        ]
        assert sum(found) / 3 == pytest.approx(mean, abs=0.006)
    for method, mean in {"before": 19.24, "sdar": 64.37, "sod": 68.28, "atod": 71.06}.items():
        found = [
            100 * published[f"{env}-4B"]["values"][method] for env in ("alfworld", "search-qa", "webshop")
        ]
        assert sum(found) / 3 == pytest.approx(mean, abs=0.006)


def test_paths_of_the_table_lead_somewhere():
    small = yaml.safe_load(ATOD.read_text())["scales"]["small"]["settings"]
    for setting in small.values():
        panel = setting["values"]["eval"]["panel"]
        assert not panel.endswith(".yaml") or (ROOT / panel).is_file()
    assert (Path(ROOT) / small["alfworld"]["values"]["model_name_or_path"] / "config.json").is_file()
