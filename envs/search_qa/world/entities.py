"""Draws a world: entities of six kinds, their names and all facts about them. Leaves out texts (`pages`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .names import SHARES, words

FIRST_NAMES = 60
SORTS = ("film", "play", "novel", "opera", "poem")
TRADES = ("Works", "Guild", "Press", "Mills", "Line", "Bank")

SHARES_OF_PASSAGES = {
    "country": 0.003, "region": 0.012, "town": 0.08, "company": 0.06, "work": 0.14, "person": 0.24, "alias": 0.03,
}  # fmt: skip
"""Passages of each kind in a world with distractors, which are the rest; a terse world has none and more of all."""

_LEAST = {"country": 2, "region": 4, "town": 8, "company": 6, "work": 10, "person": 16, "alias": 0}


@dataclass(slots=True)
class Entity:
    """Something with a name: `facts` maps relations to other entities' numbers, or to years, numbers and words."""

    kind: str
    name: str
    facts: dict[str, str] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entities:
    """All entities of a world; links are places in `all`."""

    all: list[Entity]
    by_kind: dict[str, list[int]]

    def object_of(self, place: int, relation: str) -> str:
        """Name or value that an entity stands in a relation to."""
        entity = self.all[place]
        return self.all[entity.links[relation]].name if relation in entity.links else entity.facts[relation]


def draw_entities(seed: int, passages: int, *, terse: bool, reserved: frozenset[str]) -> Entities:
    """Draw a world.

    Args:
        seed: equal seeds give equal worlds; its remainder by `SHARES` chooses the names.
        passages: about how many the world is to have.
        terse: no distractors, no aliases, no two works of one name.
        reserved: index terms of the texts around names.
    """
    rng = random.Random(f"search-qa:{seed}:{passages}:{terse}")
    fresh = words(rng, seed % SHARES, reserved)
    firsts = [next(fresh) for _ in range(FIRST_NAMES)]
    scale = 1 / (sum(SHARES_OF_PASSAGES.values()) - 0.03) if terse else 1.0
    sizes = {
        kind: max(_LEAST[kind], round(share * passages * scale)) for kind, share in SHARES_OF_PASSAGES.items()
    }
    makers: dict[str, Callable[[], str]] = {
        "person": lambda: f"{rng.choice(firsts)} {next(fresh)}",
        "company": lambda: f"{next(fresh)} {rng.choice(TRADES)}",
    }
    everything: list[Entity] = []
    by_kind: dict[str, list[int]] = {}
    for kind in ("country", "region", "town", "company", "person"):
        names = (makers.get(kind, lambda: next(fresh))() for _ in range(sizes[kind]))
        by_kind[kind] = [_add(everything, Entity(kind, name)) for name in names]
    works = list(_works(rng, fresh, sizes["work"], terse=terse))
    by_kind["work"] = [_add(everything, work) for work in works]
    if not terse:
        for place in rng.sample(by_kind["person"], min(sizes["alias"], sizes["person"])):
            everything[place].aliases = (f"{next(fresh)} {next(fresh)}",)
    _relate(rng, everything, by_kind)
    return Entities(everything, by_kind)


def _add(everything: list[Entity], entity: Entity) -> int:
    everything.append(entity)
    return len(everything) - 1


def _works(rng: random.Random, fresh: Iterator[str], count: int, *, terse: bool) -> Iterator[Entity]:
    """One work in five shares its name with another of a different sort; then both say their sort."""
    made = 0
    while made < count:
        name = next(fresh)
        if not terse and count - made > 1 and rng.random() < 0.2:
            for sort in rng.sample(SORTS, 2):
                yield Entity("work", f"{name} ({sort})", {"sort": sort})
            made += 2
        else:
            yield Entity("work", name, {"sort": rng.choice(SORTS)})
            made += 1


def _relate(rng: random.Random, everything: list[Entity], by_kind: dict[str, list[int]]) -> None:
    def some(kind: str, but: int = -1) -> int:
        while (place := rng.choice(by_kind[kind])) == but:
            pass
        return place

    populations = rng.sample(range(1_000, 1_000_000), len(by_kind["town"]))
    for town, people in zip(by_kind["town"], populations, strict=True):
        everything[town].facts["population"] = f"{people:,}"
        everything[town].links |= {"region": some("region"), "mayor": some("person")}
    for number, region in enumerate(by_kind["region"]):
        inside = [town for town in by_kind["town"] if everything[town].links["region"] == region]
        capital = rng.choice(inside) if inside else by_kind["town"][number % len(by_kind["town"])]
        everything[region].links |= {"country": some("country"), "capital": capital}
    for country in by_kind["country"]:
        everything[country].links["president"] = some("person")
    for company in by_kind["company"]:
        everything[company].facts["founded"] = str(rng.randint(1500, 1990))
        everything[company].links |= {"founder": some("person"), "seat": some("town")}
    persons = by_kind["person"]
    single = rng.sample(persons, len(persons))
    for one, other in zip(single[::2], single[1::2], strict=False):
        everything[one].links["spouse"], everything[other].links["spouse"] = other, one
    if len(single) % 2:  # the odd one out is married too, to somebody who is married to another
        everything[single[-1]].links["spouse"] = single[0]
    for person in persons:
        everything[person].facts["born"] = str(rng.randint(1500, 1990))
        everything[person].links |= {
            "birthplace": some("town"), "teacher": some("person", but=person), "employer": some("company")
        }  # fmt: skip
    for work in by_kind["work"]:
        everything[work].facts["released"] = str(rng.randint(1500, 1990))
        everything[work].links |= {"author": some("person"), "publisher": some("company")}
