"""Search-QA as a Gymnasium env: what an agent reads, when an episode ends, what it pays; and the plug-in's `SPEC`.

Leaves out the rules' table (`protocol`), tasks (`splits`), finding passages (`corpora`) and looking up (`players`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium

from agentbench.dialogue.blocks import read_command
from agentbench.env import (
    AnyText,
    EnvSpec,
    Info,
    StepReturn,
    TextEnv,
    as_text,
    named_task,
    register_gymnasium,
)
from agentbench.errors import UsageError, unknown_name
from agentbench.retrieval.contract import Retriever, readable

from .corpora import retriever_for, settings_of
from .metrics import Scores, score
from .players import LookUp, answer, explore, search
from .protocol import PRESETS, RULE_NAMES, Protocol, first_words
from .protocol import protocol as rules_of
from .questions import SETS, Question
from .splits import SPLITS, find_task, neighbours, tasks

REWARD = 1.0
"""Paid at the end for an answer that matches exactly."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All that changes in an episode.

    Attributes:
        replies: of the agent so far.
        searches: carried out so far.
        observation: what was read last.
        texts: passages shown so far, cut as they were shown.
        found: ids of the passages of the last search.
        answer: given in the end; None as long as none is.
        over: the episode has ended.
    """

    replies: int = 0
    searches: int = 0
    observation: str = ""
    texts: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    answer: str | None = None
    over: bool = False


class SearchQAEnv(TextEnv):
    """One question, a few searches, one answer.

    The first observation is the question. A command is a `<search>` or an `<answer>` block; what it does is decided by
    the protocol, see `protocol.Protocol`. Commands cannot be listed, so `info["admissible"]` is empty.

    Beyond `INFO_KEYS`, info holds "question" (as it is shown), "turns" (replies that the episode has), "replies" and
    "searches" so far, "passages" (ids found by the last search), "f1" and "cover" (0 until there is an answer; "score"
    is exact match), and once it is over "answer" (null if none was given), "golds" and "retriever" (kind and digest).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    can_snapshot: ClassVar[bool] = True

    def __init__(
        self,
        split: str = "mini-train",
        *,
        protocol: str = "verl-agent",
        retriever: str | Mapping[str, Any] = "bm25",
        corpus: str | None = None,
        render_mode: str | None = None,
        **rules: Any,
    ) -> None:
        """Choose rules and retriever.

        Args:
            split: to draw from when `reset` names no task.
            protocol: one of `protocol.PRESETS`.
            retriever: "bm25", "dense", the address of a server, or a mapping of `kind` and settings.
            corpus: JSONL file of passages; None takes the world's own, or for public questions the imported one.
            render_mode: None or "ansi".
            rules: any of `protocol.RULE_NAMES`, over those of the protocol.
        Raises: UsageError: an option is unknown or wrong.
        """
        super().__init__()
        if split not in SPLITS:
            raise unknown_name("split of search-qa", split, SPLITS)
        self.action_space = AnyText(("<search>who is it</search>", "<answer>nobody</answer>"))
        self.render_mode = render_mode
        self.split = split
        self.rules: Protocol = rules_of(protocol, **rules)
        self._settings = settings_of(retriever, corpus)
        self._question: Question | None = None
        self._now = Moment()

    # --- episodes ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Ask the question `options["task"]`, or one drawn from the split.

        Raises: UnknownName: no such task. MissingData: its files or its corpus are absent. EnvFailure: no retriever.
        """
        gymnasium.Env.reset(self, seed=seed)
        task = named_task(options)
        if task is None:
            drawn = tasks(self.split)
            task = drawn[int(self.np_random.integers(len(drawn)))]
        self._question = find_task(task)
        self._now = Moment(observation=self.rules.ask(self._question.text))
        self._retriever()  # whatever is wrong with it is told now, not at the first search
        return self._now.observation, self._info()

    def step(self, action: str) -> StepReturn:
        """Carry out a block; anything else is answered as the protocol answers an invalid reply.

        Raises: EnvFailure: the retriever broke; the episode stands where it stood.
        """
        question, was, rules = self.question, self._now, self.rules
        if was.over:
            raise gymnasium.error.ResetNeeded("the question was answered or given up; call reset() first")
        reading = read_command(as_text(action), rules.tag_order)
        now = replace(was, replies=was.replies + 1, observation="", found=())
        if reading.kind == "answer":
            now = replace(now, answer=reading.text, over=True)
        elif now.replies == rules.replies:
            now = replace(now, over=True)
        elif reading.kind == "search":
            now = self._search(now, reading.text)
        else:
            now = replace(now, observation=rules.invalid_text)
        self._now = now
        answered = now.answer is not None
        reward = REWARD * score(now.answer, question.answers).em
        return now.observation, reward, answered, now.over and not answered, self._info()

    def _search(self, now: Moment, query: str) -> Moment:
        hits = self._retriever().search([query.strip()], self.rules.k)[0]
        passages = [hit.passage for hit in hits]
        shown = tuple(first_words(passage.text, self.rules.passage_words) for passage in passages)
        return replace(
            now,
            searches=now.searches + 1,
            observation=readable(self.rules.observation(passages)),
            texts=now.texts + shown,
            found=tuple(passage.id for passage in passages),
        )

    def snapshot(self) -> Any:
        """Return (task id, moment)."""
        return self.question.id, self._now

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        """Return to a snapshot of any Search-QA env with the same options."""
        task, self._now = snapshot
        self._question = find_task(task)
        return self._now.observation, self._info()

    def render(self) -> str:
        """Return the last observation."""
        return self._now.observation

    def _retriever(self) -> Retriever:
        return retriever_for(self.question.world, self._settings)

    # --- what others may know ---

    @property
    def question(self) -> Question:
        """The task being played, for experts and tests.

        Raises: ResetNeeded: no episode was begun.
        """
        if self._question is None:
            raise gymnasium.error.ResetNeeded("no question was asked; call reset() first")
        return self._question

    @property
    def now(self) -> Moment:
        """Where the episode stands."""
        return self._now

    def _info(self) -> Info:
        question, now = self.question, self._now
        scores = score(now.answer, question.answers) if now.over else Scores()
        info: Info = {
            "task": question.id,
            "admissible": [],
            "success": scores.em == 1.0,
            "score": scores.em,
            "task_type": question.stratum,
            "question": self.rules.ask(question.text),
            "turns": self.rules.replies,
            "replies": now.replies,
            "searches": now.searches,
            "passages": list(now.found),
            "f1": scores.f1,
            "cover": scores.cover,
        }
        if now.over:
            retriever = self._retriever()
            info |= {
                "answer": now.answer,
                "golds": list(question.answers),
                "retriever": f"{retriever.name}:{retriever.digest[:12]}",
            }
        return info


class SearchQAExpert:
    """Looks the answer up as the question's plan says; to a public question, searches once and gives a gold."""

    def __init__(self, env: TextEnv) -> None:
        """Bind to a Search-QA env, wrapped or not."""
        inner = env.unwrapped
        if not isinstance(inner, SearchQAEnv):
            raise UsageError(f"the Search-QA expert plays Search-QA only, got {type(inner).__name__}")
        self.env = inner
        self._look_up: tuple[str, LookUp] | None = None

    def act(self) -> str:
        """Return the command to give now."""
        now = self.env.now
        last = not self.env.rules.may_search(now.replies + 1)
        wanted = self.wanted(self.env.question)
        if wanted.plan is None:
            return answer(wanted.answers[0]) if last or now.searches else search(wanted.text)
        if self._look_up is None or self._look_up[0] != wanted.id:
            self._look_up = wanted.id, LookUp(wanted.plan)
        return self._look_up[1].command(now.texts, last=last)

    def wanted(self, question: Question) -> Question:
        """Return the question to pursue."""
        return question


class SearchQADecoy(SearchQAExpert):
    """Looks things up just as well, but for another question of the same world or set, drawn with a seed."""

    def __init__(self, env: TextEnv, seed: int) -> None:
        """Bind to a Search-QA env, wrapped or not."""
        super().__init__(env)
        self.seed = seed

    def wanted(self, question: Question) -> Question:
        """Return another question of the same kind of task."""
        rng = random.Random(f"{self.seed}:{question.id}")
        others = neighbours(question)
        drawn = (find_task(others[rng.randrange(len(others))]) for _ in range(100))
        return next((item for item in drawn if item.id != question.id), question)


def under(spec: EnvSpec, options: Mapping[str, Any]) -> EnvSpec:
    """Let the protocol that the options name decide prompt, parser, turns and penalty."""
    changed = {name: value for name, value in options.items() if name in RULE_NAMES}
    rules = rules_of(options.get("protocol", "verl-agent"), **changed)
    return replace(
        spec,
        prompt=rules.prompt,
        parser=f"search:{rules.tag_order}",
        max_turns=rules.replies,
        invalid_penalty=rules.invalid_penalty,
    )


SPEC = EnvSpec(
    id="search-qa",
    gym_id="agentbench/SearchQA-v1",
    make=SearchQAEnv,
    splits=SPLITS,
    tasks=tasks,
    prompt=PRESETS["verl-agent"].prompt,
    parser="search:verl-agent",
    max_turns=PRESETS["verl-agent"].replies,
    history=4,
    metric="success",
    reward_unit=REWARD,
    invalid_penalty=PRESETS["verl-agent"].invalid_penalty,
    expert=SearchQAExpert,
    decoy=SearchQADecoy,
    explorer=explore,
    rules="search-qa-1",
    blocking=True,
    variant=under,
    figures=("f1", "cover", "searches"),
    sizes=SETS,
)
"""The plug-in."""

register_gymnasium(SPEC, "agentbench.envs.search_qa.env:SearchQAEnv")
