"""A model as a policy under guided choice: what may be said to its end, and what is no command at all."""

from types import SimpleNamespace

import pytest

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.engines.scripted import ByteTokenizer
from agentbench.envs.corridor import SPEC
from agentbench.errors import UsageError
from agentbench.policies.model import ModelPolicy
from agentbench.types import SamplingParams

PROMPT = {"layout": "growing", "parser": "plain", "first": "{{ observation }}", "later": "{{ observation }}"}


class Listening:
    """Keeps what it is asked."""

    def __init__(self, max_context=4096):
        self.tokenizer, self.max_context, self.asked = ByteTokenizer(), max_context, []

    def submit(self, requests):
        self.asked += requests


def asked(admissible, *, max_new_tokens, guided=True, max_context=4096):
    engine = Listening(max_context)
    prompt = load_prompt(PROMPT)
    policy = ModelPolicy(
        engine,
        Renderer(engine.tokenizer, prompt, history=None, max_turns=5),
        get_parser("plain"),
        SamplingParams(max_new_tokens=max_new_tokens),
        guided=guided,
    )
    view = SimpleNamespace(
        key="k", seed=0, observation="You see a door.", turns=[], info={"admissible": admissible}, spec=SPEC
    )
    policy.submit([view])
    return policy, engine


@pytest.mark.parametrize(("limit", "wanted"), [(1, 11), (10, 11), (11, 11), (50, 50)])
def test_the_longest_command_may_be_said_whatever_the_limit(limit, wanted):
    # "open doors" is 10 bytes, one token each, and the end of the turn
    _, engine = asked(["go", "open doors"], max_new_tokens=limit)
    (request,) = engine.asked
    assert request.sampling.max_new_tokens == wanted
    assert max(map(len, request.choices)) == 11


def test_a_command_that_does_not_fit_ends_the_episode():
    policy, engine = asked(["x" * 500], max_new_tokens=4, max_context=400)
    assert not engine.asked
    ((_, decision),) = policy.poll()
    assert decision.end == "context_full"


@pytest.mark.parametrize("command", ["search[<your query>]", "answer[ <text> ]", "say(<words>)"])
def test_a_place_for_free_words_is_not_said_as_it_stands(command):
    with pytest.raises(UsageError, match=r"guided choice would say .* for free words\. Play without"):
        asked(["go", command], max_new_tokens=8)
    asked(["go", command], max_new_tokens=8, guided=False)


def test_angle_brackets_alone_are_no_template():
    assert asked(["press <enter>", "a < b"], max_new_tokens=8)[1].asked
