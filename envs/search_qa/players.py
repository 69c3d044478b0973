"""How a player looks an answer up: what to say next, given what was read so far. Binds to no env (see `env`).

Answers to generated questions are read out of passages that were shown, by experts too: what they know is how the
question comes apart. Leaves out plans themselves (`world.asking`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from agentbench.env import Explorer

from .protocol import PRESETS
from .world.asking import Plan, Wanted, resolve, take_apart

_INFORMATION = re.compile(r"<information>(.*)</information>", re.DOTALL)
_FIRST_TITLE = re.compile(r'Doc 1(?:: |\(Title: )"(.*?)"')


def search(query: str) -> str:
    """The command that searches; angle brackets would end the block."""
    return f"<search>{' '.join(query.replace('<', ' ').replace('>', ' ').split())}</search>"


def answer(text: str) -> str:
    """The command that answers."""
    return f"<answer>{' '.join(text.replace('<', ' ').replace('>', ' ').split())}</answer>"


class LookUp:
    """Carries out a plan: searches for the first fact that is missing, in other words if the first did not help."""

    def __init__(self, plan: Plan) -> None:
        """Remember the plan; nothing was asked yet."""
        self.plan = plan
        self.asked: list[str] = []

    def command(self, texts: Sequence[str], *, last: bool) -> str:
        """Say what to do next.

        Args:
            texts: passages read so far.
            last: nothing but an answer counts now.
        """
        wanted = resolve(self.plan, texts)
        if isinstance(wanted, str):
            return answer(wanted)
        query = next((query for query in wanted.queries() if query not in self.asked), None)
        if last or query is None:
            return answer(self._guess(wanted))
        self.asked.append(query)
        return search(query)

    def _guess(self, wanted: Wanted) -> str:
        """With facts missing: yes where that is possible, else as far as the chain was followed."""
        return wanted.subject if self.plan.relations else "yes"


class TextPlayer:
    """Knows the protocol's number of replies, the make of generated questions, and what it reads.

    A question of another make is searched for as it is, and answered with the title of the best passage.
    """

    def __init__(self, question: str) -> None:
        """Take the question apart."""
        self.question = question
        plan = take_apart(question)
        self.look_up = None if plan is None else LookUp(plan)
        self.read: list[str] = []

    def observe(self, observation: str) -> None:
        """Take in an observation; the first one is the question."""
        self.read.append(observation)

    def act(self, admissible: Sequence[str]) -> str:
        """Return the command to give now."""
        texts = [text for text in map(passages_in, self.read[1:]) if text]
        last = len(self.read) >= PRESETS["verl-agent"].replies
        if self.look_up is not None:
            return self.look_up.command(texts, last=last)
        found = _FIRST_TITLE.search(texts[0]) if texts else None
        if found:
            return answer(found[1])
        return answer("unknown") if last else search(self.question)


def explore(observation: str) -> Explorer:
    """Make the player of an episode from its first observation."""
    return TextPlayer(observation)


def passages_in(observation: str) -> str:
    """The passages of an observation as plain text, out of either protocol's wrapping."""
    found = _INFORMATION.search(observation)
    if found is None:
        return ""
    try:
        return str(json.loads(found[1])["result"])
    except (ValueError, KeyError, TypeError):
        return found[1]
