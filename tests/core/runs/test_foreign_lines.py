"""Lines that the run did not write are refused by name, and never counted: in episodes.jsonl and beside it."""

import os
import shutil

import orjson
import pytest

from agentbench.cli import run as cli
from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.types import episode_seed

PANEL = "corridor/test@1"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "done"
    values = {"panel": PANEL, "policy": "random", "limit": 4, "output_dir": str(folder), "seed": 5}
    evaluate(validate(EvalConfig, values))
    return folder


def words(folder):
    return (
        *("eval", "--panel", PANEL, "--policy", "random", "--limit", "4", "--seed", "5"),
        *("--output", str(folder), "--resume"),
    )


def another_task(line):
    line["task"] = "c-9-9-9"
    line["seed"] = episode_seed(5, "corridor", "c-9-9-9", 0)


def put(*path, value):
    def edit(line):
        at = line
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return edit


def drop(*path):
    def edit(line):
        at = line
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return edit


EDITS = {
    "another task": another_task,
    "another seed": put("seed", value=6),
    "another repeat": put("repeat", value=1),
    "another env": put("env", value="hilo"),
    "another end": put("end", value="other"),
    "success null": put("success", value=None),
    "success a word": put("success", value="yes"),
    "score a word": put("score", value="high"),
    "score beyond 1": put("score", value=7.5),
    "score null": put("score", value=None),
    "score true": put("score", value=True),
    "task a list": put("task", value=["a"]),
    "task a number": put("task", value=3),
    "seed a word": put("seed", value="5"),
    "turns a word": put("turns", value="many"),
    "turns a number": put("turns", value=3),
    "a turn is text": put("turns", 0, value="go left"),
    "a turn twice": lambda line: line["turns"].append(line["turns"][0]),
    "a reward in words": put("turns", 0, "reward", value="1"),
    "an info that is a list": put("turns", 0, "info", value=[]),
    "an action that is text": put("turns", 0, "action", value="go left"),
    "another finish": put("turns", 0, "action", "finish", value="done"),
    "ids in words": put("turns", 0, "action", "token_ids", value=["a"]),
    "ids without log-probs": put("turns", 0, "action", "token_ids", value=[1]),
    "an error that ended well": put("error", value={"type": "a", "message": "b", "where": "env"}),
    "an end by error without one": put("end", value="error"),
    "a turn lacks its action": drop("turns", 0, "action"),
    "no task": drop("task"),
    "another schema": put("schema", value=99),
    "a further key": put("more", value=1),
    "turns an empty text": put("turns", value=""),
    "turns an empty record": put("turns", value={}),
    "error an empty text": put("error", value=""),
    "error false": put("error", value=False),
    "parent an empty list": put("parent", value=[]),
    "a label that is 0": put("turns", 0, "label", value=0),
    "ids an empty text": put("turns", 0, "action", "token_ids", value=""),
    "log-probs an empty record": put("turns", 0, "action", "logprobs", value={}),
    "context an empty text": put("turns", 0, "context_ids", value=""),
    "schema true": put("schema", value=True),
    "an error of no known place": lambda line: line.update(
        end="error", success=None, error={"type": "a", "message": "b", "where": "moon"}
    ),
}


@pytest.fixture
def spoilt(done, tmp_path):
    """Copy the run and edit the second of its episodes."""

    def spoil(edit, name="episodes.jsonl"):
        folder = tmp_path / "run"
        shutil.copytree(done, folder)
        lines = [orjson.loads(line) for line in (folder / name).read_bytes().splitlines()]
        edit(lines[1])
        (folder / name).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        return folder

    return spoil


def refused(capsys, *line):
    assert cli(line) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_foreign_line_is_refused_by_every_reader(done, spoilt, capsys, edit):
    folder = spoilt(edit)
    for line in (words(folder), ("report", str(folder)), ("compare", str(done), str(folder))):
        assert "episodes.jsonl" in refused(capsys, *line)


@pytest.mark.parametrize(
    "edit",
    [
        put("seconds", value="long"),
        put("at", value=[1]),
        put("task", value=None) and drop("task"),
        put("usage", value=3),
        put("usage", value={"requests": "many"}),
        put("repeat", value="x"),
        *(put("seconds", value=value) for value in ("nan", "inf", "1", -5, 1e308, True, None)),
        *(put("at", value=value) for value in ("nan", -1, 1e308)),
        *(put("usage", value={"requests": value}) for value in ("nan", "inf", 1e308, None)),
    ],
)
def test_a_timing_that_is_none_is_refused(spoilt, capsys, edit):
    folder = spoilt(edit, "timings.jsonl")
    assert "timings.jsonl line 2" in refused(capsys, "report", str(folder))


def test_a_run_without_a_list_of_tasks_still_refuses_one_too_many(done, spoilt, capsys):
    folder = spoilt(lambda line: None)
    versions = orjson.loads((folder / "versions.json").read_bytes())
    del versions["tasks"]  # as runs of earlier releases are
    (folder / "versions.json").write_bytes(orjson.dumps(versions))
    assert cli(("report", str(folder))) == 0
    capsys.readouterr()
    line = orjson.loads((folder / "episodes.jsonl").read_bytes().splitlines()[0])
    another_task(line)
    with (folder / "episodes.jsonl").open("ab") as file:
        file.write(orjson.dumps(line) + b"\n")
    assert "is of no task of" in refused(capsys, "report", str(folder))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", b"- 1"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"a: ["),
        ("config.yaml", b"max_error_rate: much"),
        ("versions.json", b"[]"),
        ("versions.json", b"\xff"),
        ("versions.json", b'{"panel": 3}'),
        ("versions.json", b'{"panel": null, "policy": 3}'),
        ("timings.jsonl", b"[]\n"),
        ("timings.jsonl", b"\xff\n"),
        ("episodes.jsonl", b"null\n"),
        ("episodes.jsonl", b"\xff\n"),
    ],
)
def test_another_file_of_the_run_that_is_broken_is_refused(done, spoilt, capsys, file, text):
    folder = spoilt(lambda line: None)
    (folder / file).write_bytes(text)
    refused(capsys, *words(folder))
    assert file in refused(capsys, "report", str(folder))
    if file != "timings.jsonl" and b"max_error" not in text:  # which it does not read
        assert file in refused(capsys, "compare", str(done), str(folder))


@pytest.mark.parametrize("name", ["config.yaml", "versions.json", "episodes.jsonl", "timings.jsonl"])
def test_a_folder_in_place_of_a_file_is_one_line(spoilt, capsys, name):
    folder = spoilt(lambda line: None)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(capsys, *words(folder))
    assert name in refused(capsys, "report", str(folder))


def in_its_place(kind, path):
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize("name", ["episodes.jsonl", "timings.jsonl", "versions.json"])
@pytest.mark.parametrize("kind", ["a pipe", "/dev/null", "/dev/zero", "/dev/full"])
def test_what_never_ends_or_never_begins_is_no_file(done, tmp_path, capsys, name, kind):
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    in_its_place(kind, folder / name)
    for command in (words(folder), ("report", str(folder)), ("compare", str(done), str(folder))):
        if command[0] == "compare" and name == "timings.jsonl":
            continue  # which it does not read
        assert cli(command) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), "where a file is wanted" in said) == (1, True), said
