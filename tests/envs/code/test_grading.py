"""`agentbench judge`: verdicts of given programs, pass@k, resuming, refusals."""

import json
import time

import pytest

from agentbench.cli import run
from agentbench.envs.code.grading import grade
from agentbench.errors import CorruptData, UsageError

TASKS = [
    {"task_id": "add", "entry_point": "add", "tests": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]},
    {"task_id": "sum", "tests": [{"input": "2 3", "output": "5"}]},
]
ADD = "def add(a, b):\n    return a + b\n"
SUM = "print(sum(map(int, input().split())))"


@pytest.fixture
def files(tmp_path):
    def write(solutions, tasks=TASKS):
        (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
        (tmp_path / "solutions.jsonl").write_text("\n".join(map(json.dumps, solutions)))
        return tmp_path / "tasks.jsonl", tmp_path / "solutions.jsonl", tmp_path / "verdicts.jsonl"

    return write


def solution(task, text, key="solution"):
    return {"task_id": task, key: text}


def lines(path):
    return {
        (line["task_id"], line["sample"]): line for line in map(json.loads, path.read_text().splitlines())
    }


def test_each_program_gets_a_verdict_with_its_reason_and_ground(judge, files):
    broken = "```python\n" + ADD + "```"
    tasks, solutions, output = files(
        [solution("add", ADD), solution("add", broken), solution("sum", "print(6)")]
    )
    found = grade(tasks, solutions, output)
    rows = lines(output)
    assert [rows[key]["verdict"] for key in (("add", 0), ("add", 1), ("sum", 0))] == [
        "passed",
        "passed",
        "wrong_answer",
    ]
    assert rows["add", 1]["extraction"] == "agentbench@1"
    assert rows["add", 0]["extraction"] == "none"
    assert (rows["sum", 0]["got"], rows["sum", 0]["expected"]) == ("6\n", "5")
    assert rows["add", 0]["isolation"] == judge.proof.way
    assert rows["add", 0]["python"]
    assert found.rates[1].value == 0.5  # one task of two
    assert found.verdicts == {"passed": 2, "wrong_answer": 1}


def test_records_tell_verdict_and_processor_time_of_each_test(judge, files):
    busy = "import time\ndef add(a, b):\n    end = time.process_time() + 0.2 * (a == 2)\n"
    busy += "    while time.process_time() < end: pass\n    return a + b + (a < 0)\n"
    paths = files([solution("add", busy), solution("sum", SUM)])
    grade(*paths)
    rows = lines(paths[2])
    first, second = rows["add", 0]["tests"]
    assert (first["verdict"], second["verdict"]) == ("passed", "wrong_answer")
    assert 0.19 < first["cpu_seconds"] < 0.5
    assert second["cpu_seconds"] < 0.1
    assert "memory_bytes" not in first  # both calls are of one process
    (printed,) = rows["sum", 0]["tests"]
    assert printed["memory_bytes"] == rows["sum", 0]["memory_bytes"] > 1 << 20


def test_it_ends_whatever_the_last_programs_leave_running(judge, files):
    waits = "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\n"
    tasks = [{**TASKS[0], "cpu_seconds": 1}, {**TASKS[1], "cpu_seconds": 1}]
    paths = files([solution("add", waits + ADD), solution("sum", f"{SUM}\nwhile True: pass")], tasks)
    began = time.monotonic()
    assert grade(*paths, workers=2).verdicts == {"passed": 1, "time_limit": 1}
    assert time.monotonic() - began < 100
    assert len(lines(paths[2])) == 2


def test_pass_at_k_is_the_unbiased_estimate(judge, files):
    # add: 1 of 4 right, pass@2 = 1 - C(3,2)/C(4,2) = 1 - 3/6 = 0.5; sum: 4 of 4.
    wrong = [solution("add", "def add(a, b):\n    return 0\n")] * 3
    tasks, solutions, output = files([solution("add", ADD), *wrong, *[solution("sum", SUM)] * 4])
    found = grade(tasks, solutions, output, ks=(1, 2))
    assert found.rates[1].value == pytest.approx((0.25 + 1) / 2)
    assert found.rates[2].value == pytest.approx((0.5 + 1) / 2)


def test_k_above_the_number_of_programs_is_refused(files):
    paths = files([solution("add", ADD), solution("sum", SUM), solution("sum", SUM)])
    with pytest.raises(
        UsageError, match="pass@2 needs 2 programs for each task; the fewest that a task has is 1"
    ):
        grade(*paths, ks=(2,))


def test_tasks_without_a_program_count_as_failed(judge, files):
    found = grade(*files([solution("add", ADD)]))
    assert found.missing == 1
    assert found.rates[1].value == 0.5


def test_resuming_judges_what_is_missing_or_changed_alone(judge, files):
    paths = files([solution("add", ADD), solution("sum", SUM)])
    grade(*paths)
    before = paths[2].read_text()
    with pytest.raises(UsageError, match="is there already; --resume"):
        grade(*paths)
    paths[2].write_text(before[: before.index("\n") + 20])  # killed in the second line
    found = grade(*paths, resume=True)
    assert found.verdicts == {"passed": 2}
    assert lines(paths[2]) == lines(paths[2])
    assert len(paths[2].read_text().splitlines()) == 2
    files([solution("add", "def add(a, b):\n    return 0\n"), solution("sum", SUM)])
    assert grade(*paths, resume=True).verdicts == {"passed": 1, "wrong_answer": 1}


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        (solution("other", ADD), UsageError, "entry 1: no task 'other'"),
        ({"task_id": "add"}, CorruptData, "entry 1: needs the text 'solution' or 'completion'"),
        (solution("add", 5), CorruptData, "entry 1: needs the text"),
    ],
)
def test_solutions_that_do_not_fit_are_refused(files, entry, error, words):
    with pytest.raises(error, match=words):
        grade(*files([entry]))


def test_completions_continue_the_prompt(judge, files):
    task = {
        "task_id": "HumanEval/0",
        "prompt": 'def add(a, b):\n    """Add."""\n',
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    paths = files([solution("HumanEval/0", "    return a + b\n", "completion")], [task])
    assert grade(*paths).verdicts == {"passed": 1}


def test_the_command_prints_a_summary_and_its_exit_code_says_how_it_went(judge, files, capsys):
    tasks, solutions, output = files([solution("add", ADD), solution("sum", SUM)])
    words = ["judge", "--tasks", str(tasks), "--solutions", str(solutions), "-o", str(output)]
    assert run(words) == 0
    assert capsys.readouterr().out.startswith("pass@1 100.0% [100.0%, 100.0%] over 2 tasks\n2 passed\n")
    assert run(words) == 2
    assert run([*words, "--resume", "--json"]) == 0
    assert run([*words, "--resume", "--isolation", "root", "--unsafe-no-sandbox"]) == 2
    assert run([*words, "--resume", "--isolation", "moon"]) == 2
    assert "no isolation 'moon'; known: auto" in capsys.readouterr().err


def test_without_isolation_the_command_refuses_with_code_2(files, capsys, monkeypatch):
    from agentbench.envs.code import judge as module
    from agentbench.envs.code.sandbox import NoIsolation

    def refuse(sandbox):
        raise NoIsolation("no isolation holds here: --unsafe-no-sandbox")

    monkeypatch.setattr(module, "choose", refuse)
    tasks, solutions, output = files([solution("add", ADD)])
    assert run(["judge", "--tasks", str(tasks), "--solutions", str(solutions), "-o", str(output)]) == 2
    assert "no isolation holds here" in capsys.readouterr().err
    assert not output.exists()


def test_broken_infrastructure_is_no_failure_of_the_program(judge, files, monkeypatch, capsys):
    from agentbench.envs.code import judge as module
    from agentbench.envs.code.sandbox import SandboxFailure

    def broken(*arguments, **options):
        raise SandboxFailure("no zygote today")

    tasks, solutions, output = files([solution("add", ADD), solution("sum", SUM)])
    words = ["judge", "--tasks", str(tasks), "--solutions", str(solutions), "-o", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_worker", broken)
        assert run(words) == 1
    assert "2 programs got no verdict" in capsys.readouterr().out
    assert run([*words, "--resume"]) == 0  # tried again
    assert "2 passed" in capsys.readouterr().out
