from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from families import FAMILIES, tokenizer_of

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.engines.scripted import Reply, ScriptedEngine
from agentbench.envs.corridor import SPEC
from agentbench.policies.model import ModelPolicy
from agentbench.types import SamplingParams

COMMANDS = ["go left", "open door"]


def policy_of(name, replies, **options):
    tokenizer = tokenizer_of(FAMILIES[name])
    engine = ScriptedEngine(replies, tokenizer, cycle=True)
    renderer = Renderer(tokenizer, load_prompt("agentbench.prompts:corridor/react"), history=2, max_turns=9)
    sampling = SamplingParams(max_new_tokens=64)
    return ModelPolicy(engine, renderer, get_parser("tags:30"), sampling, **options), engine, tokenizer


def view(key="a"):
    return SimpleNamespace(
        key=key, observation="now", turns=[], info={"admissible": COMMANDS, "task": "t"}, spec=SPEC, seed=1
    )


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_replies_end_with_the_token_of_the_chat_template(name):
    policy, engine, tokenizer = policy_of(name, ["<action>go left</action>"])
    policy.submit([view()])
    ((_, decision),) = policy.poll()
    assert engine.requests[0].end_ids == (tokenizer.convert_tokens_to_ids(FAMILIES[name].end),)
    assert (decision.env_action, decision.action.finish) == ("go left", "stop")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_guided_choices_go_on_where_the_prompt_stops_and_are_clean(name):
    family = FAMILIES[name]
    thought = (
        "" if family.opened.endswith("</think>") else "<think>\n\n</think>\n\n".removeprefix(family.opened)
    )
    rest = f"{thought}<action>open door</action>"
    policy, engine, tokenizer = policy_of(name, [rest], guided=True)
    policy.submit([view()])
    ((_, decision),) = policy.poll()
    spoken = [tokenizer.decode(ids) for ids in engine.requests[0].choices]
    assert spoken[1] == rest + family.end
    assert (decision.env_action, decision.invalid) == ("open door", "")


@pytest.mark.parametrize(("name", "invalid"), [("r1 distill", ""), ("chatml", "no_think")])
def test_a_thought_that_the_prompt_opened_counts(name, invalid):
    policy, _, _ = policy_of(name, ["I go.\n</think>\n\n<action>go left</action>"])
    policy.submit([view()])
    ((_, decision),) = policy.poll()
    assert (decision.env_action, decision.invalid) == ("go left", invalid)


def test_an_episode_that_was_given_up_is_heard_of_no_more():
    policy, _, _ = policy_of("chatml", [Reply("x", delay=1)])
    policy.submit([view("a"), view("b")])
    policy.forget("a")
    assert [key for key, _ in policy.poll()] == ["b"]
