"""A turn on record holds what its prompt was written from, in every environment and prompt of ours."""

import pytest

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt, shipped_prompts
from agentbench.dialogue.render import Renderer, scene_of
from agentbench.policies.demonstrations import TokenisedPolicy
from agentbench.policies.ready import RandomPolicy
from agentbench.registry import env_spec
from agentbench.rollout.collect import Stage, collect
from agentbench.rollout.episode import Limits
from agentbench.types import RolloutPlan, to_dict, trajectory_from_dict

pytest.importorskip("transformers")
CASES = [
    (name, env)
    for name in shipped_prompts()
    for env in {"search_qa": ("search-qa",), "code": ("code", "code-tool")}.get(
        name.split("/")[0], (name.split("/")[0],)
    )
    if (env == "code-tool") == (name == "code/tool")
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from agentbench.models.tiny import make_tokenizer

    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), [])


@pytest.mark.parametrize(("prompt", "env"), CASES, ids=[f"{env}-{prompt}" for prompt, env in CASES])
def test_the_prompt_of_every_turn_on_record_is_written_again_to_the_id(tokenizer, prompt, env):
    spec, loaded = env_spec(env), load_prompt(prompt)
    renderer = Renderer(tokenizer, loaded, history=2, max_turns=4)
    policy = TokenisedPolicy(
        RandomPolicy(), renderer, get_parser(loaded.parser or spec.parser), author="student"
    )
    split = "train" if env == "corridor" else "mini-train"
    stage = Stage(spec, {"student": policy}, seed=3, limits=Limits(max_turns=4))
    groups = collect(RolloutPlan(groups=2, members=1), stage, spec.tasks(split)[:2], 0)
    turns = 0
    for group in groups:
        (played,) = group.members
        episode = trajectory_from_dict(to_dict(played))  # as read from a file
        assert episode.ok
        for turn in episode.turns:
            scene = scene_of(episode, turn.index)
            own = renderer.render(scene)
            assert own.context_ids == list(turn.context_ids)
            assert own.fresh == turn.fresh
            assert own.shown == dict(turn.shown)
            # and with a text beside, both are there
            told = tokenizer.decode(renderer.render(scene, "A SKILL", where="before").prompt_ids)
            assert told.count("A SKILL") == 1
            assert told.replace("A SKILL\n\n", "") == tokenizer.decode(own.prompt_ids)
            turns += 1
    assert turns >= 2
