"""Makes the untrained base of the small search agent: a tokenizer whose tokens build every invented name, and a model.

Names are two tokens a word, a first and a second half, and phrases between names are one token each. All worlds share
the halves and none of the names, so a model can spell names that it has never read. Nothing is downloaded.

Usage: python make_base.py OUTPUT [--hidden 96] [--layers 3] [--seed 0]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from agentbench.dialogue.prompt import load_prompt
from agentbench.envs.search_qa.world.names import HEADS, TAILS
from agentbench.models.tiny import make_model, make_tokenizer, mine_phrases
from agentbench.policies.ready import ExpertPolicy
from agentbench.registry import env_spec
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes

PROMPT = "agentbench.prompts:search_qa/transcript"
_NAME = re.compile(rf"\b(?:{'|'.join(HEADS)})(?:{'|'.join(TAILS)})\b")
_NUMBER = re.compile(r"\d[\d,]*")
OPTIONS = {"k": 1, "json_observation": False}


def transcripts(episodes: int) -> list[str]:
    """Messages and replies of the expert on training questions, as the prompt writes them."""
    spec, prompt = env_spec("search-qa"), load_prompt(PROMPT)
    tasks = spec.tasks("plain-train")[:episodes]
    texts = []
    for item in run_episodes((Episode(spec, task, 0) for task in tasks), ExpertPolicy(), env_options=OPTIONS):
        for turn in item.turns:
            texts += [
                prompt.message({"observation": turn.observation}, first=turn.index == 0),
                turn.env_action or "",
            ]
    return texts


def make_base(output: Path, *, hidden: int = 96, layers: int = 3, seed: int = 0, episodes: int = 512) -> Path:
    """Write tokenizer and model to one Hugging Face folder."""
    texts = transcripts(episodes)
    halves = [*HEADS, *TAILS]
    names = sorted({name for text in texts for name in _NAME.findall(text)})
    pairs = [f"{number:02}" for number in range(100)]
    tags = ["<search>", "</search>", "<answer>", "</answer>"]
    # A phrase ends where a question word begins, so that a query holds the very token that says it in a passage.
    borders = [*names, *tags, "who", "when", "where", "what"]
    phrases = mine_phrases((_NUMBER.sub("\n", text) for text in texts), borders, limit=200)
    tokenizer = make_tokenizer(output, texts, phrases=[*tags, *halves, *pairs, *phrases])
    return make_model(output, tokenizer, hidden=hidden, layers=layers, seed=seed, max_position=1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = make_base(arguments.output, hidden=arguments.hidden, layers=arguments.layers, seed=arguments.seed)
    print(f"base model: {made}")
