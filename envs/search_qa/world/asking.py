"""Questions about a world: a plan of what to look up, its wording, and how a wording is taken apart again.

A plan is a chain of relations from one entity, or begins with two people of whom the one born first is meant; or it
asks whether one was born before the other. Leaves out drawing plans (`questions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .relations import RELATIONS, Relation, read_fact


@dataclass(frozen=True, slots=True)
class Plan:
    """What a question asks.

    Attributes:
        starts: one entity, or two people that are compared by their year of birth.
        relations: what is looked up from there in turn; () for two people asks whether the first was born first.
    """

    starts: tuple[str, ...]
    relations: tuple[str, ...]

    @property
    def facts(self) -> int:
        """Facts that have to be known: the hops of the question."""
        return len(self.relations) + (2 if len(self.starts) == 2 else 0)


def wording(plan: Plan) -> str:
    """Put a plan into words."""
    if not plan.relations:
        return f"Was {plan.starts[0]} born before {plan.starts[1]}?"
    meant = plan.starts[0]
    if len(plan.starts) == 2:
        meant = f"the elder of {plan.starts[0]} and {plan.starts[1]}"
    for relation in plan.relations[:-1]:
        meant = RELATIONS[relation].phrase.format(meant)
    return RELATIONS[plan.relations[-1]].question.format(meant)


_BEFORE = re.compile(r"Was (.+) born before (.+)\?")
_ELDER = re.compile(r"the elder of (.+) and (.+)")


def _pattern(template: str) -> re.Pattern[str]:
    head, _, tail = template.partition("{}")
    return re.compile(f"{re.escape(head)}(.+){re.escape(tail)}")


_QUESTIONS = [(relation.name, _pattern(relation.question)) for relation in RELATIONS.values()]
_PHRASES = [(relation.name, _pattern(relation.phrase)) for relation in RELATIONS.values() if relation.phrase]


def take_apart(question: str) -> Plan | None:
    """Read the plan out of a question's words; None for a question of another make."""
    question = question.strip()
    if found := _BEFORE.fullmatch(question):
        return Plan((found[1], found[2]), ())
    for name, pattern in _QUESTIONS:
        if found := pattern.fullmatch(question):
            relations, meant = [name], found[1]
            while inner := _first_match(meant):
                relations.append(inner[0])
                meant = inner[1]
            elder = _ELDER.fullmatch(meant)
            starts = (elder[1], elder[2]) if elder else (meant,)
            return Plan(starts, tuple(reversed(relations)))
    return None


def _first_match(meant: str) -> tuple[str, str] | None:
    for name, pattern in _PHRASES:
        if found := pattern.fullmatch(meant):
            return name, found[1]
    return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A fact that is not known yet."""

    subject: str
    relation: Relation

    def queries(self) -> Iterator[str]:
        """Queries for it, the best first."""
        yield f"{self.subject} {self.relation.query}"
        yield self.subject
        yield self.relation.question.format(self.subject)


def resolve(plan: Plan, texts: Sequence[str]) -> Wanted | str:
    """Carry a plan out as far as the texts reach: the answer, or the first fact that they do not tell."""
    born = RELATIONS["born"]
    meant = plan.starts[0]
    if len(plan.starts) == 2:
        years = []
        for person in plan.starts:
            year = read_fact(person, born, texts)
            if year is None:
                return Wanted(person, born)
            years.append(int(year))
        if not plan.relations:
            return "yes" if years[0] < years[1] else "no"
        meant = plan.starts[0] if years[0] < years[1] else plan.starts[1]
    for name in plan.relations:
        found = read_fact(meant, RELATIONS[name], texts)
        if found is None:
            return Wanted(meant, RELATIONS[name])
        meant = found
    return meant
