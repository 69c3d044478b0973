import orjson
import pytest
from places import TOY

from agentbench.config import validate
from agentbench.errors import UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.compare import compare_groups, compare_runs

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


def test_with_repeats_interval_and_test_are_over_tasks(play):
    found = compare_runs(play("a", ["win"], repeats=3), play("b", ["win", "win"], repeats=3))
    assert found.pairs == 36
    assert found.success.difference.n == 12
    assert found.success.test == "sign flips over tasks"
    # 4 of 12 tasks differ, all alike: 2 of the 16 sign patterns are as far from 0, whatever the repeats
    assert found.success.p == pytest.approx(2 / 16, abs=0.01)


def test_what_differs_besides_the_model_is_named_and_the_verdict_says_so(play):
    found = compare_runs(play("a", ["win"]), play("b", ["win", "win"], max_turns=5))
    assert [line.split(":")[0] for line in found.settings] == ["max_turns"]
    assert "differ in 1 setting(s) besides the model" in found.verdict
    assert compare_runs(play("c", ["win"]), play("d", ["win", "win"])).settings == ()


def test_groups_of_seeds_are_compared_run_by_run(play):
    few = [play(f"few-{seed}", lines) for seed, lines in enumerate((["win"], ["win"], ["win", "win"]))]
    many = [play(f"many-{seed}", ["win", "win"]) for seed in range(3)]
    found = compare_groups(few, many)
    assert found.means_a == pytest.approx((1 / 3, 1 / 3, 2 / 3))
    # means 4/9 and 6/9; pooled variance (2/27 + 0) / 4 = 1/54, standard error sqrt(2/3 / 54) = 1/9: t = 2, 4 degrees
    assert found.difference.value == pytest.approx(2 / 9)
    assert found.p == pytest.approx(0.1161165, abs=1e-6)
    assert found.difference.low == pytest.approx(2 / 9 - 2.7764451 / 9)
    with pytest.raises(UsageError, match="group B has 1 run"):
        compare_groups(few, many[:1])


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


def test_other_interpreters_and_sandboxes_are_settings_that_differ(play):
    a, b = play("a", ["win"]), play("b", ["win"])
    assert compare_runs(a, b).settings == ()
    for run, python in ((a, "3.11.7"), (b, "3.12.1")):
        path = run / "versions.json"
        machine = {"python": python, "isolation": "root"}
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "env": machine}))
    (line,) = compare_runs(a, b).settings
    assert line.startswith("machine.python")
    assert "3.11.7" in line
    assert "3.12.1" in line
