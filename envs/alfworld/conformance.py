"""Checks the native engine against the original: both play the same commands in lock-step and must agree on everything.

`python -m agentbench.envs.alfworld.conformance DIR` does it for all games below a folder (extra `[alfworld]`).
Leaves out: judging who is right. The original is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .play.reference import ReferenceSession
from .play.session import Game, Result, Session
from .play.state import bits

NONSENSE = (
    "", " ", "\n", "\t", "xyzzy", "look around", "Look", "HELP", "help me", "go", "go to", "go to nowhere 1",
    "take", "take  from ", "open", "{o.name}", "#look.feedback#", "[{r}]", "%s", "a" * 3000, "größe ändern",
    "拿 苹果", "\u00a0look", "lo\u200bok", "look\x00", "look\nlook", "look; inventory", "None", "0", "-1", "//",
    "go to cabinet", "examine", "use", "inventory.", "\U0001f600",
)  # fmt: skip
"""Commands that name nothing; stripped, a few of them are ordinary commands."""


@dataclass(frozen=True)
class Difference:
    """One field in which the engines disagree; `index` counts the results so far, command None is a reset."""

    game: str
    index: int
    command: str | None
    field: str
    native: object
    original: object


@dataclass
class Report:
    """What was compared. `results` counts resets and steps, `won` the episodes that reached the goal at some point."""

    games: int = 0
    results: int = 0
    won: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in the report of further games."""
        self.games += other.games
        self.results += other.results
        self.won += other.won
        self.differences += other.differences


class Player:
    """Makes up commands that reach far into a game and also break every rule; the same for the same seed."""

    def __init__(self, game: Game, seed: str) -> None:
        self.game = game
        self.random = random.Random(seed)
        self._last = "look"

    def noise(self, admissible: Sequence[str]) -> str:
        """Return an admissible, impossible, malformed, repeated or oddly spelt command."""
        draw, words = self.random.random(), self.random
        if draw < 0.50:
            by_verb: dict[str, list[str]] = {}
            for command in admissible:
                by_verb.setdefault(command.split()[0], []).append(command)
            command = words.choice(by_verb[words.choice(sorted(by_verb))])
        elif draw < 0.66:
            command = self._impossible()
        elif draw < 0.76:
            command = words.choice(NONSENSE)
        elif draw < 0.82:
            command = self._last
        elif draw < 0.88:
            command = words.choice([str.upper, str.title, str.capitalize])(words.choice(admissible))
        elif draw < 0.96:
            blanks = [words.choice(["", " ", "  ", "\n", "\t", "\r\n", "\u3000"]) for _ in range(2)]
            command = blanks[0] + words.choice(admissible) + blanks[1]
        else:
            command = words.choice(["help", "inventory", "look"])
        self._last = command
        return command

    def _impossible(self) -> str:
        """Return a well-formed command about things that are probably not here."""
        game, words = self.game, self.random
        thing, tool, place = (
            words.choice(game.objects),
            words.choice(game.objects),
            words.choice(game.receptacles),
        )
        return words.choice(
            [
                f"go to {place}", f"go to {thing}", f"open {place}", f"close {place}", f"open {thing}",
                f"take {thing} from {place}", f"take {thing}", f"move {thing} to {place}", f"put {thing} in/on {place}",
                f"examine {thing}", f"examine {place}", f"use {thing}", f"use {place}", f"clean {thing} with {place}",
                f"heat {thing} with {place}", f"cool {thing} with {place}", f"slice {thing} with {tool}",
            ]
        )  # fmt: skip

    def tour(self) -> list[str]:
        """Return a round with one object: fetch it, treat it in every way, put it somewhere, fetch it again."""
        game, words = self.game, self.random
        thing = words.choice(list(bits(game.pickupable)) or [0])
        held = game.objects[thing]
        commands = [f"{game.walkthrough[0]}"] if game.walkthrough else []
        homes = [r for r, contents in enumerate(game.start.contents) if contents >> thing & 1]
        for home in homes[:1]:
            name = game.receptacles[home]
            commands += [
                f"go to {name}",
                f"open {name}",
                f"take {held} from {name}",
                "look",
                f"examine {held}",
            ]
        able = {"clean": game.cleans, "heat": game.heats, "cool": game.cools}
        for verb in words.sample(["clean", "heat", "cool", "heat", "cool"], k=4):
            places = [r for r, things in enumerate(able[verb]) if things >> thing & 1]
            if places:
                name = game.receptacles[words.choice(places)]
                commands += [f"go to {name}", f"{verb} {held} with {name}", f"examine {held}"]
        commands.append("inventory")
        for target in words.sample(range(len(game.receptacles)), k=min(2, len(game.receptacles))):
            fitting = [r for r, things in enumerate(game.accepts) if things >> thing & 1]
            name = game.receptacles[words.choice(fitting) if fitting else target]
            commands += [f"go to {name}", f"open {name}", f"move {held} to {name}", "look", f"close {name}"]
            commands += [f"open {name}", f"take {held} from {name}", "look"]
        return commands

    def cut(self) -> list[str]:
        """Return a try to slice something: fetch a knife, go to what can be sliced; nothing where there is none."""
        game, words = self.game, self.random
        knives = [(r, k) for r, held in enumerate(game.start.contents) for k in bits(held & game.knives)]
        foods = [(r, f) for r, held in enumerate(game.start.contents) for f in bits(held & game.sliceable)]
        if not knives or not foods:
            return []
        (knife_at, knife), (food_at, food) = words.choice(knives), words.choice(foods)
        one, other = game.receptacles[knife_at], game.receptacles[food_at]
        cut, sharp = game.objects[food], game.objects[knife]
        commands = [
            f"go to {one}",
            f"open {one}",
            f"take {sharp} from {one}",
            f"go to {other}",
            f"open {other}",
        ]
        commands += [f"slice {cut} with {sharp}", f"move {sharp} to {other}", f"take {cut} from {other}"]
        return [*commands, f"examine {cut}", "inventory"]


class Moment(NamedTuple):
    """A command (None: a reset) and what came back."""

    command: str | None
    result: Result


def play(
    session: Session | ReferenceSession, game: Game, seed: str, noise: int, *, tours: bool = True
) -> Iterator[Moment]:
    """Play a wandering episode, with odd commands strewn in, and one that wins and goes on.

    Args:
        session: the engine that plays.
        game: the same game, compiled: source of names for the commands.
        seed: fixes all choices.
        noise: number of odd commands.
        tours: wander with one object through all treatments, and slice something. Without, there is one
            episode only: the walkthrough with odd commands strewn in, in a third of the time.
    """
    player = Player(game, seed)
    plans: list[list[str | None]] = [list(game.walkthrough)]
    if tours:
        after: list[str | None] = [None, None, None, *reversed(game.walkthrough[-2:]), None]
        plans = [[*player.tour(), *player.cut()], [*game.walkthrough, *after]]
    for _ in range(noise):
        plans[0].insert(player.random.randrange(len(plans[0]) + 1), None)
    for plan in plans:
        result = session.reset()
        yield Moment(None, result)
        for planned in plan:
            command = player.noise(result.admissible) if planned is None else planned
            result = session.step(command)
            yield Moment(command, result)


def check(game: Game, moments: Iterable[Moment]) -> Report:
    """Play the commands of a recording with the native engine and report every field that differs."""
    native = Session(game)
    report = Report(games=1)
    won = False
    for moment in moments:
        if moment.command is None:
            report.won += won
            won = False
        ours = native.reset() if moment.command is None else native.step(moment.command)
        won = won or moment.result.won
        for part in ("observation", "admissible", "won", "score"):
            one, other = getattr(ours, part), getattr(moment.result, part)
            if one != other or type(one) is not type(other):
                report.differences.append(
                    Difference(game.name, report.results, moment.command, part, one, other)
                )
        report.results += 1
    report.won += won
    return report


def compare(path: str | Path, *, seed: int = 0, noise: int = 24, tours: bool = True) -> Report:
    """Let both engines play one game file. Raises: as `Game.load` and `ReferenceSession` do."""
    game = Game.load(path)
    original = ReferenceSession(path)
    report = check(game, play(original, game, f"{seed} {Path(path).parent.name}", noise, tours=tours))
    original.close()
    return report


def compare_all(
    paths: Iterable[str | Path], *, processes: int = 1, seed: int = 0, noise: int = 24, tours: bool = True
) -> Iterator[Report]:
    """Compare many games, in any order; processes are renewed, as the original never unloads a planner."""
    jobs = [(str(path), seed, noise, tours) for path in paths]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=10) as pool:
        yield from pool.imap_unordered(_compare_job, jobs)


def _compare_job(job: tuple[str, int, int, bool]) -> Report:
    path, seed, noise, tours = job
    return compare(path, seed=seed, noise=noise, tours=tours)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all games below some folders; exit code 1 when any field differs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, help="games per folder, spread evenly; default: all")
    parser.add_argument("--noise", type=int, default=24, help="odd commands per game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    paths: list[Path] = []
    for folder in options.folders:
        found = sorted(folder.rglob("*.tw-pddl"))
        paths += found[:: max(1, len(found) // options.limit)][: options.limit] if options.limit else found
    total, start = Report(), time.monotonic()
    for report in compare_all(paths, processes=options.processes, seed=options.seed, noise=options.noise):
        total.add(report)
        for difference in report.differences:
            print(difference, flush=True)
        if sys.stderr.isatty() or total.games % 20 == 0:
            print(f"{total.games}/{len(paths)} games, {total.results} results", file=sys.stderr, flush=True)
    print(
        f"{total.games} games, {total.results} results, {total.won} episodes won, "
        f"{len(total.differences)} differences, {time.monotonic() - start:.0f} s"
    )
    return 1 if total.differences or not total.games else 0


if __name__ == "__main__":
    raise SystemExit(main())
