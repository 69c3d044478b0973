"""The card holds what a rerun needs, and two cards name the one setting in which their runs differ."""

import pytest

from agentbench.config import validate
from agentbench.evaluation.card import as_html, as_markdown, card_differences, card_of
from agentbench.evaluation.evaluate import EvalConfig, evaluate

BASE = {
    "panel": "corridor/test@1",
    "policy": "model",
    "engine": "scripted",
    "model_name_or_path": "<think>left</think><action>go left</action>",
    "limit": 4,
}


@pytest.fixture
def play(tmp_path):
    def run(name, **changes):
        evaluate(validate(EvalConfig, {**BASE, **changes, "output_dir": str(tmp_path / name)}))
        return card_of(tmp_path / name)

    return run


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"history": 5}, "how.history: 2 -> 5"),
        ({"max_turns": 3}, "how.max_turns: 12 -> 3"),
        ({"temperature": 0.9}, "how.temperature: 0.4 -> 0.9"),
        ({"limit": 3}, "tasks.tasks: 4 -> 3"),
        (
            {"prompt": "corridor/transcript"},
            "how.prompt: 'agentbench.prompts:corridor/react' -> 'corridor/transcript'",
        ),
        ({"seed": 1}, "how.seed: 0 -> 1"),
    ],
)
def test_one_hidden_setting_is_named(play, change, named):
    assert named in card_differences(play("a"), play("b", **change))


def test_equal_runs_differ_in_nothing(play):
    assert card_differences(play("a"), play("b")) == []


def test_the_page_holds_tasks_prompts_and_result(play):
    card = play("a")
    page = as_markdown(card, "a")
    for part in (
        "corridor/test@1",
        card["tasks"]["digest of the ids"],
        "prompt digest",
        "first prompts",
        "n=4",
    ):
        assert part in page
    assert len(card["prompts"]) == 3
    assert all("door" in text for text in card["prompts"].values())


def test_foreign_text_stays_text_in_html(play):
    card = play("a")
    card["who plays"]["model"] = "<script>alert(1)</script>"
    assert "<script>" not in as_html(card, "a")
