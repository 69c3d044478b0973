"""Suites: every panel, player and seed in one table, resumable, honest about what could not be played."""

import json

import pytest
import yaml
from places import TOY

from agentbench.cli import run
from agentbench.errors import ConfigError, MissingData, UnknownName, UsageError
from agentbench.evaluation.suite import Player, all_suites, load_suite, run_suite, table
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
