"""Suites: every panel, player and seed in one table, resumable, honest about what could not be played."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import yaml
from places import TOY

from agentbench.cli import run
from agentbench.errors import ConfigError, MissingData, UnknownName, UsageError
from agentbench.evaluation.suite import (
    RECORD,
    TABLE,
    Player,
    all_suites,
    load_published,
    load_suite,
    run_suite,
    suite_pages,
    table,
    write_suite,
)
from agentbench.registry import load

write_panel = load("envs", f"{TOY}:write_panel")


@pytest.fixture
def toy(tmp_path):
    values = {"id": "toy@1", "description": "A toy.", "panels": [{"panel": write_panel(tmp_path)}]}
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(values))
    return load_suite(str(file))


def test_shipped_suites_name_panels_that_exist():
    from agentbench.evaluation.panels import load_panel

    assert {suite.id for suite in all_suites()} >= {"mini@1", "atod@1", "agents@1"}
    for suite in all_suites():
        for item in suite.panels:
            load_panel(item["panel"])


def test_players_and_seeds_fill_the_table(toy, tmp_path):
    cells = run_suite(toy, [Player("null"), Player("random")], tmp_path / "out", seeds=[0, 1])
    assert [(cell.player, len(cell.values)) for cell in cells] == [("null", 2), ("random", 2)]
    assert cells[0].values == [0.0, 0.0]
    assert "0.0 (sd 0.0; 0.0, 0.0; n=24)" in table(toy, cells)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["null", "random"]


def test_a_suite_that_was_stopped_goes_on(toy, tmp_path):
    whole = run_suite(toy, [Player("random")], tmp_path / "whole", seeds=[0, 1])

    def stop(episode, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(toy, [Player("random")], tmp_path / "cut", seeds=[0, 1], progress=stop)
    with pytest.raises(UsageError, match="use --resume"):
        run_suite(toy, [Player("random")], tmp_path / "cut", seeds=[0, 1])
    resumed = run_suite(toy, [Player("random")], tmp_path / "cut", seeds=[0, 1], resume=True)
    assert [cell.values for cell in resumed] == [cell.values for cell in whole]


def test_a_panel_without_its_data_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "none"))
    values = {
        "id": "two@1",
        "description": "x",
        "panels": [{"panel": "alfworld/valid-seen@2"}, {"panel": "corridor/test@1"}],
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
    assert run(("suite", str(tmp_path / "two.yaml"), "--policy", "expert", "-o", str(tmp_path / "out"))) == 1
    shown = capsys.readouterr().out
    assert "| expert | – | 100.0 [97.1, 100.0] n=128 |" in shown
    assert "expert on alfworld/valid-seen@2:" in shown
    record = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert [cell["values"] for cell in record["cells"]] == [[], [1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"panels": []}, "panels"),
        ({"panels": [{"split": "x"}]}, "names no panel"),
        ({"panels": [{"panel": "a@1", "temprature": 1}]}, "'temprature' is no key"),
        ({"panels": [{"panel": "a@1"}, {"panel": "a@1"}]}, "occurs twice"),
        ({"id": "noversion"}, "id"),
    ],
)
def test_broken_suites_are_refused(tmp_path, change, message):
    values = {"id": "x@1", "description": "x", "panels": [{"panel": "corridor/test@1"}]} | change
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        load_suite(str(tmp_path / "x.yaml"))


def test_unknown_suites_and_players_without_a_name(tmp_path, capsys):
    with pytest.raises(UnknownName, match="Did you mean 'mini@1'"):
        load_suite("mini@2")
    with pytest.raises(MissingData):
        load_suite("absent.yaml")
    assert run(("suite", "mini@1", "-o", str(tmp_path / "o"))) == 2
    assert "name who plays" in capsys.readouterr().err


def test_a_killed_suite_resumes_to_the_table_of_one_that_was_not(toy, tmp_path):
    def suite(output, *words):
        return (sys.executable, "-m", "agentbench", "suite", str(tmp_path / "toy.yaml"), "--policy", "random", *words,
                "--seed", "0", "--seed", "1", "-o", str(tmp_path / output))  # fmt: skip

    values = {
        "id": "toy@1",
        "description": "A toy.",
        "panels": [{**toy.panels[0], "env_options": {"pause": 0.05}}],
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    subprocess.run(suite("whole"), check=True, capture_output=True)
    cut = subprocess.Popen(suite("cut", "--concurrency", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    record = (
        tmp_path / "cut" / "random" / toy.panels[0]["panel"].replace("/", "_") / "seed-0" / "episodes.jsonl"
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not (record.exists() and record.read_bytes().count(b"\n") > 2):
        time.sleep(0.02)
    os.kill(cut.pid, signal.SIGKILL)
    cut.communicate()
    assert 2 < record.read_bytes().count(b"\n") < 12
    assert not (tmp_path / "cut" / TABLE).exists()
    done = subprocess.run(suite("cut", "--concurrency", "1", "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cut" / TABLE).read_text() == (tmp_path / "whole" / TABLE).read_text() == done.stdout


def test_the_written_table_is_checked_against_the_runs(toy, tmp_path, capsys):
    out = tmp_path / "out"
    write_suite(out, toy, run_suite(toy, [Player("random"), Player("null")], out, seeds=[0, 1]))
    assert suite_pages(out) == {name: (out / name).read_bytes() for name in (TABLE, RECORD)}
    assert run(("report", str(out), "--check")) == 0
    (out / TABLE).write_text((out / TABLE).read_text().replace("random", "Random"))
    assert run(("report", str(out), "--check")) == 1
    assert f"stale: {TABLE}" in capsys.readouterr().out
    assert run(("report", str(out))) == 0
    assert run(("report", str(out), "--check")) == 0
    (episodes,) = (out / "random").glob("*/seed-1/episodes.jsonl")
    episodes.write_bytes(b"".join(episodes.read_bytes().splitlines(keepends=True)[:-1]))
    assert run(("report", str(out), "--check")) == 1
    assert f"stale: {TABLE}, {RECORD}" in capsys.readouterr().out


def test_published_numbers_are_marked_as_copied(toy, tmp_path):
    panel = toy.panels[0]["panel"]
    rows = [
        {"player": "Paper", "panel": panel, "value": 0.617, "n": 134, "source": "arXiv:0000.00000, Table 2"}
    ]
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(rows))
    known = load_published(tmp_path / "published.yaml", toy)
    cells = run_suite(toy, [Player("null")], tmp_path / "out")
    write_suite(tmp_path / "out", toy, cells, known)
    text = (tmp_path / "out" / TABLE).read_text()
    assert "| Paper (published) | 61.7 |" in text
    assert "copied from arXiv:0000.00000, Table 2, n=134; not played here" in text
    assert suite_pages(tmp_path / "out")[TABLE] == text.encode()
    for change, message in (
        ({"panel": "other@1"}, "no panel of toy@1 'other@1'"),
        ({"value": 61.7}, "value = 61.7"),
    ):
        (tmp_path / "published.yaml").write_text(yaml.safe_dump([rows[0] | change]))
        with pytest.raises(UsageError, match=message):
            load_published(tmp_path / "published.yaml", toy)


def test_the_small_suite_takes_seconds_with_the_expert(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        (
            sys.executable,
            "-m",
            "agentbench",
            "suite",
            "mini@1",
            "--policy",
            "expert",
            "-o",
            str(tmp_path / "out"),
        ),
        capture_output=True,
        text=True,
        env={**os.environ, "AGENTBENCH_DATA": str(tmp_path / "none")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("100.0 [") >= 4
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # processor seconds, whatever else the machine does
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
