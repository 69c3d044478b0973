"""The rules of an episode as one table of settings, and the two published protocols as rows of it.

Words that a model reads besides questions and passages are our own; give `invalid_text` to reproduce another's. Leaves
out prompts (`agentbench.prompts`) and carrying the rules out (`env`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from agentbench.dialogue.blocks import RULES
from agentbench.errors import ConfigError, unknown_name
from agentbench.retrieval.contract import Passage

FORMATS = ("contents", "titled")
"""Wordings of a passage: `Doc 1: "Title"`, newline, text; or `Doc 1(Title: "Title") text` on one line."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row of the table.

    Attributes:
        name: of the row it began as.
        turns: replies of the model in which a search may stand.
        last_turn_searches: the search of the last of those turns is carried out, and one more reply follows; otherwise
            that search is not carried out and the episode ends.
        tag_order: how a command is read, one of `agentbench.dialogue.blocks.RULES`.
        invalid_text: observation after a reply without a command.
        nothing_text: what stands in place of passages when nothing was found.
        passage_format: one of `FORMATS`.
        json_observation: the passages are the value of a JSON object, non-ASCII characters escaped.
        margin: text before and after the information block.
        passage_words: words of a passage's text that are shown; 0 shows all.
        k: passages asked for.
        question_mark: end the question with "?" where it is shown; the task keeps its own form.
        invalid_penalty: taken off the reward of a turn with an invalid reply.
        prompt: the prompt that goes with it, a reference.
    """

    name: str
    turns: int
    last_turn_searches: bool
    tag_order: str
    invalid_text: str
    nothing_text: str
    passage_format: str
    json_observation: bool
    margin: tuple[str, str]
    passage_words: int
    k: int
    question_mark: bool
    invalid_penalty: float
    prompt: str

    @property
    def replies(self) -> int:
        """Replies of the model in an episode, at most."""
        return self.turns + int(self.last_turn_searches)

    def may_search(self, reply: int) -> bool:
        """Whether a search in this reply (from 1) is carried out: every one but the last."""
        return reply < self.replies

    def ask(self, question: str) -> str:
        """The question as it is shown."""
        question = question.strip()
        return question if not self.question_mark or question.endswith("?") else question + "?"

    def observation(self, passages: Sequence[Passage]) -> str:
        """What the model reads after a search that found these passages, best first."""
        body = (
            "".join(self._passage(number, passage) for number, passage in enumerate(passages, 1))
            or self.nothing_text
        )
        if self.json_observation:
            body = json.dumps({"result": body})
        else:
            body = body.strip()
        before, after = self.margin
        return f"{before}<information>{body}</information>{after}"

    def _passage(self, number: int, passage: Passage) -> str:
        shown = replace(passage, text=first_words(passage.text, self.passage_words)).contents
        if self.passage_format == "contents":
            return f"Doc {number}: {shown.strip()}\n"
        title, _, text = shown.partition("\n")
        return f"Doc {number}(Title: {title}) {text}\n"


PRESETS: dict[str, Protocol] = {
    "verl-agent": Protocol(
        name="verl-agent",
        turns=4,
        last_turn_searches=False,
        tag_order="verl-agent",
        invalid_text="",
        nothing_text="",
        passage_format="contents",
        json_observation=True,
        margin=("\n", "\n"),
        passage_words=120,
        k=3,
        question_mark=False,
        invalid_penalty=0.01,
        prompt="agentbench.prompts:search_qa/react",
    ),
    "search-r1": Protocol(
        name="search-r1",
        turns=4,
        last_turn_searches=True,
        tag_order="search-r1",
        invalid_text=(
            "\nThat was no valid action of mine. To search, I write a query between <search> and </search>. "
            "To answer, I write the answer between <answer> and </answer>. I try once more.\n"
        ),
        nothing_text="",
        passage_format="titled",
        json_observation=False,
        margin=("\n\n", "\n\n"),
        passage_words=120,
        k=3,
        question_mark=True,
        invalid_penalty=0.0,
        prompt="agentbench.prompts:search_qa/continuing",
    ),
}
"""Published protocols by name. verl-agent's is ATOD's; both differ in the cap on words, see docs/search-qa.md."""

RULE_NAMES = (
    "turns", "last_turn_searches", "tag_order", "invalid_text", "nothing_text", "passage_format", "json_observation",
    "passage_words", "k", "question_mark",
)  # fmt: skip
"""Settings that a user may change one by one; the rest goes with the name."""

_LEAST = {"turns": 1, "passage_words": 0, "k": 1}
_CHOICES: Mapping[str, Sequence[str]] = {"tag_order": RULES, "passage_format": FORMATS}


def protocol(name: str = "verl-agent", **rules: Any) -> Protocol:
    """Return a preset with some of its rules changed.

    Args:
        name: one of `PRESETS`.
        rules: values for `RULE_NAMES`; None leaves a rule as it is.
    Raises: UnknownName: no such preset. ConfigError: no such rule, or a value of the wrong kind.
    """
    if name not in PRESETS:
        raise unknown_name("protocol of search-qa", name, PRESETS)
    row = PRESETS[name]
    kinds = {item.name: type(getattr(row, item.name)) for item in fields(Protocol)}
    changed = {}
    for rule, value in rules.items():
        if rule not in RULE_NAMES:
            raise unknown_name("rule of search-qa", rule, RULE_NAMES)
        if value is None:
            continue
        if type(value) is not kinds[rule]:
            raise ConfigError(
                f"rule {rule!r} of search-qa must be {kinds[rule].__name__}, got {value!r}; "
                f"{name} has {getattr(row, rule)!r}"
            )
        if rule in _LEAST and value < _LEAST[rule]:
            raise ConfigError(f"rule {rule!r} of search-qa must be at least {_LEAST[rule]}, got {value!r}")
        if rule in _CHOICES and value not in _CHOICES[rule]:
            raise unknown_name(f"{rule} of search-qa", value, _CHOICES[rule])
        changed[rule] = value
    return replace(row, **changed)


_WORD = re.compile(r"\S+")


def first_words(text: str, count: int) -> str:
    """Cut a text after `count` words, the white space between them kept; 0 cuts nothing."""
    if not count:
        return text
    for number, word in enumerate(_WORD.finditer(text), 1):
        if number == count:
            return text[: word.end()] if text[word.end() :].strip() else text
    return text
