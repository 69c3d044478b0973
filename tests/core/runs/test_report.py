import pytest
from places import TOY

from agentbench.config import validate
from agentbench.errors import MissingData
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.registry import load
from agentbench.runs.report import pages, render, stale_pages
from agentbench.runs.stats import Estimate
from agentbench.runs.summary import Assignment, Rates, Summary, load_summary, summarise_run

write_panel = load("envs", f"{TOY}:write_panel")


@pytest.fixture
def run(tmp_path):
    values = {
        "panel": write_panel(tmp_path),
        "policy": "random",
        "repeats": 2,
        "output_dir": str(tmp_path / "run"),
    }
    evaluate(validate(EvalConfig, values))
    return tmp_path / "run"


def made(**keys):
    plan = Assignment(
        id="toy/test@1",
        sha256="0" * 64,
        digest="1" * 64,
        env="toy",
        rules="2",
        split="all",
        tasks=4,
        repeats=1,
    )
    rates = Rates(
        n=4,
        tasks=4,
        success=Estimate(0.25, 0.0456, 0.6994, 4),
        score=Estimate(0.5, 0.25, 0.75, 4),
        turns=3.25,
        turns_won=None,
    )
    values = {
        "plan": plan,
        "policy": {"policy": "model", "engine": {"model": "some/model"}},
        "planned": 4,
        "recorded": 4,
        "errors": {},
        "error_rate": 0.0,
        "max_error_rate": 0.01,
        "missing": (),
        "withheld": False,
        "overall": rates,
        "task_types": {"pick": rates},
        "pass_at_k": {1: 0.25, 2: 0.5},
        "sampled_tokens": 12.34,
        "prompt_tokens": 100.0,
        "invalid": {"no_think": 3},
        "turns_total": 13,
        "ends": {"terminated": 4},
        "seconds": 2.0,
        "episode_seconds": 0.5,
    }
    return Summary(**(values | keys))


def test_the_page_holds_every_figure():
    page = render(made())
    assert "Policy: model, some/model. Env: toy, rules 2, split all." in page
    assert "| all | 4 | 25.0 % | 4.6 – 69.9 | 50.0 % | 25.0 – 75.0 | 3.2 | – |" in page
    assert "| pick | 4 |" in page
    assert "| 2 | 50.0 % |" in page
    assert "| parse failures in 13 turns | no_think 3 |" in page
    assert "| sampled tokens per episode | 12.3 |" in page
    assert "| wall seconds | 2.0 |" in page
    assert "**" not in page  # nothing to warn about


def test_what_is_missing_is_said_loudly():
    page = render(made(recorded=3, missing=("t1", "t2")))
    assert "> **incomplete: 3 of 4 episodes are on record" in page
    assert "> **2 tasks could not be played, their data is corrupt: t1, t2**" in page


def test_replies_that_hold_no_command_are_said_loudly_with_one_of_them():
    page = render(made(unread=7, unread_reply="go to cabinet <1>", invalid={"no_action": 7}))
    assert (
        "> **7 of 13 replies held no command (no_action 7), the first of them: 'go to cabinet &lt;1&gt;'"
        in page
    )
    assert "--prompt" in page
    assert "held no command" not in render(made(unread=6, unread_reply="x"))  # 6 of 13 is less than half


def test_replies_that_were_cut_are_said_with_how_one_ends():
    page = render(made(cut=5, cut_reply="and so I think | that"))
    assert "5 of 13 replies were cut at max_new_tokens" in page
    assert "The first of them ends: 'and so I think" in page


def test_a_withheld_headline_shows_no_rate():
    page = render(
        made(withheld=True, overall=None, task_types={}, pass_at_k={}, error_rate=0.25, errors={"X": 1})
    )
    assert "headline withheld: 25.0 % of the episodes broke, 1.0 % are allowed" in page
    assert "success" not in page


def test_a_summary_survives_its_file(run):
    assert load_summary(run) == summarise_run(run)


def test_pages_are_current_after_a_run_and_stale_after_an_edit(run):
    assert stale_pages(run) == []
    (run / "report.md").write_text((run / "report.md").read_text().replace("24", "25"))
    assert stale_pages(run) == ["report.md"]
    (run / "summary.json").unlink()
    assert stale_pages(run) == ["summary.json", "report.md"]


def test_pages_go_stale_when_the_records_change(run):
    file = run / "episodes.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert stale_pages(run) == ["summary.json", "report.md"]


def test_without_records_the_page_follows_from_the_summary(run):
    (run / "episodes.jsonl").unlink()
    assert stale_pages(run) == []
    (run / "report.md").write_text("edited by hand")
    assert stale_pages(run) == ["report.md"]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(MissingData, match="neither episodes"):
        pages(tmp_path)
