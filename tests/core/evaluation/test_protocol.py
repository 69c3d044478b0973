"""A checkpoint says how it wants to be played, and an evaluation says where it does otherwise."""

import json

import pytest

from agentbench.config import validate
from agentbench.dialogue.prompt import load_prompt
from agentbench.envs.corridor import SPEC
from agentbench.errors import CorruptData
from agentbench.evaluation.evaluate import EvalConfig
from agentbench.evaluation.protocol import (
    PROTOCOL,
    follow,
    protocol_of,
    read_protocol,
    untold,
    write_protocol,
)

TRAINED = {
    "panel": "corridor/test@1",
    "policy": "model",
    "prompt": "corridor/transcript",
    "history": 3,
    "max_turns": 7,
    "temperature": 1.0,
    "max_new_tokens": 12,
}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    trained = validate(EvalConfig, TRAINED)
    write_protocol(folder, protocol_of(trained, SPEC, algorithm="gkd", step=4, run="mine"))
    return folder


def asked(model, **choices):
    return validate(
        EvalConfig,
        {"panel": "corridor/test@1", "policy": "model", "model_name_or_path": str(model), **choices},
    )


def test_what_the_user_left_open_is_played_as_trained(model):
    played, notes = follow(asked(model), SPEC)
    assert notes == []
    for key in ("prompt", "history", "max_turns", "temperature", "max_new_tokens"):
        assert getattr(played, key) == TRAINED[key]
    assert read_protocol(str(model)).step == 4


def test_what_the_user_chose_is_played_and_named(model):
    played, notes = follow(asked(model, prompt="corridor/react", temperature=0.0, max_turns=7), SPEC)
    assert (played.prompt, played.temperature, played.max_turns) == ("corridor/react", 0.0, 7)
    assert notes == [
        "the checkpoint was trained with prompt 'corridor/transcript', this run plays 'corridor/react'",
        "the checkpoint was trained with temperature 1.0, this run plays 0.0",
    ]


def test_options_of_the_game_are_named_and_not_taken_over(model):
    trained = validate(EvalConfig, {**TRAINED, "env_options": {"wording": "either"}})
    write_protocol(model, protocol_of(trained, SPEC, algorithm="gkd", step=4, run="mine"))
    played, notes = follow(asked(model), SPEC, {"wording": "strict"})
    assert played.env_options == {}
    assert notes == ["the checkpoint was trained with env option wording 'either', this run plays 'strict'"]
    assert follow(asked(model), SPEC, {"wording": "either"})[1] == []


def test_the_same_prompt_under_another_name_is_no_difference(model):
    assert follow(asked(model, prompt="agentbench.prompts:corridor/transcript"), SPEC)[1] == []


def test_another_env_keeps_its_own_prompt(model):
    from dataclasses import replace

    played, notes = follow(asked(model), replace(SPEC, id="other"))
    assert played.prompt is None
    assert played.temperature == 1.0
    assert notes == ["the checkpoint was trained in 'corridor' and plays 'other', with that env's own prompt"]


def test_a_prompt_that_has_changed_since_is_played_from_the_checkpoint(model):
    file = model / PROTOCOL
    stored = json.loads(file.read_text())
    stored["prompt_digest"] = "0" * 12
    stored["prompt_text"]["first"] = "As it was: {{ observation }}"
    file.write_text(json.dumps(stored))
    assert follow(asked(model), SPEC)[0].prompt["first"] == "As it was: {{ observation }}"


def test_models_without_a_protocol_are_played_by_the_defaults(tmp_path):
    config = asked(tmp_path)
    assert follow(config, SPEC) == (config, [])
    assert read_protocol("Qwen/Qwen3-0.6B") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"env": "corridor"}', '{"schema": 1, "no": 2}'])
def test_a_damaged_protocol_is_refused_with_the_way_out(model, text):
    (model / PROTOCOL).write_text(text)
    with pytest.raises(CorruptData, match="remove the file to play the model as any other"):
        follow(asked(model), SPEC)


@pytest.mark.parametrize(
    ("choices", "word"),
    [
        ({"prompt": "corridor/transcript"}, "wants --prompt corridor/instruct"),
        (
            {"prompt": "agentbench.prompts:alfworld/transcript"},
            "wants --prompt agentbench.prompts:alfworld/instruct",
        ),
        ({"prompt": "webshop/transcript", "engine": "openai"}, "wants --prompt webshop/instruct"),
        ({"prompt": "corridor/instruct"}, ""),
        ({"prompt": "corridor/react"}, ""),
        ({"prompt": "code/transcript"}, ""),  # the statement says what to do
        ({"prompt": "corridor/transcript", "engine": "scripted"}, ""),
        ({"prompt": "corridor/transcript", "policy": "expert"}, ""),
    ],
)
def test_a_prompt_that_never_says_what_to_do_gets_a_word(tmp_path, choices, word):
    said = untold(asked(tmp_path, **choices), SPEC)
    assert said.endswith(word) if word else said == ""


def test_a_model_that_has_learnt_such_a_prompt_needs_none(model):
    assert untold(asked(model, prompt="corridor/transcript"), SPEC) == ""


@pytest.mark.parametrize("env", ["corridor", "alfworld", "webshop"])
def test_every_env_with_a_transcript_has_a_prompt_that_says_what_to_do(env):
    prompt = load_prompt(f"{env}/instruct")
    assert prompt.layout == "growing"
    assert "exactly one command" in prompt.system or "one action" in prompt.system
    forms = {"corridor": "open door", "alfworld": "go to ", "webshop": "search["}
    assert forms[env] in prompt.system
