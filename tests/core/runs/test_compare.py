import orjson
import pytest
from places import TOY

from agentbench.config import validate
from agentbench.errors import UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.compare import compare_runs

write_panel = load("envs", f"{TOY}:write_panel")


@pytest.fixture
def play(tmp_path):
    panel = write_panel(tmp_path)

    def run(name, lines, **keys):
        values = {"panel": panel, "policy": "null", "output_dir": str(tmp_path / name), "max_error_rate": 1.0}
        evaluate(validate(EvalConfig, values | keys), policy=ScriptedPolicy(lines))
        return tmp_path / name

    return run


def test_differences_by_hand(play):
    # task tNN needs 1 + NN % 3 "win"s: A says one (4 of 12 tasks), B two (8 of 12)
    found = compare_runs(play("a", ["win"]), play("b", ["win", "win"]))
    assert (found.pairs, found.excluded) == (12, 0)
    assert (found.success.mean_a, found.success.mean_b) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.success.difference.value == pytest.approx(1 / 3)
    assert (found.success.only_a, found.success.only_b) == (0, 4)
    assert found.success.p == pytest.approx(0.125)  # 2 / 2^4
    assert found.success.difference.low <= 1 / 3 <= found.success.difference.high
    assert found.score == found.success


def test_equal_runs_do_not_differ(play):
    found = compare_runs(play("a", ["win"]), play("b", ["win"]))
    assert (found.success.difference.low, found.success.difference.high, found.success.p) == (0.0, 0.0, 1.0)


def test_episodes_that_broke_on_either_side_are_left_out(play):
    broken = play("b", ["win"], env_options={"crash": ["t00", "t01"]})
    found = compare_runs(play("a", ["win"]), broken)
    assert (found.pairs, found.excluded) == (10, 2)


def test_with_repeats_the_interval_is_over_tasks_and_mcnemar_is_not_given(play):
    found = compare_runs(play("a", ["win"], repeats=3), play("b", ["win", "win"], repeats=3))
    assert found.pairs == 36
    assert found.success.difference.n == 12
    assert found.success.p is None


def test_other_tasks_are_refused_by_name(play):
    with pytest.raises(UsageError, match=r"task 't04' is in A only \(8 tasks differ\)"):
        compare_runs(play("a", ["win"]), play("b", ["win"], limit=4))


def test_other_repeats_are_refused(play):
    with pytest.raises(UsageError, match="repeats is 1 in A and 2 in B"):
        compare_runs(play("a", ["win"]), play("b", ["win"], repeats=2))


def test_runs_without_a_common_episode_are_refused(play):
    tasks = [f"t{number:02d}" for number in range(12)]
    with pytest.raises(UsageError, match="share no episode"):
        compare_runs(play("a", ["win"]), play("b", ["win"], env_options={"crash": tasks}))


def test_other_machines_are_a_warning_and_no_refusal(play):
    a, b = play("a", ["win"]), play("b", ["win"])
    assert compare_runs(a, b).warnings == ()
    for run, python in ((a, "3.11.7"), (b, "3.12.1")):
        path = run / "versions.json"
        path.write_bytes(
            orjson.dumps({**orjson.loads(path.read_bytes()), "env": {"python": python, "way": "root"}})
        )
    assert compare_runs(a, b).warnings == (
        "python is 3.11.7 in A and 3.12.1 in B: a difference may be due to it",
    )
