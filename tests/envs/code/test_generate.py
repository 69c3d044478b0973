"""Generated tasks: what they say is what they test, splits are apart, hidden tests repeat nothing public."""

import random

import pytest

from agentbench.envs.code import generate
from agentbench.envs.code.generate import Recipe, make_task, task_ids
from agentbench.envs.code.mutants import CHANGES, mutants, one_mutant
from agentbench.envs.code.sandbox.inside import plain
from agentbench.errors import UsageError


def test_a_recipe_worked_by_hand():
    task = make_task("made/calls/list/blend/keep_even,add-3/sum")
    assert task.statement.startswith(
        "Write a function blend(x) that takes a list of integers: keep the even numbers, add 3 to each, return the sum."
    )
    assert task.reference == (
        "def blend(x):\n    x = [v for v in x if v % 2 == 0]\n    x = [v + 3 for v in x]\n    return sum(x)\n"
    )
    for test in task.tests:
        (values,) = plain.unpack(test.input)
        assert plain.unpack(test.output) == sum(value + 3 for value in values if value % 2 == 0)


def test_a_program_that_reads_and_prints_worked_by_hand():
    task = make_task("made/stdin/list/pick/sort,first-2/same")
    for test in task.tests:
        values = sorted(map(int, test.input.split()))[:2]
        assert test.output == " ".join(map(str, values)) + "\n"


@pytest.mark.parametrize("split", ["mini-train", "small-test", "deep-test"])
def test_references_pass_and_mutants_mostly_do_not(judge, split):
    fell, drawn = 0, 0
    for name in task_ids(split)[:12]:
        task = make_task(name)
        assert judge.judge(task, task.reference, task.tests).verdict == "passed", name
        wrong = one_mutant(task.reference, random.Random(name), task.entry)
        drawn += wrong is not None
        fell += wrong is not None and judge.judge(task, wrong, task.tests).verdict != "passed"
    assert fell >= 0.7 * drawn


def test_hidden_tests_repeat_no_public_input():
    for split in generate.SPLITS:
        for name in task_ids(split)[:50]:
            task = make_task(name)
            assert (len(task.public), len(task.hidden)) == (2, 8)
            assert not {repr(test.input) for test in task.public} & {repr(test.input) for test in task.hidden}


def test_splits_share_no_recipe_whatever_the_function_is_called():
    said = {}
    for split in generate.SPLITS:
        said[split] = {(r.family, r.steps, r.end) for r in map(Recipe.parse, task_ids(split))}
    for one in generate.SPLITS:
        for other in generate.SPLITS:
            if one.split("-")[1] != other.split("-")[1]:
                assert not said[one] & said[other]


def test_ids_are_unique_and_difficulty_is_the_number_of_steps():
    for split in generate.SPLITS:
        ids = task_ids(split)
        assert len(set(ids)) == len(ids) == generate.COUNTS[split.split("-")[1]]
        low, high, *_ = generate.PRESETS[split.split("-")[0]]
        assert {len(Recipe.parse(name).steps) for name in ids} == set(range(low, high + 1))


@pytest.mark.parametrize(
    "name",
    [
        "made/calls/list/blend/sort", "made/calls/list/nobody/sort/sum", "made/calls/tree/blend/sort/sum",
        "made/calls/list/blend/sort-3/sum", "made/calls/list/blend/add/sum", "made/calls/list/blend/add-99/sum",
        "made/other/list/blend/sort/sum", "made/calls/list/blend/fly/sum", "made/calls/list/blend/sort/fly",
    ],
)  # fmt: skip
def test_ids_of_no_task_are_refused(name):
    with pytest.raises(UsageError, match="no generated code task"):
        make_task(name)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("negated if", "if a:\n    b = 1", "if not a:\n    b = 1"),
        ("return None", "def f():\n    return 1", "def f():\n    return None"),
        ("arithmetic", "a = b + c", "a = b - c"),
        ("comparison", "a = b < c", "a = b <= c"),
        ("constant", "a = 1", "a = 2"),
    ],
)
def test_each_kind_of_change(kind, before, after):
    assert list(mutants(before, kind)) == [after + "\n"]
    assert list(mutants("pass", kind)) == []


def test_every_place_is_changed_once_and_only_in_the_function_asked_for():
    text = "a = 1\ndef f():\n    return 2 + 3\n"
    assert len(list(mutants(text, "constant"))) == 3
    assert len(list(mutants(text, "constant", "f"))) == 2
    assert set(CHANGES) == {"negated if", "return None", "arithmetic", "comparison", "constant"}
