"""Episodes as chat messages: the same words that the model read and said, in the shape of its prompt."""

import json
import shutil

import pytest
import yaml

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.errors import UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.evaluation.export import conversations
from agentbench.runs.episodes import read_episodes
from agentbench.runs.folder import RunFolder

RIGHT = "<think>by the door</think><action>go right</action>"


@pytest.fixture
def play(tmp_path):
    def run(name, **changes):
        values = {
            "panel": "corridor/test@1",
            "policy": "model",
            "engine": "scripted",
            "model_name_or_path": RIGHT,
            "limit": 2,
            "max_turns": 3,
            "output_dir": str(tmp_path / name),
        }
        evaluate(validate(EvalConfig, values | changes))
        return tmp_path / name

    return run


def test_a_prompt_for_every_turn_gives_a_row_for_every_turn(play):
    run = play("fresh", history=1)
    rows, episodes = list(conversations(run)), read_episodes(run)
    assert len(rows) == sum(len(item.turns) for item in episodes)
    first, second = rows[:2]
    assert [message["role"] for message in first["messages"]][-2:] == ["user", "assistant"]
    assert first["messages"][-1]["content"] == RIGHT
    seen = episodes[0].turns
    assert seen[0].observation in first["messages"][-2]["content"]
    assert seen[1].observation in second["messages"][-2]["content"]
    assert seen[0].observation in second["messages"][-2]["content"]  # the history of one turn
    assert (first["turn"], second["turn"], first["task"]) == (0, 1, episodes[0].task)


def test_a_growing_conversation_gives_one_row_for_an_episode(play):
    run = play("growing", prompt="corridor/transcript", model_name_or_path="go right")
    rows, episodes = list(conversations(run)), read_episodes(run)
    assert len(rows) == len(episodes) == 2
    for row, episode in zip(rows, episodes, strict=True):
        said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert said == [turn.action.text for turn in episode.turns]
        asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
        assert all(turn.observation in text for turn, text in zip(episode.turns, asked, strict=True))


def test_only_episodes_that_succeeded_on_request(play):
    run = play("some", limit=20, max_turns=12)
    episodes = read_episodes(run)
    won = {item.task for item in episodes if item.success}
    assert {row["task"] for row in conversations(run, won=True)} == won
    assert {row["task"] for row in conversations(run)} == {item.task for item in episodes}


def test_a_prompt_that_has_changed_since_is_refused(play, tmp_path):
    from agentbench.dialogue.prompt import shipped_prompts

    file = tmp_path / "mine.yaml"
    shutil.copy(shipped_prompts()["corridor/transcript"], file)
    run = play("changed", prompt=str(file))
    assert len(list(conversations(run))) == 2
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "first": "Other: " + values["first"]}))
    with pytest.raises(UsageError, match="says something else now"):
        list(conversations(run))


def test_players_that_read_no_prompt_are_refused_with_the_way_out(tmp_path):
    values = {"panel": "corridor/test@1", "policy": "expert", "limit": 1, "output_dir": str(tmp_path / "run")}
    evaluate(validate(EvalConfig, values))
    with pytest.raises(UsageError, match="ready-made policies read none"):
        list(conversations(tmp_path / "run"))


def test_the_command_writes_lines_of_json(play, tmp_path, capsys):
    run, file = play("run"), tmp_path / "out.jsonl"
    assert agentbench(("export", str(run), "-o", str(file))) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == json.loads(json.dumps(list(conversations(run))))
    assert f"{len(lines)} conversations" in capsys.readouterr().out
    assert agentbench(("export", str(run), "-o", str(tmp_path / "out.csv"))) == 2
    empty = tmp_path / "empty"
    with RunFolder.open(empty, {"panel": "corridor/test@1"}) as folder:
        folder.fix_versions(json.loads((run / "versions.json").read_text()))
    assert agentbench(("export", str(empty), "-o", str(file))) == 2
    assert "has no episode to export" in capsys.readouterr().err
