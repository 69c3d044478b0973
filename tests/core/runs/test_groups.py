"""Groups of seeds: figures by hand, by scipy's and statsmodels' own words, and the page."""

import json

import pytest
from places import TOY

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.errors import UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.groups import compare_groups, contrast
from agentbench.runs.sides import matching
from agentbench.runs.tables import compared_groups

pytest.importorskip("statsmodels")
write_panel = load("envs", f"{TOY}:write_panel")


@pytest.fixture
def play(tmp_path):
    panel = write_panel(tmp_path)

    def run(name, lines, **keys):
        values = {"panel": panel, "policy": "null", "output_dir": str(tmp_path / name)}
        evaluate(validate(EvalConfig, values | keys), policy=ScriptedPolicy(lines))
        return tmp_path / name

    return run


@pytest.fixture
def groups(play):
    # task tNN needs 1 + NN % 3 "win"s: one word wins 4 of 12 tasks, two win 8
    few = [play(f"few-{seed}", lines) for seed, lines in enumerate((["win"], ["win"], ["win", "win"]))]
    return few, [play(f"many-{seed}", ["win", "win"]) for seed in range(3)]


def test_groups_of_seeds_are_compared_run_by_run(groups):
    found = compare_groups(*groups)
    assert found.head.means_a == pytest.approx((1 / 3, 1 / 3, 2 / 3))
    # means 4/9 and 6/9; pooled variance (2/27 + 0) / 4 = 1/54, standard error sqrt(2/3 / 54) = 1/9: t = 2, 4 degrees
    assert found.head.difference.value == pytest.approx(2 / 9)
    assert found.head.p == pytest.approx(0.1161165, abs=1e-6)
    assert found.head.difference.low == pytest.approx(2 / 9 - 2.7764451 / 9)
    assert found.spread == pytest.approx((1 / 54) ** 0.5)
    assert found.luck == pytest.approx((2 / 9 / 12) ** 0.5)  # 1/3 x 2/3 of a run, over 12 episodes
    with pytest.raises(UsageError, match="group B has 1 run"):
        compare_groups(groups[0], groups[1][:1])


def test_a_run_counts_once(groups, tmp_path):
    few, many = groups
    with pytest.raises(UsageError, match="few-2 is in both groups; name each run once"):
        compare_groups(few, [*many, few[2]])
    # a copy of a run is no further seed
    for run in (few[0], few[1]):
        path = run / "versions.json"
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "policy": {**facts["policy"], "engine": {"weights": "abc"}}}))
    with pytest.raises(UsageError, match=r"few-0 and .*few-1 are the same weights played with the same seed"):
        compare_groups(few, many)
    patterns = [str(tmp_path / "few-*"), str(tmp_path / "few-0")]
    assert matching(patterns, print) == few


def test_by_task_type_with_holm(groups):
    found = compare_groups(*groups)
    assert list(found.task_types) == ["even", "odd"]
    for row in found.task_types.values():  # each type holds two tasks of each kind, so it is the whole again
        assert row.p == pytest.approx(0.1161165, abs=1e-6)
        assert row.holm == pytest.approx(2 * 0.1161165, abs=1e-6)


def test_other_tasks_are_refused(groups, play):
    with pytest.raises(UsageError, match="played other tasks, rules or repeats than"):
        compare_groups(groups[0], [*groups[1], play("short", ["win"], limit=4)])


def test_the_test_is_that_of_a_mixed_model_with_a_random_effect_of_the_seed():
    # six runs of 12 tasks that won 2, 7, 4 (A) and 9, 11, 5 (B). statsmodels 0.15.0, REML:
    # mixedlm("won ~ side", data, groups=run): coefficient 0.333333, standard error 0.190435
    found = contrast([2 / 12, 7 / 12, 4 / 12], [9 / 12, 11 / 12, 5 / 12])
    assert found.difference.value == pytest.approx(0.333333, abs=1e-6)
    half = (found.difference.high - found.difference.low) / 2
    assert half / 2.7764451 == pytest.approx(0.190435, abs=1e-5)  # Student's 0.975 quantile for 4 degrees
    # statsmodels 0.15.0, CompareMeans(...).tconfint_diff(), and TTestIndPower: 3.0708923 sd for three runs a side
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.1953986, 0.8620652), abs=1e-6)
    assert found.detectable == pytest.approx(0.7162368, abs=1e-5)


def test_groups_of_other_sizes_have_the_power_that_statsmodels_says():
    # three and five runs with one and the same sd: TTestIndPower().solve_power(nobs1=3, ratio=5/3) = 2.4588324
    found = contrast([0.3, 0.5, 0.4], [0.3, 0.4, 0.5, 0.4 - 0.1 * 2**0.5 / 2, 0.4 + 0.1 * 2**0.5 / 2])
    pooled = ((0.02 + 0.02 + 0.01) / 6) ** 0.5  # squares: 0.02 of A; 0.02 and twice 0.005 of B
    assert found.detectable == pytest.approx(2.4588324 * pooled, rel=1e-5)


def test_groups_without_spread_are_not_tested_and_the_page_says_why(play):
    # a policy that no seed moves: the runs of each side are one and the same
    found = compare_groups(
        *(
            [play(f"{words[-1]}{len(words)}-{seed}", words, seed=seed) for seed in (0, 1)]
            for words in (["win"], ["win"] * 2)
        )
    )
    assert (found.head.p, found.head.holm, found.head.detectable) == (None, None, None)
    assert found.head.difference.value == pytest.approx(1 / 3)
    assert found.verdict.startswith(
        "No test is possible: B - A is +33.3 points, and no run of a group differs"
    )
    assert "| all | 33.3 | 66.7 | +33.3 | – | – | – | – |" in compared_groups(found)


def test_the_page_shows_every_value_and_both_spreads(groups):
    page = compared_groups(compare_groups(*groups, ("few-*", "many-*")))
    assert "- A: few-*: mean 44.4 %, n = 3, each: 33.3, 33.3, 66.7" in page
    assert "seeds of one method differ by 13.6 points (sd)" in page
    assert "| all | 44.4 | 66.7 | +22.2 |" in page
    assert "| odd |" in page
    assert "No difference is shown (p = 0.116" in page


def test_the_command_compares_globs_and_writes_every_format(groups, tmp_path, capsys):
    words = ("compare", "--a", str(tmp_path / "few-*"), "--b", str(tmp_path / "many-*"))
    outputs = [str(tmp_path / name) for name in ("page.md", "page.json", "page.svg")]
    pytest.importorskip("matplotlib")
    assert agentbench((*words, *(word for path in outputs for word in ("-o", path)))) == 0
    page = capsys.readouterr().out
    assert (tmp_path / "page.md").read_text() == page
    found = json.loads((tmp_path / "page.json").read_text())
    assert found["head"]["means_b"] == pytest.approx([2 / 3] * 3)
    assert "<svg" in (tmp_path / "page.svg").read_text()
    for wrong, message in (
        ((*words, "-o", "page.doc"), "allowed: .md, .json, .png, .svg, .pdf"),
        (words[:3], "groups need both --a and --b"),
        (("compare", str(tmp_path / "few-0")), "name two runs or more"),
        ((*words[:3], "--b", str(tmp_path / "nothing-*")), "no run folder matches"),
    ):
        assert agentbench(wrong) == 2
        assert message in capsys.readouterr().err
