import orjson
import pytest
import yaml
from places import TOY

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.errors import MissingData, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.compare import compare_players, compare_runs
from agentbench.runs.sides import compare_folders, last_evaluation, matching
from agentbench.runs.tables import compared, draw, rows_of

pytest.importorskip("statsmodels")
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
    assert "B - A is +0.0 points in every one of 12 tasks, so there is no interval" in found.verdict
    assert "| success | 33.3 | 33.3 | +0.0 | – | 0 / 0 | 1.0000 |" in compared([found])
    assert (found.success.difference.low, found.success.difference.high, found.success.p) == (0.0, 0.0, 1.0)
    alone = compare_runs(play("c", ["win"], limit=1), play("d", ["lose"], limit=1))
    assert alone.success.p == 1.0  # 2 / 2^1
    assert "B - A is -100.0 points in the one task, so there is no interval" in alone.verdict


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
    assert found.success.p == pytest.approx(2 / 16)


def test_what_differs_besides_the_model_is_named_and_the_verdict_says_so(play, tmp_path):
    found = compare_runs(play("a", ["win"]), play("b", ["win", "win"], max_turns=4))
    assert found.settings == ("max_turns: 5 -> 4",)  # 5 is the env's own
    same = compare_runs(tmp_path / "a", play("e", ["win"], max_turns=5, history=2))
    assert same.settings == ()  # said or left to the env, it is the same game
    assert "differ in 1 setting(s) besides the model" in found.verdict
    assert compare_runs(play("c", ["win"]), play("d", ["win", "win"])).settings == ()


def test_by_task_type_with_holm_over_the_types(play):
    # A wins t00 t03 t06 t09, B also t01 t04 t07 t10: of the even tasks two more of 6, of the odd ones two more of 6
    found = compare_runs(play("a", ["win"]), play("b", ["win", "win"]))
    assert list(found.task_types) == ["even", "odd"]
    for row in found.task_types.values():
        assert (row.mean_a, row.mean_b) == (pytest.approx(2 / 6), pytest.approx(4 / 6))
        assert (row.only_a, row.only_b) == (0, 2)
        assert (row.p, row.holm) == (0.5, 1.0)  # 2 / 2^2, and twice that


def test_the_verdict_follows_the_test_and_not_the_narrow_interval(play):
    found = compare_runs(play("a", ["win"]), play("b", ["win", "win"]))
    assert found.success.difference.low > 0
    assert found.success.p == pytest.approx(0.125)
    assert found.verdict.startswith("No difference is shown (p = 0.125")
    assert "points in four of five experiments" in found.verdict


def test_seeds_of_sampling_are_pairs_too(play):
    a = [play(f"a{seed}", ["win"], seed=seed) for seed in (0, 1)]
    b = [play(f"b{seed}", ["win", "win"], seed=seed) for seed in (0, 1)]
    found = compare_players(a, b)
    assert (found.pairs, found.success.difference.n) == (24, 12)  # a task counts once
    with pytest.raises(UsageError, match="have 2 and 1 runs"):
        compare_players(a, b[:1])


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


def test_a_suites_players_are_compared_panel_by_panel(play, tmp_path):
    for player, lines in (("a", ["win"]), ("b", ["win", "win"])):
        for panel, limit in (("toy_one@1", 12), ("toy_two@1", 6)):
            for seed in (0, 1):
                play(f"suite/{player}/{panel}/seed-{seed}", lines, limit=limit, seed=seed)
    play("suite/b/toy_three@1/seed-0", ["win"])
    said = []
    found = compare_folders(tmp_path / "suite" / "a", tmp_path / "suite" / "b", said.append)
    assert [item.pairs for item in found] == [24, 12]
    assert len(said) == 1
    assert said[0].startswith("toy_three@1 is left out")
    page = compared(found)
    assert "# Together" in page
    assert "2 comparisons were made" in page
    with pytest.raises(UsageError, match="share no panel"):
        compare_folders(tmp_path / "suite" / "a", play("c", ["win"]), said.append)


def test_players_pair_by_the_seeds_they_share(play, tmp_path):
    for player, lines, seeds in (("a", ["win"], (0, 1)), ("b", ["win", "win"], (1, 2)), ("c", ["win"], (3,))):
        for seed in seeds:
            play(f"suite/{player}/toy_one@1/seed-{seed}", lines, seed=seed)
    said, suite = [], tmp_path / "suite"
    (found,) = compare_folders(suite / "a", suite / "b", said.append)
    assert found.pairs == 12
    assert [line.split()[0] for line in said] == ["seed-0", "seed-2"]
    with pytest.raises(UsageError, match="share no seed: seed-0, seed-1; seed-3"):
        compare_folders(suite / "a", suite / "c", said.append)
    with pytest.raises(UsageError, match=r"is a suite's folder; compare its players: .*suite/a, "):
        compare_folders(suite, suite / "a", said.append)


def test_settings_of_training_and_versions_of_the_code_are_named(play, tmp_path):
    for name, rate in (("x", 0.1), ("y", 0.2)):
        play(f"{name}/eval/step-4", ["win"])
        values = {
            "algorithm": "opd",
            "seed": int(rate * 10),
            "learning_rate": rate,
            "save_steps": int(rate * 10),
        }
        values |= {"output_dir": name, "env": {"split": "train"}, "rollout": {"concurrency": int(rate * 10)}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(values))
    a, b = tmp_path / "x" / "eval" / "step-4", tmp_path / "y" / "eval" / "step-4"
    # neither the seed nor what moves no number
    assert compare_runs(a, b).settings == ("training.learning_rate: 0.1 -> 0.2",)
    path = b / "versions.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "code": "0123456789ab"}))
    (line,) = (line for line in compare_runs(a, b).settings if line.startswith("versions."))
    assert line.startswith("versions.code: ")
    assert line.endswith("-> '0123456789ab'")
    # beside an evaluation that no training made, the training is no setting
    assert not any("training" in line for line in compare_runs(play("alone", ["win"]), a).settings)


def test_what_is_no_run_is_named_with_the_next_step(play, tmp_path, capsys):
    run = play("a", ["win"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for other in ("empty", "file", "nowhere"):
        assert agentbench(("compare", str(run), str(tmp_path / other))) == 2
        assert "is no run folder: it has no versions.json; name the --output" in capsys.readouterr().err
    play("trained/eval/step-2", ["win"])
    (tmp_path / "trained" / "checkpoint-2").mkdir()
    (tmp_path / "trained" / "checkpoint-3").mkdir()
    assert agentbench(("compare", str(run), str(tmp_path / "trained" / "checkpoint-2"))) == 0
    assert "checkpoint-2 is a checkpoint; its evaluation in training is taken" in capsys.readouterr().err
    assert agentbench(("card", str(tmp_path / "trained" / "checkpoint-3"))) == 2
    assert "was not evaluated in training" in capsys.readouterr().err
    assert agentbench(("report", str(tmp_path / "trained"), str(run))) == 2
    assert "a is no training run; report on training runs together" in capsys.readouterr().err


def test_a_training_run_stands_for_its_last_evaluation(play, tmp_path):
    for step in (0, 9, 10):
        play(f"training/eval/step-{step}", ["win"])
    said = []
    folder = tmp_path / "training"
    assert last_evaluation(folder, said.append) == folder / "eval" / "step-10"
    assert said == [f"{folder} is a training run; its last evaluation is taken, at step 10"]
    assert matching([str(tmp_path / "train*")], said.append) == [folder / "eval" / "step-10"]
    with pytest.raises(MissingData, match="no run folder matches"):
        matching([str(tmp_path / "nothing*")], said.append)
    (tmp_path / "empty" / "eval").mkdir(parents=True)
    with pytest.raises(MissingData, match="training run without evaluations"):
        last_evaluation(tmp_path / "empty", said.append)


def test_the_page_names_runs_types_settings_and_can_be_drawn(play, tmp_path):
    found = compare_runs(play("a", ["win"]), play("b", ["win", "win"], max_turns=4))
    page = compared([found])
    assert f"- A: {tmp_path / 'a'}\n- B: {tmp_path / 'b'}\n- 12 pairs of toy/test@1 (0 left out" in page
    assert "| success | 33.3 | 66.7 | +33.3 |" in page
    assert "| – odd | 33.3 | 66.7 | +33.3 |" in page
    assert "- max_turns: 5 -> 4" in page
    assert "Together" not in page
    pytest.importorskip("matplotlib")
    draw(rows_of([found]), tmp_path / "page.svg", "A <b>and</b> B")
    assert "<b>" not in (tmp_path / "page.svg").read_text()
