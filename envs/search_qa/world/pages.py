"""Writes a world down as passages of about 90 words: facts first, then sentences without names, and pages that mislead.

No word around the names is an index term of a name, so a name keeps its weight in a search. Leaves out facts
(`entities`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

from agentbench.retrieval.bm25.analyzer import analyze
from agentbench.retrieval.contract import Passage

from .entities import SORTS, TRADES, Entities, Entity
from .relations import RELATIONS, SENTENCES

WORDS = 90
"""Words that a passage is filled up to; the facts take 20 to 45 of them."""

MOST_MISLEADING = 2
"""Pages whose title holds the name of another: more of them than k - 1 = 2 would crowd out the page itself."""

FILLER = (
    "Most visitors come in early summer, when the days are long and the evenings stay warm.",
    "Older maps show a narrow road that has since been widened and paved.",
    "Several archives keep letters and drawings, though few of them have been studied in detail.",
    "A small museum displays tools, coins and a broken clock.",
    "The winters are wet rather than cold, and snow seldom lies for more than a week.",
    "Local bakers are known for a dark bread with caraway seeds.",
    "Reports from that time disagree about the weather and about almost everything else.",
    "A stone bridge crosses the water near the old market.",
    "Critics were divided at first, and opinions have changed more than once since then.",
    "Records of the early years were lost in a fire and had to be pieced together from copies.",
    "An annual fair brings musicians, dancers and sellers of painted glass.",
    "The garden behind the main hall holds pear trees that are said to be very old.",
    "Scholars have pointed out that the usual account leaves many questions open.",
    "Fishing was once the main trade, but hardly anybody lives from it today.",
    "A bronze bell was cast for the occasion and can still be heard on feast days.",
    "Children are told a story about a fox and a silver spoon in this connection.",
    "The library owns an early print with notes in the margin by an unknown hand.",
    "Trains stop there twice a day, and the last one leaves before dark.",
    "Photographs show a tall tower with a green roof and narrow windows.",
    "Nobody has yet explained why the accounts of the harvest differ so much.",
    "The soil is poor and stony, which suits grapes better than wheat.",
    "Two later studies confirmed the dates but not the measurements.",
    "A song about it was popular for a few months and then forgotten.",
    "Wool, salt and timber were carried along the coast in flat boats.",
    "The walls were repaired after the flood, this time with brick.",
    "Letters mention a long illness, but the physician's notes are missing.",
    "Every ten years the paintings are cleaned and hung in another order.",
    "Some of the furniture was sold, and the rest is kept under dust sheets.",
)  # fmt: skip
MISLEADING = (
    ("Legacy of {}", "Much has been said about the legacy of {}. The debate goes on in journals and at dinner tables."),
    ("List of things called {}", "This page lists things called {}. None of them has been described in detail so far."),
)  # fmt: skip


@lru_cache(maxsize=1)
def reserved_terms() -> frozenset[str]:
    """Index terms of everything that is written around names."""
    texts = [*FILLER, *SORTS, *TRADES, *(part for pair in MISLEADING for part in pair)]
    texts += [text.replace("{", " ").replace("}", " ") for lines in SENTENCES.values() for text in lines]
    for relation in RELATIONS.values():
        texts += [relation.phrase, relation.question, relation.query]
    return frozenset(term for text in texts for term in analyze(text))


def write_pages(entities: Entities, seed: int, passages: int, *, terse: bool) -> list[Passage]:
    """Write all passages of a world, in an order drawn with the seed.

    Args:
        entities: the world.
        seed: of fillers, misleading pages and order.
        passages: how many there are to be; misleading pages are added as long as there are fewer.
        terse: facts alone.
    """
    rng = random.Random(f"search-qa-pages:{seed}:{passages}:{terse}")
    pages = []
    for place, entity in enumerate(entities.all):
        pages.append((entity.name, _body(rng, _facts(entities, place), terse)))
        for alias in entity.aliases:
            said = [line.format(self=alias, person=entity.name) for line in SENTENCES["alias"]]
            pages.append((alias, _body(rng, said, terse)))
    if not terse:
        pages += _misleading(rng, entities, passages - len(pages))
    rng.shuffle(pages)
    width = len(str(len(pages)))
    return [Passage(f"w{seed}-{number:0{width}}", title, text) for number, (title, text) in enumerate(pages)]


def _facts(entities: Entities, place: int) -> list[str]:
    entity = entities.all[place]
    return [_fill(line, entities, place) for line in SENTENCES[entity.kind]]


def _fill(line: str, entities: Entities, place: int) -> str:
    """Put names and values into a sentence; "{employer.seat}" is the seat of the employer."""
    parts = line.split("{")
    text = parts[0]
    for part in parts[1:]:
        slot, _, rest = part.partition("}")
        text += _value(slot, entities, place) + rest
    return text


def _value(slot: str, entities: Entities, place: int) -> str:
    entity: Entity = entities.all[place]
    if slot == "self":
        return entity.name
    first, _, second = slot.partition(".")
    if second:
        return entities.object_of(entity.links[first], second)
    return entities.object_of(place, first)


def _body(rng: random.Random, facts: list[str], terse: bool) -> str:
    if terse:
        return " ".join(facts)
    said = list(facts)
    words = sum(len(line.split()) for line in said)
    for line in rng.sample(FILLER, len(FILLER)):
        if words >= WORDS:
            break
        said.append(line)
        words += len(line.split())
    return " ".join(said)


def _misleading(rng: random.Random, entities: Entities, count: int) -> Iterator[tuple[str, str]]:
    names = [entity.name for entity in entities.all]
    choices = [(name, kind) for kind in range(MOST_MISLEADING) for name in names]
    for name, kind in rng.sample(choices, min(max(count, 0), len(choices))):
        title, text = MISLEADING[kind]
        yield title.format(name), _body(rng, [text.format(name)], terse=False)
