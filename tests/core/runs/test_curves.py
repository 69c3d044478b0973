"""Training runs side by side: last, best among what is saved, mean of three, seeds together, and a fresh page."""

import json

import orjson
import pytest
import yaml
from places import TOY

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.errors import CorruptData, MissingData
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.curves import band, methods, read_curve
from agentbench.runs.curves_page import draw_curves, page, record
from agentbench.runs.sides import last_evaluation

pytest.importorskip("scipy")
write_panel = load("envs", f"{TOY}:write_panel")
WINS = {4: ["win"], 8: ["win", "win"], 12: ["win", "win", "win"]}  # tasks of 12 that so many words win


@pytest.fixture
def trained(tmp_path):
    """Makes a training run's folder: the tasks won by step, the checkpoints that are left."""
    panel = write_panel(tmp_path)

    def make(name, won, checkpoints=(), **config):
        folder = tmp_path / name
        for step, count in won.items():
            values = {"panel": panel, "policy": "null", "output_dir": str(folder / "eval" / f"step-{step}")}
            evaluate(validate(EvalConfig, values), policy=ScriptedPolicy(WINS[count]))
        for step in checkpoints:
            (folder / f"checkpoint-{step}").mkdir()
        values = {
            "algorithm": "gkd",
            "max_steps": 6,
            "learning_rate": 0.1,
            "output_dir": str(folder),
        } | config
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        (folder / "rollouts").mkdir()
        first = (folder / "eval" / "step-0" / "episodes.jsonl").read_bytes().splitlines(keepends=True)[0]
        (folder / "rollouts" / "step-000000.jsonl").write_bytes(first * 2)  # a group plays one task twice
        (folder / "metrics.jsonl").write_bytes(orjson.dumps({"step": 1, "trained_tokens": 77.0}) + b"\n")
        lines = [{"step": 1, "seconds/rollout": 1200.0, "seconds/update": 600.0, "other": 5.0}]
        (folder / "timings.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        return folder

    return make


def test_last_is_the_headline_and_best_is_among_the_saved(trained):
    folder = trained("gkd-1", {0: 4, 2: 12, 4: 8, 6: 4}, checkpoints=(4, 6))
    curve = read_curve(folder)
    assert [point.step for point in curve.points] == [0, 2, 4, 6]
    assert curve.last.value.value == pytest.approx(4 / 12)
    assert (curve.best.step, curve.best.checkpoint) == (
        4,
        folder / "checkpoint-4",
    )  # step 2 was better and is gone
    assert curve.last_three == pytest.approx((12 + 8 + 4) / 36)
    assert (curve.cost.episodes, curve.cost.seconds, curve.cost.trained) == (2, 1800.0, 77)
    assert (curve.points[0].cost.episodes, curve.points[1].cost.episodes) == (0, 2)


@pytest.mark.parametrize("kept", ["summary", "records", "nothing"])
def test_an_evaluation_that_is_under_way_is_no_point_of_the_curve(trained, kept, capsys):
    folder = trained("gkd-1", {0: 4, 4: 8, 6: 12})
    last = folder / "eval/step-6"
    lines = (last / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (last / "episodes.jsonl").write_bytes(b"".join(lines[:5]))
    if kept == "summary":  # `agentbench report` of the unfinished evaluation writes one
        assert agentbench(["report", str(last)]) == 1
    else:
        for path in last.iterdir() if kept == "nothing" else [last / "summary.json"]:
            path.unlink()
    said = []
    curve = read_curve(folder, said.append)
    assert [point.step for point in curve.points] == [0, 4]
    assert said == [f"{last} is not finished and is left out; the training run plays it again on --resume"]
    assert last_evaluation(folder, said.append) == folder / "eval/step-4"
    capsys.readouterr()
    assert agentbench(["report", str(folder), "--over", "steps"]) == 0
    assert "step-6 is not finished" in capsys.readouterr().err


def test_a_run_without_a_finished_evaluation_says_so(trained):
    folder = trained("gkd-1", {0: 4})
    (folder / "eval/step-0/summary.json").unlink()
    with pytest.raises(MissingData, match=r"without a finished evaluation \(eval/step-N\)"):
        read_curve(folder)


@pytest.mark.parametrize("value", [1e308, -1.0, 2e9])
def test_times_that_no_run_takes_are_refused(trained, value):
    folder = trained("gkd-1", {0: 4})
    (folder / "timings.jsonl").write_bytes(orjson.dumps({"step": 1, "seconds/rollout": value}) + b"\n")
    with pytest.raises(CorruptData, match=r"timings\.jsonl holds what no run of ours writes"):
        read_curve(folder)


def test_a_run_without_checkpoints_or_three_evaluations_says_so(trained):
    curve = read_curve(trained("one", {0: 4, 3: 8}))
    assert (curve.best, curve.last_three) == (None, None)
    text = page([curve])
    assert "66.7 at step 3 of 6, unfinished" in text
    assert "| – | – | no evaluated step has one |" in text


def test_seeds_of_one_configuration_are_one_method(trained):
    curves = [
        read_curve(trained(f"gkd-{seed}", {0: 4, 6: won}, seed=seed))
        for seed, won in ((1, 4), (2, 8), (3, 12))
    ]
    other = read_curve(trained("slow-1", {0: 4, 6: 8}, learning_rate=0.01))
    found = methods([*curves, other])
    assert [(name, len(group)) for name, group in found.items()] == [("gkd", 3), (str(other.run), 1)]
    together = band(curves)
    assert together.at == (0, 6)
    assert together.mean == pytest.approx((1 / 3, 2 / 3))
    assert (together.low[1], together.high[1]) == (pytest.approx(1 / 3), pytest.approx(1.0))
    assert band(curves, "episodes").at == (0, 2)
    assert band(curves, "hours").at == (0, 0.5)
    # 1/3, 2/3, 1: sd 1/3, and Student's 0.975 quantile for 2 degrees is 4.3026527: 66.7 ± 82.8, within 0 and 100
    assert "| gkd | 3 | toy/test@1 | 6 | 33.3, 66.7, 100.0 | 66.7 | 33.3 | 0.0 – 100.0 |" in page(curves)
    assert record(curves)["methods"] == {"gkd": [str(curve.run) for curve in curves]}


def test_curves_are_drawn_with_bands(trained, tmp_path):
    pytest.importorskip("matplotlib")
    curves = [read_curve(trained(f"gkd-{seed}", {0: 4, 6: won}, seed=seed)) for seed, won in ((1, 4), (2, 8))]
    draw_curves(curves, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert "FillBetweenPolyCollection" in drawn or "PolyCollection" in drawn


def test_the_command_writes_checks_and_tells_stale(trained, tmp_path, capsys):
    folders = [str(trained(f"gkd-{seed}", {0: 4, 6: 8}, checkpoints=(6,), seed=seed)) for seed in (1, 2)]
    table = str(tmp_path / "table.md")
    assert agentbench(("report", *folders, "-o", table)) == 0
    assert agentbench(("report", *folders, "-o", table, "--check")) == 0
    (tmp_path / "gkd-2" / "checkpoint-6").rmdir()  # a number that no weights belong to any more
    assert agentbench(("report", *folders, "-o", table, "--check")) == 1
    assert "stale: " in capsys.readouterr().out
    assert agentbench(("report", *folders, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][folders[1]]["best"] is None
    assert found["runs"][folders[0]]["best"]["checkpoint"].endswith("checkpoint-6")
    assert agentbench(("report", *folders, "-o", "table.txt")) == 2
    assert agentbench(("report", *folders, "--over", "step")) == 2
    assert "Did you mean 'steps'" in capsys.readouterr().err
    assert agentbench(("report", *folders, "--check")) == 2
    assert "needs the page that was written" in capsys.readouterr().err


def test_a_training_run_that_never_evaluated_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text("max_steps: 3\n")
    with pytest.raises(MissingData, match="training run without evaluations"):
        read_curve(tmp_path)


def test_lines_that_are_none_of_a_training_run_are_named(trained):
    folder = trained("one", {0: 4, 6: 8})
    (folder / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    with pytest.raises(CorruptData, match=r"metrics\.jsonl line 1 names no step"):
        read_curve(folder)
