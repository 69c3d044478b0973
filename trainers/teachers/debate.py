"""A debate among teachers about what to reply in a state, before any of them scores the student's reply.

Round 1: every teacher sees the state alone. Later rounds: also all that was said in earlier rounds, and who it is.
Nobody sees what the student replied, so the debate is about the state and not about the reply (`action` shows it, as an
ablation). Each message should close with one tag `<<CONFIDENCE=N>>`; the last tag of the last round counts.
Source: MAD-OPD, arXiv:2605.01347; templates in our own words (`agentbench.prompts.debate`).

A teacher that fails to answer in any round is out of that debate: it is not asked again, and what it said before
stands. Leaves out who speaks (`speaking`), the weights (`maths.teacher_weights`) and the scoring (`contexts`).
"""

from __future__ import annotations

import importlib.resources
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import field_validator

from agentbench.config import Section, parse_mapping, validate
from agentbench.errors import unknown_name
from agentbench.types import Group, Trajectory

from .speaking import Speaker, Spoken, speak

Key = tuple[str, int]
"""(trajectory id, turn index)."""

_TAG = re.compile(r"<<\s*CONFIDENCE\s*=([^<>]*)>>", re.IGNORECASE)
_NUMBER = re.compile(r"\s*\d{1,3}(\.\d+)?\s*")
_SLOTS = ("me", "state", "transcript", "action")
_ACTION = "The agent replied:\n$action\n[End of reply]\n"


class DebateTexts(Section):
    """What is said to the debaters: templates of Python's `string.Template` with $me, $state, $transcript, $action.

    Attributes:
        first: asks for a message in round 1.
        later: asks for one in a later round.
        answer: put after the student's prompt when a teacher scores the student's reply.
    """

    first: str
    later: str
    answer: str

    @field_validator("first", "later", "answer")
    @classmethod
    def _fills(cls, text: str) -> str:
        try:
            string.Template(text).substitute(dict.fromkeys(_SLOTS, ""))
        except (KeyError, ValueError) as error:
            slots = ", ".join(f"${slot}" for slot in _SLOTS)
            raise ValueError(
                f"{error} cannot be filled in; slots are {slots}, and a dollar sign is $$"
            ) from None
        return text

    def write(self, part: str, *, me: int, state: str = "", transcript: str = "", action: str = "") -> str:
        """Fill in one of the templates, for teacher number `me` from 0."""
        shown = string.Template(_ACTION).substitute(action=action) if action else ""
        slots = {"me": letter(me), "state": state, "transcript": transcript, "action": shown}
        return string.Template(getattr(self, part)).substitute(slots).strip()


def load_debate(named: str | Mapping[str, Any]) -> DebateTexts:
    """Take a debate by its name in `agentbench.prompts.debate`, or from the mapping that a configuration holds.

    Raises: UnknownName: no such debate. ConfigError: a template is missing, or has an unknown slot.
    """
    if not isinstance(named, str):
        return validate(DebateTexts, named, "trainer.debate.")
    folder = importlib.resources.files("agentbench.prompts").joinpath("debate")
    found = {
        file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")
    }
    if named not in found:
        raise unknown_name("debate", named, sorted(found))
    text = found[named].read_text(encoding="utf-8")
    return validate(DebateTexts, parse_mapping(text, f"debate {named!r}"), f"debate {named!r}: ")


def letter(teacher: int) -> str:
    """Name of a debater: A, B, C ..."""
    return chr(ord("A") + teacher)


@dataclass(frozen=True)
class Debate:
    """What came of one.

    Attributes:
        rounds: [R][K] messages; None where a teacher failed, in this round or before.
    """

    rounds: tuple[tuple[Spoken | None, ...], ...]

    @property
    def present(self) -> tuple[bool, ...]:
        """Which of the K teachers answered in every round."""
        return tuple(said is not None for said in self.rounds[-1])

    @property
    def confidence(self) -> tuple[float, ...]:
        """What each reported in the last round, 0 to 100; NaN without a tag that can be read."""
        return tuple(math.nan if said is None else read_confidence(said.text) for said in self.rounds[-1])

    @property
    def likelihood(self) -> tuple[float, ...]:
        """How likely each found its own last message, 100 exp(mean log-prob); NaN without log-probs."""
        last = self.rounds[-1]
        return tuple(
            math.nan if said is None or said.logp is None else 100.0 * math.exp(said.logp) for said in last
        )

    @property
    def transcript(self) -> str:
        """Everything said, in order, under its expert and round."""
        parts = [
            f"Expert {letter(k)}, round {r}:\n{said.text}"
            for r, messages in enumerate(self.rounds, start=1)
            for k, said in enumerate(messages)
            if said is not None
        ]
        return "\n\n".join(parts)

    def proposals(self, number: int) -> tuple[str, ...]:
        """What was proposed in a round (0 first), without confidence tags and blanks around; "" where nothing was."""
        return tuple("" if said is None else _TAG.sub("", said.text).strip() for said in self.rounds[number])


def read_confidence(text: str) -> float:
    """The number of the last tag; NaN without a tag, and where the last one holds no number from 0 to 100."""
    tags = _TAG.findall(text)
    if not tags or not _NUMBER.fullmatch(tags[-1]) or float(tags[-1]) > 100.0:
        return math.nan
    return float(tags[-1])


def hold_debates(
    speakers: Sequence[Speaker],
    states: Mapping[Key, str],
    texts: DebateTexts,
    rounds: int,
    *,
    actions: Mapping[Key, str] | None = None,
) -> dict[Key, Debate]:
    """Let the teachers debate every state; all teachers and states of a round at once.

    Args:
        speakers: one for each of K teachers.
        states: what they are shown, see `state_texts`.
        texts: the templates.
        rounds: R, at least 1.
        actions: the student's replies to show (an ablation); None keeps the debate blind.
    """
    held: dict[Key, tuple[tuple[Spoken | None, ...], ...]] = dict.fromkeys(states, ())
    for number in range(rounds):
        asked = []
        for k, speaker in enumerate(speakers):
            mine = {
                key: texts.write(
                    "later" if number else "first",
                    me=k,
                    state=states[key],
                    transcript=Debate(before).transcript,
                    action=(actions or {}).get(key, ""),
                )
                for key, before in held.items()
                if not before or before[-1][k] is not None
            }
            asked.append((speaker, mine))
        answers = speak(asked)
        held = {key: (*before, tuple(said.get(key) for said in answers)) for key, before in held.items()}
    return {key: Debate(messages) for key, messages in held.items()}


def state_texts(groups: Sequence[Group], keys: Sequence[Key], tokenizer: Any) -> dict[Key, str]:
    """What the student had read before each turn, as one text: its prompt on record without special tokens."""
    members = {member.id: member for group in groups for member in group.members}
    return {
        key: tokenizer.decode(
            _prompt_ids(members[key[0]], key[1]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).strip()
        for key in keys
    }


def reply_texts(groups: Sequence[Group], keys: Sequence[Key]) -> dict[Key, str]:
    """What the student replied, for the ablation that shows it."""
    members = {member.id: member for group in groups for member in group.members}
    return {key: members[key[0]].turns[key[1]].action.text for key in keys}


def _prompt_ids(trajectory: Trajectory, turn: int) -> list[int]:
    """Every id since the last fresh prompt, up to the reply of this turn."""
    ids: list[int] = []
    for past in trajectory.turns[: turn + 1]:
        ids = [*([] if past.fresh else ids), *past.context_ids]
        if past.index < turn:
            ids += past.action.token_ids
    return ids
