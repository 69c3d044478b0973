"""What a retriever found is context: never trained on, in either layout; and special tokens in it stay text."""

import json

import pytest

from agentbench.config import validate
from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.dialogue.segment import CONTEXT, segment
from agentbench.envs.search_qa.env import SPEC
from agentbench.policies.demonstrations import TokenisedPolicy
from agentbench.policies.ready import ExpertPolicy
from agentbench.policy import View
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import read_episodes
from agentbench.training.config import TrainConfig
from agentbench.types import Action, Group, Turn

torch = pytest.importorskip("torch")

LAYOUTS = {
    "fresh": "react",
    "growing": "growing",
    "growing, bare": "transcript",
    "continuing": "continuing",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders "student" and "teacher" with one tokenizer."""
    from agentbench.models.tiny import make_model, make_tokenizer

    root = tmp_path_factory.mktemp("models")
    for name, seed in (("student", 0), ("teacher", 1)):
        tokenizer = make_tokenizer(
            root / name, [], phrases=["<search>", "</search>", "<answer>", "</answer>"]
        )
        make_model(root / name, tokenizer, hidden=32, layers=1, seed=seed, max_position=8192)
    return root


def config(models, folder, prompt, algorithm="gkd", **changes):
    values = {
        "algorithm": algorithm,
        "output_dir": str(folder),
        "model_name_or_path": str(models / "student"),
        "env": {
            "name": "search-qa",
            "split": "plain-dev",
            "prompt": f"agentbench.prompts:search_qa/{prompt}",
            "num_tasks": 32,
        },
        "rollout": {"tasks_per_step": 2, "group_size": 2, "max_new_tokens": 8},
        "max_steps": 2,
        "learning_rate": 0.01,
    }
    if algorithm == "gkd":
        values |= {"teachers": [{"model_name_or_path": str(models / "teacher")}]}
    return validate(TrainConfig, values | changes)


def episodes_of(tokenizer, prompt):
    """The expert's episodes in a model's tokens, as if the student had said them."""
    loaded = load_prompt(f"agentbench.prompts:search_qa/{prompt}")
    renderer = Renderer(tokenizer, loaded, history=4, max_turns=4)
    policy = TokenisedPolicy(ExpertPolicy(), renderer, get_parser("search"), "student")
    tasks = SPEC.tasks("plain-test")[:4]
    return list(run_episodes([Episode(SPEC, task, 0) for task in tasks], policy))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_retrieved_tokens_have_a_gradient_of_exactly_zero(models, tmp_path, layout):
    from agentbench.trainers.gkd import SPEC as GKD

    run = config(models, tmp_path, LAYOUTS[layout])
    trainer = GKD.build(run, validate(GKD.config, run.trainer))
    episodes = episodes_of(trainer.tokenizer, LAYOUTS[layout])
    retrieved = [
        turn.observation for item in episodes for turn in item.turns if "<information>" in turn.observation
    ]
    assert len(retrieved) >= 4
    hidden = []

    def keep(_module, _given, out):
        if out.requires_grad:
            out.retain_grad()
            hidden.append(out)

    handle = trainer.student.net.plain.model.norm.register_forward_hook(keep)
    trainer.update([Group("t", 0, tuple(episodes))], 0)
    handle.remove()
    rows = sorted((s for item in episodes for s in segment(item)), key=lambda s: len(s.token_ids))
    trained = sum(turn != CONTEXT for row in rows for turn in row.turn_ids)
    moved = torch.cat([(out.grad != 0).any(dim=-1).flatten() for out in hidden])
    # The state that predicts a sampled token has a gradient, and no other: none before retrieved text, none at pads.
    assert int(moved.sum()) == trained
    assert trained == sum(len(turn.action.token_ids) for item in episodes for turn in item.turns)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_found_is_context_token_by_token(models, layout):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(models / "student"))
    for item in episodes_of(tokenizer, LAYOUTS[layout]):
        said = [tokenizer.decode(list(turn.action.token_ids)) for turn in item.turns]
        learnt = ""
        for row in segment(item):
            kept = [token for token, turn in zip(row.token_ids, row.turn_ids, strict=True) if turn != CONTEXT]
            learnt += tokenizer.decode(kept)
            context = [
                token for token, turn in zip(row.token_ids, row.turn_ids, strict=True) if turn == CONTEXT
            ]
            assert "Doc 1" not in tokenizer.decode(kept)
            assert "<|im_start|>" in tokenizer.decode(context)
        assert learnt == "".join(said)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_tokens_in_retrieved_text_stay_text(models, retriever, layout):
    """The second passage holds an end-of-turn marker; the prompt may hold no more of them than its messages end."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(models / "student"))
    prompt = load_prompt(f"agentbench.prompts:search_qa/{LAYOUTS[layout]}")
    renderer = Renderer(tokenizer, prompt, history=4, max_turns=4)
    env = SPEC.make()
    observation, info = env.reset(options={"task": SPEC.tasks("plain-test")[0]})
    view = View("v", SPEC, env, info["task"], 0, 0, observation, info)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    counts = []
    for _ in range(2):
        rendered = renderer.render(view)
        counts.append(rendered.prompt_ids.count(end))
        ids = renderer.reply_ids("<search>engine</search>")
        action = Action("<search>engine</search>", ids, (0.0,) * len(ids))
        turn = Turn(
            len(view.turns), view.observation, action, action.text, 0.0, rendered.context_ids, rendered.fresh
        )
        view.turns.append(turn)
        view.observation, _, _, _, view.info = env.step(action.text)
    assert "<|im_end|>" in view.observation
    # fresh: one message a prompt; growing: the first message, then the reply's own end and the second message's;
    # continuing: the first message's alone, since the reply ended with </search> and goes on
    assert counts == {"fresh": [1, 1], "continuing": [1, 1]}.get(layout, [1, 3])
    assert "<|im_end|>" in tokenizer.decode(rendered.prompt_ids, skip_special_tokens=True)


@pytest.mark.parametrize("algorithm", ["gkd", "grpo"])
def test_training_runs_on_questions(models, tmp_path, algorithm):
    from agentbench.training.loop import train

    train(config(models, tmp_path / "run", "transcript", algorithm), report=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    episodes = read_episodes(tmp_path / "run" / "rollouts" / "step-000001.jsonl")
    assert {item.env for item in episodes} == {"search-qa"}
    assert len(episodes) == 4
