"""Draws questions about a world and keeps those that an honest player answers through the real retriever.

Leaves out wording (`asking`), splits and task ids (`encyclopaedia`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentbench.retrieval.contract import Passage, Retriever

from ..metrics import exact_match, normal_form
from ..protocol import PRESETS, first_words
from .asking import Plan, Wanted, resolve, wording
from .entities import Entities
from .relations import RELATIONS

COMPARED = 0.2
"""Share of comparisons among questions of two and of three facts: one in ten of all."""

HOPS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with everything that may be said in answer, the plain name first."""

    text: str
    answers: tuple[str, ...]
    plan: Plan


def draw_questions(
    entities: Entities, pages: Sequence[Passage], retriever: Retriever, seed: int, hops: Sequence[int] = HOPS
) -> Iterator[Asked]:
    """Yield questions without end, one of each number of facts in turn.

    Args:
        entities: the world.
        pages: all its passages.
        retriever: over these pages.
        seed: equal seeds give equal questions, however many are taken.
        hops: numbers of facts.
    """
    rng = random.Random(f"search-qa-questions:{seed}")
    titles = {page.title: page for page in pages}
    seen: set[str] = set()
    while True:
        for count in hops:
            while (asked := _draw(rng, entities, count)) is None or not _keep(asked, seen, titles, retriever):
                pass
            seen.add(asked.text)
            yield asked


def _draw(rng: random.Random, entities: Entities, count: int) -> Asked | None:
    """Draw a question of `count` facts; None when the draw ran into a rule."""
    if count in (2, 3) and rng.random() < COMPARED:
        return _compare(rng, entities, count)
    place = rng.randrange(len(entities.all))
    return _chain(rng, entities, (place,), place, count)


def _compare(rng: random.Random, entities: Entities, count: int) -> Asked | None:
    one, other = rng.sample(entities.by_kind["person"], 2)
    years = [int(entities.all[place].facts["born"]) for place in (one, other)]
    if years[0] == years[1]:
        return None
    if count == 2:
        plan = Plan((entities.all[one].name, entities.all[other].name), ())
        return Asked(wording(plan), ("yes" if years[0] < years[1] else "no",), plan)
    return _chain(rng, entities, (one, other), one if years[0] < years[1] else other, count - 2)


def _chain(
    rng: random.Random, entities: Entities, starts: tuple[int, ...], place: int, count: int
) -> Asked | None:
    """Walk `count` relations from an entity, never to one twice; the last has many possible answers."""
    visited, relations = {*starts, place}, []
    for step in range(count):
        last = step == count - 1
        kind = entities.all[place].kind
        choices = [
            relation
            for relation in RELATIONS.values()
            if relation.of == kind and (relation.pool if last else bool(relation.phrase))
        ]
        if not choices:
            return None
        relation = rng.choice(choices)
        relations.append(relation.name)
        link = entities.all[place].links.get(relation.name)
        if link is None:
            answers: tuple[str, ...] = (entities.object_of(place, relation.name),)
        elif link in visited:
            return None
        else:
            visited.add(link)
            place = link
            answers = (entities.all[link].name, *entities.all[link].aliases)
    plan = Plan(tuple(entities.all[start].name for start in starts), tuple(relations))
    return Asked(wording(plan), answers, plan)


def _keep(asked: Asked, seen: set[str], titles: dict[str, Passage], retriever: Retriever) -> bool:
    """Whether a question is new, does not hold its answer, fits the turns and can be answered by searching."""
    if asked.text in seen:
        return False
    said = normal_form(asked.text)
    for answer in asked.answers:
        form = normal_form(answer)
        if not form or (form in said and asked.plan.relations):
            return False
    return _searches(asked.plan, titles) < PRESETS["verl-agent"].turns and audit(asked, retriever)


def _searches(plan: Plan, titles: dict[str, Passage]) -> int:
    """Count the passages that have to be found: facts that stand in one passage take one search."""
    texts: list[str] = []
    while isinstance(wanted := resolve(plan, texts), Wanted):
        texts.append(titles[wanted.subject].text)
    return len(texts)


def audit(asked: Asked, retriever: Retriever) -> bool:
    """Whether a player who searches for each missing fact, once, ends with the answer; by verl-agent's rules."""
    rules = PRESETS["verl-agent"]
    texts: list[str] = []
    for _ in range(rules.replies):
        wanted = resolve(asked.plan, texts)
        if isinstance(wanted, str):
            return exact_match(wanted, asked.answers) == 1.0
        hits = retriever.search([next(wanted.queries())], rules.k)[0]
        texts += [first_words(hit.passage.text, rules.passage_words) for hit in hits]
    return False
