import dataclasses
import subprocess
import sys

import orjson
import pytest

from agentbench.errors import CorruptData, MissingData, UsageError
from agentbench.runs.episodes import decode_episode, encode_episode, read_episodes
from agentbench.runs.folder import RunFolder, read_timings, run_config
from agentbench.runs.resume import changes
from agentbench.types import Action, Failure, Parent, Trajectory, Turn, to_dict


def episode(task="t00", repeat=0, **keys):
    turn = Turn(
        index=0,
        observation="you see ünïcode",
        action=Action("look", (5, 6), (-0.5, -0.25), "stop", 3, "student"),
        env_action="look",
        reward=1.5,
        context_ids=(1, 2, 3),
        invalid="no_think",
        annotations={"weight": 0.5},
    )
    values = {
        "id": f"toy/{task}#{repeat}",
        "env": "toy",
        "task": task,
        "seed": 2**62,
        "turns": (turn,),
        "success": True,
        "score": 1.0,
        "end": "terminated",
        "repeat": repeat,
        "task_type": "odd",
        "parent": Parent("toy/x#0", 2),
        "seconds": 1.25,
    }
    return Trajectory(**(values | keys))


def broken(task="t00", repeat=0):
    failure = Failure("RuntimeError", "the toy broke", "env")
    return episode(task, repeat, success=None, score=0.0, end="error", error=failure)


def test_an_episode_survives_the_round_trip():
    for item in (episode(), broken()):
        assert decode_episode(orjson.loads(encode_episode(item))) == item


def test_a_line_holds_the_plain_record_its_schema_and_no_time():
    line = orjson.loads(encode_episode(episode()))
    assert line == {"schema": 2, **orjson.loads(orjson.dumps(to_dict(episode())))}
    assert "seconds" not in line
    assert encode_episode(episode()) == encode_episode(dataclasses.replace(episode(), seconds=99.0))


def test_a_run_folder_keeps_what_was_appended(tmp_path):
    with RunFolder.open(tmp_path / "run", {"seed": 1}) as run:
        run.append(episode("a"))
        run.append(episode("b", 1))
    assert [(item.task, item.repeat) for item in read_episodes(tmp_path / "run")] == [("a", 0), ("b", 1)]
    assert run_config(tmp_path / "run") == {"seed": 1}
    assert read_timings(tmp_path / "run").seconds == {("a", 0): 1.25, ("b", 1): 1.25}


def test_wall_time_adds_up_over_sittings(tmp_path):
    lines = [(2.0, True), (5.0, False), (1.0, True), (4.5, False), (7.0, True)]
    text = [
        {"task": f"t{i}", "repeat": 0, "seconds": 1.0, "at": at, **({"first": True} if first else {})}
        for i, (at, first) in enumerate(lines)
    ]
    (tmp_path / "timings.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in text))
    assert read_timings(tmp_path).wall == 16.5  # 5 + 4.5 + 7


def test_a_used_folder_is_refused_without_resume(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        RunFolder.open(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        RunFolder.open(tmp_path / "run", {})


def test_resume_names_the_key_that_changed(tmp_path):
    RunFolder.open(tmp_path, {"seed": 1, "env": {"options": {"size": 3}}, "concurrency": 1}).close()
    changed = {"seed": 1, "env": {"options": {"size": 4}}, "concurrency": 8}
    with pytest.raises(UsageError, match=r"env\.options\.size was 3 and is now 4"):
        RunFolder.open(tmp_path, changed, resume=True, free=frozenset({"concurrency"}))
    same = {"seed": 1, "env": {"options": {"size": 3}}, "concurrency": 8}
    with pytest.raises(UsageError, match="concurrency was 1 and is now 8"):
        RunFolder.open(tmp_path, same, resume=True)
    RunFolder.open(tmp_path, same, resume=True, free=frozenset({"concurrency"})).close()


def test_resume_of_a_new_folder_starts_it(tmp_path):
    RunFolder.open(tmp_path / "new", {"seed": 1}, resume=True).close()
    assert run_config(tmp_path / "new") == {"seed": 1}


def test_resume_refuses_records_without_a_configuration(tmp_path):
    (tmp_path / "episodes.jsonl").write_text("")
    with pytest.raises(UsageError, match="no config"):
        RunFolder.open(tmp_path, {}, resume=True)


@pytest.mark.parametrize("torn", [b'{"schema":1,"id":"to', b"x" * 200_000])
def test_resume_cuts_off_a_torn_last_line_of_both_files(tmp_path, torn):
    with RunFolder.open(tmp_path, {}) as run:
        run.append(episode("a"))
    before = {name: (tmp_path / name).read_bytes() for name in ("episodes.jsonl", "timings.jsonl")}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data + torn)
    with pytest.raises(CorruptData, match=r"episodes\.jsonl line 2 is torn"):
        read_episodes(tmp_path)
    with RunFolder.open(tmp_path, {}, resume=True) as run:
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        run.append(episode("b"))
    assert [item.task for item in read_episodes(tmp_path)] == ["a", "b"]


def test_a_torn_first_line_leaves_an_empty_file(tmp_path):
    RunFolder.open(tmp_path, {}).close()
    (tmp_path / "episodes.jsonl").write_bytes(b'{"schema"')
    RunFolder.open(tmp_path, {}, resume=True).close()
    assert (tmp_path / "episodes.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{nonsense}\n", "line 2 is not JSON"),
        (b"[1]\n", "line 2 holds list"),
        (b'{"schema":9}\n', "line 2: schema 9"),
        (b'{"schema":1,"turns":[]}\n', "line 2: not an episode"),
        (b"\n", "line 2 is not JSON"),
    ],
)
def test_reading_is_strict_and_names_the_line(tmp_path, line, message):
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(encode_episode(episode()) + b"\n" + line)
    with pytest.raises(CorruptData, match=message):
        read_episodes(file)


def test_an_episode_recorded_twice_is_an_error_unless_the_first_broke(tmp_path):
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(
        b"".join(encode_episode(item) + b"\n" for item in (broken("a"), episode("b"), episode("a")))
    )
    assert [(item.task, item.ok) for item in read_episodes(file)] == [("b", True), ("a", True)]
    file.write_bytes(b"".join(encode_episode(item) + b"\n" for item in (episode("a"), episode("a"))))
    with pytest.raises(CorruptData, match="line 2 repeats task 'a'"):
        read_episodes(file)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MissingData, match=r"episodes\.jsonl"):
        read_episodes(tmp_path)
    with pytest.raises(MissingData, match=r"no config\.yaml"):
        run_config(tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    program = (
        "import sys; from pathlib import Path; from agentbench.runs.folder import RunFolder\n"
        "from agentbench.errors import UsageError\n"
        "try: RunFolder.open(Path(sys.argv[1]), {}, resume=True)\n"
        "except UsageError as error: print(error)\n"
    )
    with RunFolder.open(tmp_path, {}):
        words = [sys.executable, "-c", program, str(tmp_path)]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "being written by another process" in found.stdout


def test_versions_are_written_once_and_bind_on_resume(tmp_path):
    with RunFolder.open(tmp_path, {}) as run:
        run.fix_versions({"policy": {"sampling": (1, 2)}, "python": "3.11"}, binding=("policy",))
        run.fix_versions({"policy": {"sampling": (1, 2)}, "python": "3.12"}, binding=("policy",))
        assert orjson.loads((tmp_path / "versions.json").read_bytes())["python"] == "3.11"
        with pytest.raises(UsageError, match=r"policy\.sampling was \[1, 2\] and is now \[1, 3\]"):
            run.fix_versions({"policy": {"sampling": (1, 3)}}, binding=("policy",))


def test_changes_walk_nested_values():
    assert list(changes({"a": {"b": 1}}, {"a": {"b": 1}})) == []
    assert list(changes({"a": {"b": 1}}, {"a": {"b": 2}})) == [("a.b", 1, 2)]
    assert list(changes({"a": 1}, {"a": 1, "c": None})) == [("c", "(not set)", None)]


def test_records_of_schema_1_are_read_with_their_facts_in_fields():
    line = orjson.loads(encode_episode(episode()))
    line["schema"] = 1
    for turn in line["turns"]:
        for name in ("invalid", "penalty", "label", "shown", "notes"):
            del turn[name]
    line["turns"][0]["info"] = {
        "valid": False,
        "invalid": "no_action",
        "penalty": 0.1,
        "label": "go left",
        "label_ids": [3, 4],
    }
    first = decode_episode(line).turns[0]
    assert (first.invalid, first.penalty, first.info) == ("no_action", 0.1, {"valid": False})
    assert (first.label.text, first.label.token_ids) == ("go left", (3, 4))
