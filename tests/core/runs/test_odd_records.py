"""Run folders with values that no run of ours writes, and pipes for files: one line, never a traceback or a wait."""

import json
import os
import shutil
import threading

import pytest
import yaml

from agentbench.cli import run as agentbench

pytest.importorskip("statsmodels")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A training run's folder with one evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    evaluation = ["eval", "--panel", "corridor/test@1", "--policy", "random", "--limit", "4"]
    assert agentbench([*evaluation, "--output", str(folder / "eval/step-2")]) == 0
    values = {"algorithm": "gkd", "max_steps": 2, "teachers": [{"model_name_or_path": "t"}], "seed": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "versions.json").write_text(json.dumps({"engine": {"weights": "w"}}))
    (folder / "metrics.jsonl").write_text('{"step": 2}\n')
    return folder


@pytest.fixture
def run(played, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(played, "run")
    shutil.copytree(played, "other")
    capsys.readouterr()
    return tmp_path / "run"


COMMANDS = {
    "report": ["report", "run"],
    "card": ["card", "run"],
    "compare": ["compare", "run", "other"],
    "view": ["view", "run/eval/step-2", "-o", "page.html"],
}
ODD = {
    "config.yaml": [
        *({"max_steps": value} for value in ("x", float("nan"), [2])),
        *({"teachers": value} for value in ("x", ["x"], [None], 5)),
    ],
    "versions.json": [{"engine": "x"}, {"engine": [1]}, {"origins": "x"}, {"origins": [1]}],
    "eval/step-2/versions.json": [
        *({"policy": {"policy": "model", "engine": value}} for value in ("x", [1], 5)),
        *({"policy": {"policy": "model", "prompt": value}} for value in ("x", [1])),
        *({key: "x"} for key in ("packages", "hardware", "terms", "options", "trained", "env")),
        *({key: [1]} for key in ("packages", "hardware", "terms", "options", "trained", "env")),
    ],
}
CASES = [(name, odd) for name, values in ODD.items() for odd in values]


@pytest.mark.parametrize(("name", "odd"), CASES, ids=[f"{name}-{odd}" for name, odd in CASES])
def test_odd_values_are_one_line_or_of_no_weight(run, name, odd, capsys):
    path = run / name
    old = yaml.safe_load(path.read_text())
    path.write_text(json.dumps({**old, **odd}) if path.suffix == ".json" else yaml.safe_dump({**old, **odd}))
    for words in COMMANDS.values():
        code = agentbench(words)
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
        assert (code, len(said)) in ((0, 0), (2, 1)), said
        assert code == 0 or "run" in said[0]


def test_the_line_names_the_folder_and_what_to_look_at(run, capsys):
    (run / "config.yaml").write_text("max_steps: x\n")
    assert agentbench(["report", "run"]) == 2
    said = capsys.readouterr().err
    assert "agentbench: run holds what no run of ours writes (ValueError" in said
    assert "compare its config.yaml" in said


@pytest.mark.parametrize(
    "name", ["config.yaml", "versions.json", "episodes.jsonl", "timings.jsonl", "report.md"]
)
@pytest.mark.parametrize("command", ["report", "check", "compare", "view", "card", "resume"])
def test_a_pipe_for_a_file_is_refused_and_not_waited_for(run, command, name, capsys):
    folder = run / "eval/step-2"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    words = {
        **{
            "report": ["report", str(folder)],
            "check": ["report", str(folder), "--check"],
            "card": ["card", str(folder)],
        },
        **{"compare": ["compare", str(folder), "other"], "view": ["view", str(folder), "-o", "page.html"]},
        "resume": [
            "eval",
            "--panel",
            "corridor/test@1",
            "--policy",
            "random",
            "--limit",
            "4",
            "--resume",
            "--output",
        ],
    }[command]
    words = [*words, str(folder)] if command == "resume" else words
    codes = []
    thread = threading.Thread(target=lambda: codes.append(agentbench(words)), daemon=True)
    thread.start()
    thread.join(20)
    assert codes, "it waits for the pipe"
    assert codes[0] in ((0, 1, 2) if name in ("report.md", "timings.jsonl") else (2,))
