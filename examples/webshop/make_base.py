"""Makes the untrained base of the small shopper: a tokenizer and a random model.

Wares, qualities, options and brands are one token each, and so are the phrases between them. Nothing is downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from shopper import PLACES, PlaceShopper
from shops import SHOPS

from agentbench.dialogue.prompt import load_prompt
from agentbench.models.tiny import make_model, make_tokenizer, mine_phrases
from agentbench.policy import View
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes

PROMPT = Path(__file__).parent / "prompt.yaml"
_PRICE = re.compile(r"\d+(?=\.00 dollars)|(?<=\$)\d+")


class Reader(PlaceShopper):
    """Keeps what the shopper reads and says."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = load_prompt(str(PROMPT))
        self.texts: list[str] = []
        self.words: set[str] = set()

    def command(self, view: View) -> str:
        """Read, act, note both."""
        action = super().command(view)
        slots = {"observation": view.observation, "info": view.info}
        page = self.prompt.message(slots, first=not view.turns)
        self.texts += [page, action]
        if view.info["page"] == "item":
            self.words.update(page.split(" | "))
        if view.info["page"] == "results":
            for line in page.splitlines():
                brand, style, title = line.split(" | ")[1].split(" ", 2)
                ware, _, praise = title.partition(" with ")
                self.words.update((brand, style, ware, *praise.split(", ")))
        return action


def make_base(output: Path) -> Path:
    """Write tokenizer and model to one Hugging Face folder."""
    reader = Reader()
    tasks = SHOPS.tasks("mini-train")[::16][:600]
    list(run_episodes((Episode(SHOPS, task, 0) for task in tasks), reader))
    words = sorted({*reader.words, *PLACES})
    texts = [_PRICE.sub("\n", text) for text in reader.texts]
    phrases = mine_phrases(texts, words, limit=200)
    signs = ["search[", "click[", "]", " | ", ", ", " | $", ".00 dollars", "\n"]
    tokenizer = make_tokenizer(output, texts, phrases=[*signs, *phrases, *words])
    return make_model(output, tokenizer, hidden=96, layers=3, seed=0, max_position=1024)
