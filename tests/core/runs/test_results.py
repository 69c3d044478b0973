"""Committed results: every page follows from the numbers beside it."""

import json
import sys

import pytest
from places import ROOT

from agentbench.runs.report import stale_pages
from agentbench.runs.summary import load_summary

RUNS = sorted(
    file.parent for file in (ROOT / "results").glob("**/summary.json") if (file.parent / "report.md").exists()
)


@pytest.mark.parametrize("run", RUNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_of_runs_follow_from_their_summary(run):
    assert stale_pages(run) == []


def test_the_table_of_webshop_holds_what_the_runs_say():
    page = (ROOT / "results" / "webshop-reference" / "README.md").read_text()
    for name in ("expert", "random", "null"):
        summary = load_summary(ROOT / "results" / "webshop-reference" / name)
        cells = [name, str(summary.overall.n)]
        for found in (summary.overall.success, summary.overall.score):
            cells += [f"{100 * found.value:.1f} %", f"{100 * found.low:.1f} – {100 * found.high:.1f}"]
        assert f"| {' | '.join(cells)} | {sum(summary.errors.values())} |" in page


def test_the_table_of_the_learning_comparison_follows_from_its_summary(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("learning", None)
    from learning import table

    folder = ROOT / "results" / "learning-mini-alfworld"
    found = json.loads((folder / "summary.json").read_text())
    assert (folder / "table.md").read_text() == table(found)


def test_every_result_says_which_published_number_it_stands_beside():
    page = (ROOT / "results" / "README.md").read_text()
    rows = {
        line.split("](")[0].removeprefix("| ["): line.split(" | ")
        for line in page.splitlines()
        if "| [" in line
    }
    folders = {path.name for path in (ROOT / "results").iterdir() if path.is_dir()}
    assert set(rows) == folders
    assert all(len(cells) == 4 and cells[2] and cells[3].strip(" |") for cells in rows.values())
