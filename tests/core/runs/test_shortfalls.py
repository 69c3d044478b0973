"""A run that is not all there, or of which too much broke, is called so wherever its numbers are shown."""

import json
import shutil

import pytest
from places import TOY

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.evaluation.suite import Cell, Suite, table
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.summary import summary_of

pytest.importorskip("statsmodels")
write_panel = load("envs", f"{TOY}:write_panel")


@pytest.fixture
def play(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = write_panel(tmp_path)

    def run(name, **keys):
        values = {"panel": panel, "policy": "null", "output_dir": name}
        evaluate(validate(EvalConfig, values | keys), policy=ScriptedPolicy(["win"]))

    return run


def cut(run):
    """Leave every second episode, as a run that was killed: the longest are played last."""
    lines = (run / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (run / "episodes.jsonl").write_bytes(b"".join(lines[::2]))


INCOMPLETE = "incomplete: 6 of 12 episodes are on record"
WITHHELD = "headline withheld: 16.7 % of the episodes broke, 1.0 % are allowed"  # 2 of 12


@pytest.fixture(params=[INCOMPLETE, WITHHELD], ids=["incomplete", "withheld"])
def short(request, play, tmp_path):
    """Folders `whole`, `whole-1`, `short`, `short-1`; and what is to be said of the short ones."""
    play("whole")
    play("whole-1", seed=1)
    for name, seed in (("short", 0), ("short-1", 1)):
        play(
            name,
            seed=seed,
            **({"env_options": {"crash": ["t00", "t01"]}} if request.param == WITHHELD else {}),
        )
        if request.param == INCOMPLETE:
            cut(tmp_path / name)
    return request.param


COMMANDS = {
    "report": (["report", "short"], 1),
    "compare A": (["compare", "short", "whole"], 1),
    "compare B": (["compare", "whole", "short"], 1),
    "compare json": (["compare", "whole", "short", "--json"], 1),
    "groups": (["compare", "--a", "whole*", "--b", "short*"], 1),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_shows_numbers_says_what_they_lack(short, capsys, name):
    words, code = COMMANDS[name]
    assert agentbench(words) == code
    assert short in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_said_of_whole_runs(play, capsys, name):
    for run, seed in (("whole", 0), ("whole-1", 1), ("short", 0), ("short-1", 1)):
        play(run, seed=seed)
    words, _ = COMMANDS[name]
    assert agentbench(words) == 0
    said = capsys.readouterr().out
    assert "incomplete" not in said
    assert "withheld" not in said
    assert "one side only" not in said


def test_a_card_says_it_too(tmp_path, capsys):
    run = tmp_path / "run"
    played = [
        "eval",
        "--panel",
        "corridor/test@1",
        "--policy",
        "expert",
        "--limit",
        "12",
        "--output",
        str(run),
    ]
    assert agentbench(played) == 0
    assert agentbench(["card", str(run)]) == 0
    assert "incomplete" not in capsys.readouterr().out
    cut(run)
    assert agentbench(["card", str(run)]) == 0
    assert INCOMPLETE in capsys.readouterr().out


def test_the_page_of_episodes_says_it_too(short, tmp_path):
    assert agentbench(["view", "short", "-o", "page.html"]) == 0
    assert short in (tmp_path / "page.html").read_text()


def test_a_suites_table_says_it_too(short, tmp_path):
    suite = Suite(id="s@1", description="d", panels=[{"panel": "toy/test@1"}])
    assert short in table(suite, [Cell("null", "toy/test@1", {0: summary_of(tmp_path / "short")})])


def test_the_page_of_episodes_has_the_figure_of_the_episodes_it_shows(play, tmp_path):
    play("run")  # 4 of 12 are won
    page = tmp_path / "page.html"
    assert agentbench(["view", "run", "-o", str(page)]) == 0
    assert "33.3 %" in page.read_text()
    lines = (tmp_path / "run/episodes.jsonl").read_text().splitlines(keepends=True)
    won = [line for line in lines if json.loads(line)["success"]]
    (tmp_path / "run/episodes.jsonl").write_text("".join(won))
    page.unlink()
    assert agentbench(["view", "run", "-o", str(page)]) == 0
    assert "33.3 %" not in page.read_text()
    assert "100.0 %" in page.read_text()


@pytest.mark.parametrize("name", ["timings.jsonl", "summary.json"])
def test_the_page_of_episodes_needs_no_timings_and_no_summary(play, tmp_path, name):
    play("run")
    (tmp_path / "run" / name).write_text("spoilt\n")
    assert agentbench(["view", "run", "-o", "page.html"]) == 0
    assert "33.3 %" in (tmp_path / "page.html").read_text()


def test_a_comparison_tells_apart_what_broke_and_what_is_not_there(play, tmp_path, capsys):
    play("a", max_error_rate=1.0, env_options={"crash": ["t00", "t01"]})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    lines = (tmp_path / "b/episodes.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["task"] not in ("t10", "t11", "t09")]
    (tmp_path / "b/episodes.jsonl").write_bytes(b"".join(kept))
    assert agentbench(["compare", "a", "b"]) == 1
    said = capsys.readouterr().out
    assert (
        "- 7 pairs of toy/test@1 (5 left out: 2 for an error on either side, 3 on record on one side only)"
        in said
    )
    assert "> **B (b) incomplete: 9 of 12 episodes are on record" in said
    assert "Not every episode of the runs stands behind this" in said
