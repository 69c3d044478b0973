"""Published files: read as they are, each reference passes, and what is broken is refused by name."""

import json
from collections import Counter

import pytest

from agentbench.datasets import import_data, verify_data
from agentbench.envs.code import dataset
from agentbench.envs.code.formats import doc_examples, kind_of, read_task, read_tasks
from agentbench.envs.code.mutants import CHANGES, mutants
from agentbench.envs.code.sandbox.inside import plain
from agentbench.errors import CorruptData, MissingData, UsageError

HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def add(a, b):\n    """Add.\n    >>> add(1, 2)\n    3\n    >>> add([1], [2])[0]\n    1\n    """\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(5, 6) == 11\n",
}
MBPP = {
    "text": "Add two numbers.", "code": "import sys\r\ndef plus(a, b):\r\n    return a + b", "task_id": 900,
    "test_setup_code": "",
    "test_list": ["assert plus(1, 2) == 3", "assert plus(2, 2) == 4", "assert sys.maxsize and plus(0, 0) == 0"],
    "challenge_test_list": [],
}  # fmt: skip
PLUS = {
    "task_id": "Mbpp/900", "entry_point": "half", "prompt": "'''\nHalve.\n'''", "atol": 0,
    "canonical_solution": "def half(x):\n    return x / 2\n", "base_input": ["[1]", "[3]"],
    "plus_input": ["[3]", "[5]"],
}  # fmt: skip
LCB = {
    "question_id": "900_A", "question_content": "Add.", "starter_code": "", "difficulty": "easy", "metadata": "{}",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
                                     {"input": "2 2", "output": "4", "testtype": "stdin"}]),
}  # fmt: skip
LCB_CALL = {
    "question_id": "901", "question_content": "Pairs.", "difficulty": "hard", "metadata": '{"func_name": "pairs"}',
    "starter_code": "class Solution:\n    def pairs(self, n: int, s: str) -> List[int]:\n        ",
    "public_test_cases": [{"input": '2\n"ab"', "output": "[2, 2]", "testtype": "functional"}],
}  # fmt: skip


def test_humaneval_is_judged_by_its_own_check(judge):
    task = read_task(HUMANEVAL)
    assert [test.input for test in task.public] == [
        "assert add(1, 2) == 3"
    ]  # the other example is no literal call
    assert "candidate(1, 2)" not in task.hidden[0].input
    assert "candidate(5, 6)" in task.hidden[0].input
    assert "candidate(1, 2)" in task.tests[0].input
    assert judge.judge(task, task.reference, task.tests).verdict == "passed"
    assert judge.judge(task, HUMANEVAL["prompt"] + "    return 3\n", task.tests).verdict == "wrong_answer"


def test_doc_examples_that_do_not_parse_are_none():
    assert doc_examples("def f(x):\n    '''f(1) ==> 2'''\n", "f") == []
    assert doc_examples("def f(x):\n    '''\n    >>> f(1)\n    [1, 2\n    '''\n", "f") == []


def test_mbpp_tests_may_lean_on_imports_of_the_solution(judge):
    task = read_task(MBPP)
    assert (task.entry, len(task.public), len(task.hidden)) == ("plus", 1, 2)
    assert judge.judge(task, "def plus(a, b): return a + b", task.tests).verdict == "passed"


def test_evalplus_expects_what_the_reference_returns(judge):
    task = read_task(PLUS)
    assert [plain.unpack(test.input) for test in task.tests] == [[1], [3], [5]]  # each input once
    assert [plain.unpack(test.input) for test in task.hidden] == [[3], [5]]
    assert judge.judge(task, "def half(x): return x * 0.5", task.tests).verdict == "passed"
    found = judge.judge(task, "def half(x): return x // 2", task.tests)
    assert (found.verdict, found.tests[0].got, found.tests[0].expected) == ("wrong_answer", "0", "0.5")


def test_livecodebench_reads_both_kinds(judge):
    task = read_task(LCB)
    assert judge.judge(task, "print(sum(map(int, input().split())))", task.tests).verdict == "passed"
    task = read_task(LCB_CALL)
    for code in (
        "class Solution:\n    def pairs(self, n: int, s: str) -> List[int]:\n        return n, len(s)\n",
        "def pairs(n, s):\n    return [n, len(s)]\n",
    ):
        assert judge.judge(task, code, task.tests).verdict == "passed"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "no known format"),
        ({"task_id": 1, "tests": []}, "must be a list that is not empty"),
        ({"task_id": 1, "tests": ["assert ("]}, "SyntaxError"),
        ({"task_id": 1, "tests": [{"input": "x"}]}, "KeyError: 'output'"),
        ({**PLUS, "plus_input": ["os.system"]}, "Mbpp/900"),
        ({**LCB, "public_test_cases": "["}, "900_A"),
    ],
)
def test_broken_tasks_are_refused_by_name(record, words):
    with pytest.raises(CorruptData, match=words):
        read_task(record)


def test_files_that_hold_no_tasks_or_one_twice_are_refused(tmp_path):
    path = tmp_path / "tasks.jsonl"
    for text, words in (
        ("", "no tasks"),
        ("{", "no JSON"),
        ("[1]", "must be an object"),
        ("\xff", "cannot be read"),
    ):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(CorruptData, match=words):
            read_tasks(path)
    path.write_text(json.dumps(MBPP) + "\n" + json.dumps(MBPP))
    with pytest.raises(UsageError, match="'900' occurs twice"):
        read_tasks(path)


def test_import_gives_ids_that_change_with_the_content(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(MissingData, match="agentbench data fetch code"):
        dataset.tasks("mbpp")
    source = tmp_path / "source"
    source.mkdir()
    (source / "mbpp.jsonl").write_text(json.dumps(MBPP) + "\n" + json.dumps({**MBPP, "task_id": 601}))
    report = import_data(dataset.DATASET, source)
    assert report.counts == {"mbpp": 2}
    assert any("mbpp/601 is left out" in note for note in report.notes)
    (name,) = dataset.tasks("mbpp")
    assert name.startswith("mbpp/900@")
    assert dataset.find_task(name).id == name
    assert not verify_data(dataset.DATASET).problems
    stored = tmp_path / "data" / "code" / "mbpp.jsonl"
    stored.write_text(stored.read_text().replace("== 4", "== 5"))
    assert "has changed on disk" in verify_data(dataset.DATASET).problems[0]
    with pytest.raises(UsageError, match="no code task"):
        dataset.find_task("mbpp/900@00000000")


def test_challenge_tests_are_asked_for_by_a_split_of_their_own(tmp_path, monkeypatch, judge):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    source = tmp_path / "source"
    source.mkdir()
    hard = {
        **MBPP,
        "task_id": 901,
        "challenge_test_list": ["assert plus(0.1, 0.2) < 0.31", "assert plus(-1, 1) == 0"],
    }
    (source / "mbpp.jsonl").write_text(json.dumps(MBPP) + "\n" + json.dumps(hard))
    assert import_data(dataset.DATASET, source).counts == {"mbpp": 2, "mbpp-challenge": 1}
    assert not verify_data(dataset.DATASET).problems
    assert [len(dataset.find_task(name).tests) for name in dataset.tasks("mbpp")] == [3, 3]
    (name,) = dataset.tasks("mbpp-challenge")
    assert name.startswith("mbpp-challenge/901@")
    task = dataset.find_task(name)
    assert [test.input for test in task.tests[3:]] == hard["challenge_test_list"]
    plus = "def plus(a, b): return {}"
    assert judge.judge(task, plus.format("a + b"), task.tests).verdict == "passed"
    # passes the three of the list, fails the challenge
    assert judge.judge(task, plus.format("abs(a) + b"), task.tests).verdict == "wrong_answer"


# --- the published files ---

FILES = {
    "HumanEval.jsonl": (100, set()),
    "humaneval_plus_seed.jsonl": (100, set()),
    "sanitized-mbpp.json": (364, set()),
    "mbpp.jsonl": (874, set()),
    "mbpp_plus.jsonl": (343, set()),
}


def failing(judge, tasks):
    return {task.id for task in tasks if judge.judge(task, task.reference, task.tests).verdict != "passed"}


@pytest.mark.parametrize("name", FILES)
def test_a_sample_of_the_published_references_passes(judge, real, name):
    tasks = read_tasks(real / name)
    assert len(tasks) == FILES[name][0]
    assert failing(judge, tasks[::12]) <= FILES[name][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_published_reference_passes(judge, real, name):
    assert failing(judge, read_tasks(real / name)) == FILES[name][1]


def test_livecodebench_is_read_whole(real):
    tasks = read_tasks(real / "livecodebench_v1_public.jsonl")
    assert Counter(task.kind for task in tasks) == {"stdin": 175, "calls": 145}


@pytest.mark.slow
def test_negated_conditions_fail(judge, real):
    for name in ("HumanEval.jsonl", "mbpp.jsonl"):
        fell = drawn = 0
        for task in read_tasks(real / name):
            for text in list(mutants(task.reference, "negated if", task.entry))[:2]:
                drawn += 1
                fell += judge.judge(task, text, task.tests).verdict != "passed"
        assert drawn >= 40
        assert fell / drawn >= 0.95
    assert "negated if" in CHANGES


def test_kinds_are_told_by_their_keys():
    found = [kind_of(each) for each in (HUMANEVAL, MBPP, PLUS, LCB, LCB_CALL)]
    assert found == ["humaneval", "mbpp", "evalplus", "livecodebench", "livecodebench"]
    assert kind_of({"test_list": [], "prompt": ""}) == "sanitized"
    assert kind_of({"task_id": "x", "tests": []}) == "custom"
