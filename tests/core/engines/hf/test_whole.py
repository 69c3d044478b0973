"""Guided choice by whole commands: scores against plain forward passes, draws against their odds."""

import numpy as np
import pytest

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import HFEngine
from agentbench.engines.scripted import ByteTokenizer, ScriptedEngine
from agentbench.errors import ConfigError, EngineFailure, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.policies.model import ModelPolicy
from agentbench.runs.episodes import read_episodes
from agentbench.types import SamplingParams

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'train'")

END = 2
CHOICES = ((10, 11, END), (10, 12, 13, 14, END), (20, END), (END,), (20, 21, 22, 23, 24, 25, END))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(path, ["go look"])
    make_model(path, tokenizer, hidden=32, layers=2, heads=4, kv_heads=2, max_position=400)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def parts(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def ask(key, prompt, choices=CHOICES, seed=0, slot="", **sampling):
    settings = SamplingParams(**{"max_new_tokens": 8, **sampling})
    return Request(key, tuple(prompt), settings, seed, slot=slot, choices=choices, whole=True)


def scores(model, prompt, choices=CHOICES):
    """Mean log-prob a token of each choice, from one plain forward pass in float64 for each."""
    model, found = model.double(), []
    for choice in choices:
        ids = torch.tensor([[*prompt, *choice]])
        with torch.no_grad():
            logp = model(ids, use_cache=False).logits[0].log_softmax(-1)
        at = len(prompt) - 1
        found.append(np.mean([float(logp[at + i, token]) for i, token in enumerate(choice)]))
    model.float()
    return np.array(found)


def odds(scores, temperature):
    found = np.exp((scores - scores.max()) / temperature)
    return found / found.sum()


@pytest.mark.parametrize(
    "options",
    [{}, {"keep_cache": False}, {"slots": 2}, {"prefill_tokens": 5}, {"cache_bytes": 300 * 256}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_the_best_whole_command_is_said_and_its_odds_are_on_record(options, parts):
    model, engine = parts[0], HFEngine(*parts, **options)
    source = np.random.default_rng(0)
    prompts = [source.integers(3, 250, size).tolist() for size in (1, 7, 40, 41, 90)]
    subsets = [CHOICES, CHOICES[:2], CHOICES[2:], CHOICES[1:2], CHOICES[::-1]]
    asked = [
        ask(str(i), *given, temperature=0.0) for i, given in enumerate(zip(prompts, subsets, strict=True))
    ]
    for prompt, choices, action in zip(prompts, subsets, sample(engine, asked), strict=True):
        wanted = scores(model, prompt, choices)
        best = int(wanted.argmax())
        assert tuple(action.token_ids) == choices[best]
        assert action.finish == "stop"
        assert action.logprobs[0] == pytest.approx(np.log(odds(wanted, 1.0)[best]), abs=1e-5)
        assert not any(action.logprobs[1:])


def test_the_first_token_alone_does_not_decide(parts):
    """Prompts for which the likeliest first token begins a command that is not the likeliest as a whole."""
    model, engine, differ = parts[0], HFEngine(*parts), 0
    for start in range(3, 33):
        (whole,) = sample(engine, [ask("w", (start, 7), temperature=0.0)])
        (stepwise,) = sample(
            engine,
            [Request("s", (start, 7), SamplingParams(temperature=0.0, max_new_tokens=8), 0, choices=CHOICES)],
        )
        assert tuple(whole.token_ids) == CHOICES[int(scores(model, (start, 7)).argmax())]
        differ += whole.token_ids != stepwise.token_ids
    assert differ > 3


def test_draws_follow_the_odds_and_the_seed_alone(parts):
    model, prompt = parts[0], (5, 6, 7)
    requests = [ask(str(i), prompt, seed=i, temperature=2.0) for i in range(400)]
    actions = sample(HFEngine(*parts, slots=32), requests)
    wanted = odds(scores(model, prompt), 2.0)
    counts = np.array([sum(tuple(a.token_ids) == choice for a in actions) for choice in CHOICES])
    assert counts.sum() == 400
    assert (np.abs(counts - 400 * wanted) < 4 * np.sqrt(400 * wanted * (1 - wanted)) + 1).all()
    for action in actions[:20]:
        at = CHOICES.index(tuple(action.token_ids))
        assert sum(action.logprobs) == pytest.approx(np.log(wanted[at]), abs=1e-5)
    alone = [sample(HFEngine(*parts), [request])[0].token_ids for request in requests[:10]]
    assert alone == [action.token_ids for action in actions[:10]]


def test_wholes_and_free_replies_share_a_batch_and_a_conversation(parts):
    """A chosen reply is in the cache's books like any other: the next turn computes it and goes on."""
    model, engine = parts[0], HFEngine(*parts)
    ids = [5, 6, 7, 8]
    free = Request("f", tuple(ids), SamplingParams(max_new_tokens=6), 3)
    chosen, beside = sample(engine, [ask("a", ids, slot="x", temperature=0.0), free])
    assert beside.token_ids == sample(HFEngine(*parts), [free])[0].token_ids
    ids += [*chosen.token_ids, 30, 31]
    (later,) = sample(engine, [Request("b", tuple(ids), SamplingParams(max_new_tokens=6), 4, slot="x")])
    with torch.no_grad():
        logp = model(torch.tensor([[*ids, *later.token_ids]]), use_cache=False).logits[0].log_softmax(-1)
    wanted = [float(logp[len(ids) - 1 + i, token]) for i, token in enumerate(later.token_ids)]
    assert later.logprobs == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_k": 3}, {"choices": None}])
def test_what_cannot_be_weighed_is_refused(changes, parts):
    with pytest.raises(UsageError, match="weighed as wholes where there are some, top_p is 1 and top_k is 0"):
        HFEngine(*parts).submit([ask("a", (1, 2), **changes)])


def test_a_command_that_the_context_cannot_hold_fails_its_request_alone(parts):
    engine = HFEngine(*parts, max_context=20)
    with pytest.raises(EngineFailure, match="leaves no room"):
        sample(engine, [ask("a", range(3, 18))])
    assert sample(engine, [ask("b", range(3, 8))])[0].finish == "stop"


def test_an_engine_that_cannot_weigh_is_refused_when_the_policy_is_built():
    engine = ScriptedEngine(["look"], tokenizer=ByteTokenizer())
    prompt = load_prompt({"layout": "growing", "parser": "plain", "first": "x", "later": "x"})
    with pytest.raises(
        UsageError, match=r"guided: whole .* engine 'scripted' .* use engine: hf, or guided: true"
    ):
        ModelPolicy(
            engine,
            Renderer(engine.tokenizer, prompt, history=None, max_turns=5),
            get_parser("plain"),
            SamplingParams(),
            guided="whole",
        )


def test_an_evaluation_plays_the_best_whole_command(folder, parts, tmp_path):
    config = EvalConfig(
        policy="model", model_name_or_path=str(folder), panel="corridor/test@1", limit=2, max_turns=3,
        guided="whole", temperature=0.0, max_new_tokens=20, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    evaluate(config)
    turns = [turn for e in read_episodes(tmp_path / "run" / "episodes.jsonl") for turn in e.turns]
    assert turns
    assert not any(turn.invalid for turn in turns)
    assert {len(turn.action.logprobs) == len(turn.action.token_ids) for turn in turns} == {True}


def test_other_words_are_refused():
    with pytest.raises((UsageError, ConfigError, ValueError)):
        EvalConfig(policy="model", model_name_or_path="x", panel="corridor/test@1", guided="words")
