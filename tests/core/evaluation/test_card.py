"""The card holds what a rerun needs, and two cards name the one setting in which their runs differ."""

import pytest

from agentbench.config import validate
from agentbench.evaluation.card import as_html, as_markdown, card_differences, card_of
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.runs.compare import differing_settings

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
def test_one_hidden_setting_is_named(play, tmp_path, change, named):
    assert named in card_differences(play("a"), play("b", **change))
    settings = list(differing_settings([tmp_path / "a", tmp_path / "b"]))
    if "seed" not in change:  # seeds are what a comparison is over
        key = next(iter(change))
        assert any(line.startswith((f"{key}: ", f"played.{key}.")) for line in settings)


def test_another_panel_is_named(play, tmp_path):
    from agentbench.evaluation.panels import load_panel, split_as_panel

    other = split_as_panel("corridor", "train")
    assert other.sha256 != load_panel("corridor/test@1").sha256
    found = card_differences(play("a"), play("b", panel=None, env="corridor", split="train"))
    assert f"tasks.panel: 'corridor/test@1' -> {other.id!r}" in found
    assert any(line.startswith("tasks.digest of the ids: ") for line in found)


def test_another_wording_is_named_where_a_panel_or_an_option_chose_it(tmp_path):
    def card(name, **changes):
        values = {
            "panel": "alfworld/mini@1",
            "policy": "expert",
            "limit": 1,
            "output_dir": str(tmp_path / name),
        }
        evaluate(validate(EvalConfig, values | changes))
        return card_of(tmp_path / name)

    found = card_differences(card("either"), card("strict", env_options={"wording": "strict"}))
    assert list(differing_settings([tmp_path / "either", tmp_path / "strict"])) == [
        "env_options.wording: None -> 'strict'"
    ]
    assert found == ["how.env_options.wording: None -> 'strict'"]


def test_another_dtype_of_the_engine_is_named(model, tmp_path):
    pytest.importorskip("torch")

    def card(name, dtype):
        changes = {
            "engine": "hf",
            "model_name_or_path": model,
            "engine_options": {"dtype": dtype},
            "limit": 1,
        }
        changes |= {"max_new_tokens": 4, "max_turns": 2, "output_dir": str(tmp_path / name)}
        evaluate(validate(EvalConfig, BASE | changes))
        return card_of(tmp_path / name)

    found = card_differences(card("a", "float32"), card("b", "bfloat16"))
    assert any(line.startswith("who plays.dtype: ") for line in found), found
    settings = list(differing_settings([tmp_path / "a", tmp_path / "b"]))
    assert any(line.startswith("played.engine.dtype: ") for line in settings), settings


def test_equal_runs_differ_in_nothing(play):
    assert card_differences(play("a"), play("b")) == []


def test_the_page_holds_tasks_prompts_and_result(play):
    card = play("a")
    page = as_markdown(card, "a")
    for part in (
        "corridor/test@1",
        card["tasks"]["digest of the ids"],
        "prompt digest",
        "| parser | tags:30 |",
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


def test_the_card_of_a_training_run_tells_of_the_training_and_its_teacher(play, tmp_path):
    import json

    import yaml

    from agentbench.cli import run as agentbench

    home = tmp_path / "trained"
    home.mkdir()
    config = {"algorithm": "gkd", "max_steps": 2, "seed": 3, "trainer": {"beta": 0.5}}
    config["teachers"] = [{"model_name_or_path": "T"}]
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    (home / "versions.json").write_text(json.dumps({"engine": {"weights": "abc"}}))
    (home / "metrics.jsonl").write_text(json.dumps({"step": 2, "engine_gap": 0.25}) + "\n")
    for step in (0, 2):
        play(f"trained/eval/step-{step}")
    play("teacher", limit=2)
    assert (
        agentbench(("card", str(home), "--teacher", str(tmp_path / "teacher"), "-o", str(tmp_path / "c.md")))
        == 0
    )
    page = (tmp_path / "c.md").read_text()
    for row in (
        "| step | 2 of 2 |",
        "| started from weights | abc |",
        "| teachers | T |",
        "| engine_gap of the step (nats) | 0.25 |",
        "| trainer.beta | 0.5 |",
        "| panel | corridor/test@1 (other tasks than this run's) |",
        f"| command | agentbench eval {home / 'eval' / 'step-2' / 'config.yaml'} --output FOLDER |",
        "## hardware",
    ):
        assert row in page
    assert "## training" not in as_markdown(play("alone"), "alone")  # nothing is said where nothing is known
