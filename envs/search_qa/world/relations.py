"""What can be said of an entity: how a passage says it, how a question asks it, how it is read and searched for.

Every fact is one sentence that names its subject in full, so that it can be read whatever stands around it. Leaves out
which facts hold (`entities`) and which are asked (`asking`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: of the relation.
        of: kind of its subject.
        to: kind of its object: an entity's, or "year", "number", "name".
        phrase: the object as a noun phrase of the subject: "the author of {}".
        question: asks for the object: "Who wrote {}?".
        query: words searched for beside the subject's name: those that say it in a passage, and a question word.
        readings: plain text, the subject in {}, then a regular expression that finds the object up to a mark.
        pool: answers are many and even, so that the fact may be the last of a chain.
    """

    name: str
    of: str
    to: str
    phrase: str
    question: str
    query: str
    readings: tuple[str, ...]
    pool: bool = True


_END = r"([^.,]+?)\."
RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            "author",
            "work",
            "person",
            "the author of {}",
            "Who wrote {}?",
            "was written by who",
            (r"{} was written by " + _END,),
        ),
        Relation(
            "released",
            "work",
            "year",
            "",
            "In what year did {} come out?",
            "came out in when",
            (r"{} came out in (\d+)",),
        ),
        Relation(
            "publisher",
            "work",
            "company",
            "the publisher of {}",
            "Which company published {}?",
            "was published by who",
            (r"{} was published by " + _END,),
        ),
        Relation(
            "born",
            "person",
            "year",
            "",
            "In what year was {} born?",
            "was born in when",
            (r"{} was born in (\d+)",),
        ),
        Relation(
            "birthplace",
            "person",
            "town",
            "the birthplace of {}",
            "In which town was {} born?",
            "in the town of where",
            (r"{} was born in \d+ in the town of " + _END,),
        ),
        Relation(
            "spouse",
            "person",
            "person",
            "the spouse of {}",
            "Who is married to {}?",
            "is married to who",
            (r"{} is married to " + _END,),
        ),
        Relation(
            "teacher",
            "person",
            "person",
            "the teacher of {}",
            "Who taught {}?",
            "was taught by who",
            (r"{} was taught by " + _END,),
        ),
        Relation(
            "employer",
            "person",
            "company",
            "the employer of {}",
            "Which company does {} work for?",
            "works for who",
            (r"{} works for ([^.,]+?),",),
        ),
        Relation(
            "founder",
            "company",
            "person",
            "the founder of {}",
            "Who founded {}?",
            "was founded by who",
            (r"{} was founded by " + _END,),
        ),
        Relation(
            "founded",
            "company",
            "year",
            "",
            "In what year was {} set up?",
            "was set up in when",
            (r"{} was set up in (\d+)",),
        ),
        Relation(
            "seat",
            "company",
            "town",
            "the seat of {}",
            "In which town is {} based?",
            "is based in the town of where",
            (r"{} is based in the town of " + _END, r"{}, a company based in " + _END),
        ),
        Relation(
            "region",
            "town",
            "region",
            "the region of {}",
            "In which region is {}?",
            "lies in the region of what",
            (r"{} lies in the region of ([^.,]+?),",),
            pool=False,
        ),
        Relation(
            "population",
            "town",
            "number",
            "",
            "How many people live in {}?",
            "has a population of what",
            (r"{} has a population of (\d[\d,]*\d)",),
        ),
        Relation(
            "mayor",
            "town",
            "person",
            "the mayor of {}",
            "Who is the mayor of {}?",
            "has as its mayor who",
            (r"{} has as its mayor " + _END,),
        ),
        Relation(
            "capital",
            "region",
            "town",
            "the capital of {}",
            "Which town is the capital of {}?",
            "has its capital in what",
            (r"{} has its capital in " + _END, r"the region of {}, whose capital is " + _END),
        ),
        Relation(
            "country",
            "region",
            "country",
            "the country of {}",
            "In which country is {}?",
            "is part of the country of what",
            (r"{} is part of the country of " + _END,),
            pool=False,
        ),
        Relation(
            "president",
            "country",
            "person",
            "the president of {}",
            "Who is the president of {}?",
            "has as its president who",
            (r"{} has as its president " + _END,),
        ),
    )
}
"""All relations by name."""


def read_fact(subject: str, relation: Relation, texts: Iterable[str]) -> str | None:
    """Find what the texts say of a subject; None if they do not say it."""
    known = [text for text in texts if subject in text]
    for head, tail in map(_split, relation.readings):
        said = head + subject
        for text in known:
            start = text.find(said)
            while start >= 0:
                inside = start > 0 and text[start - 1].isalnum()  # the end of a longer word
                if not inside and (found := tail.match(text, start + len(said))):
                    return found[1]
                start = text.find(said, start + 1)
    return None


@lru_cache(maxsize=64)
def _split(reading: str) -> tuple[str, re.Pattern[str]]:
    head, _, tail = reading.partition("{}")
    return head, re.compile(tail)


SENTENCES: Mapping[str, tuple[str, ...]] = {
    "work": (
        "{self} is a {sort}.",
        "{self} was written by {author}.",
        "{self} came out in {released}.",
        "{self} was published by {publisher}.",
    ),
    "person": (
        "{self} was born in {born} in the town of {birthplace}.",
        "{self} is married to {spouse}.",
        "{self} was taught by {teacher}.",
        "{self} works for {employer}, a company based in {employer.seat}.",
    ),
    "company": (
        "{self} was founded by {founder}.",
        "{self} was set up in {founded}.",
        "{self} is based in the town of {seat}.",
    ),
    "town": (
        "{self} lies in the region of {region}, whose capital is {region.capital}.",
        "{self} has a population of {population}.",
        "{self} has as its mayor {mayor}.",
    ),
    "region": (
        "{self} is part of the country of {country}.",
        "{self} has its capital in {capital}.",
    ),
    "country": ("{self} is a country.", "{self} has as its president {president}."),
    "alias": ("{self} is another name of {person}.", "{person} is often called {self}."),
}
"""What a passage of each kind says; a name with a point in it follows a relation of another entity."""
