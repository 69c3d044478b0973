"""Suites: a named, versioned list of panels with their protocol, played by many models and seeds into one table.

A suite is a YAML file `envs/suites/*.yaml` (found through the entry-point group `agentbench.suites`) or any file of the
user's::

    id: mini@1                       # <name>@<version>
    description: One line.
    panels:
      - {panel: alfworld/mini@1}     # and any key of an evaluation: temperature, max_turns, repeats, ...

Every evaluation is a run folder of its own, OUTPUT/PLAYER/PANEL/seed-N, so that a suite that was stopped goes on where
it stopped. Leaves out how a panel is played (`evaluate`).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from ..config import Section, parse_yaml, read_text, validate
from ..engine import Engine, TextEngine
from ..errors import ConfigError, CorruptData, MissingData, UsageError, unknown_name
from ..foreign import cell as escaped
from ..foreign import shortened
from ..registry import open_engine, suite_files
from ..runs.files import encode_json, read_json, write_whole
from ..runs.shortfalls import remarks
from ..runs.significance import mean_interval, require_statistics
from ..runs.summary import Summary, summary_of
from .evaluate import EvalConfig, Progress, evaluate

RECORD, TABLE = "suite.json", "suite.md"


class Suite(Section):
    """A list of panels with their protocol; the module docstring explains the keys."""

    id: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    description: str
    panels: tuple[dict[str, Any], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_names_a_panel(self) -> Suite:
        known = set(EvalConfig.model_fields) - {"policy", "model_name_or_path", "output_dir", "seed"}
        for item in self.panels:
            if not isinstance(item.get("panel"), str):
                raise ValueError(f"an entry names no panel: {shortened(item)}")
            for key in sorted(item.keys() - known):
                raise ValueError(f"{key!r} is no key of an evaluation that a suite may fix")
        names = [item["panel"] for item in self.panels]
        if len(set(names)) < len(names):
            raise ValueError("a panel occurs twice")
        return self


@dataclass(frozen=True, slots=True)
class Player:
    """Who plays a suite: a ready-made policy, or a model."""

    policy: str
    model: str | None = None

    @property
    def name(self) -> str:
        """What stands in the table."""
        return self.model or self.policy

    @property
    def folder(self) -> str:
        """The name as a folder's, unique for each player."""
        return _as_folder(self.name)


class Published(Section):
    """A number that somebody else reports: it stands in the table, marked as copied.

    Attributes:
        player: what the row is called.
        panel: one of the suite's.
        value: success (or score), in [0, 1]; `n` is the number of episodes behind it, if that is told.
        source: where it is written: paper, table, row.
    """

    player: str = Field(min_length=1)
    panel: str
    value: float = Field(ge=0, le=1)
    n: int | None = Field(default=None, ge=1)
    source: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one player did on one panel, over all seeds.

    Attributes:
        summaries: by seed.
        refused: why the panel could not be played; "" when it was.
    """

    player: str
    panel: str
    summaries: dict[int, Summary]
    refused: str = ""

    @property
    def values(self) -> list[float]:
        """Headline of every seed that has one: success, or score where there is no yes or no."""
        found = [summary.overall for summary in self.summaries.values() if summary.overall is not None]
        return [rates.score.value if rates.success is None else rates.success.value for rates in found]

    @property
    def text(self) -> str:
        """The headline with its interval (one seed) or spread (several), and n."""
        values = self.values
        if self.refused or not values:
            return "–"
        n = sum(summary.overall.n for summary in self.summaries.values() if summary.overall is not None)
        mean = sum(values) / len(values)
        if len(values) > 1:
            sd = statistics.stdev(values)
            each = ", ".join(f"{100 * value:.1f}" for value in values)
            ends = mean_interval(values)
            # seeds that move nothing (greedy play, an expert) give no interval
            spread = f" [{100 * ends.low:.1f}, {100 * ends.high:.1f}]" if sd else ""
            return f"{100 * mean:.1f}{spread} (sd {100 * sd:.1f}; {each}; n={n})"
        rates = next(iter(self.summaries.values())).overall
        assert rates is not None
        shown = rates.score if rates.success is None else rates.success
        return f"{100 * shown.value:.1f} [{100 * shown.low:.1f}, {100 * shown.high:.1f}] n={n}"


def load_suite(name: str) -> Suite:
    """Read a suite by id ("mini@1") or from a YAML file.

    Raises: UnknownName: no such id. ConfigError: the file breaks the format. MissingData: no such file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise MissingData(f"no suite file {name}")
        return _parse(path.read_text(encoding="utf-8"), name)
    known = {suite.id: suite for suite in all_suites()}
    if name not in known:
        raise unknown_name("suite", name, known, "A path to a suite file (.yaml) works too.")
    return known[name]


def all_suites() -> list[Suite]:
    """Read every shipped suite, sorted by id."""
    found = [_parse(file.read_text(encoding="utf-8"), file.name) for file in suite_files().values()]
    return sorted(found, key=lambda suite: suite.id)


def _parse(text: str, source: str) -> Suite:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"suite file {source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"suite file {source} must hold keys and values, found {type(values).__name__}")
    return validate(Suite, dict(values), f"suite file {source}: ")


def run_suite(
    suite: Suite,
    players: Sequence[Player],
    output: Path,
    *,
    seeds: Sequence[int] = (0,),
    changes: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Cell]:
    """Play every panel with every player and seed; a panel that cannot be played is named and the others go on.

    Args:
        suite: what is played.
        players: who plays; each model is opened once.
        output: folder of the run folders.
        seeds: each an evaluation of its own.
        changes: keys of the evaluation over those of the suite (limit, engine, concurrency, ...).
        resume: go on with what is in `output`.
        progress: told after each episode.
    Raises: UsageError: two players have one name, or the folder is used and `resume` was not asked for.
    """
    if len(seeds) > 1:
        require_statistics("an interval over seeds")  # before hours of playing
    folders = [player.folder for player in players]
    if len(set(folders)) < len(folders):
        raise UsageError(
            f"two players would share the folder {max(folders, key=folders.count)!r}; name each once"
        )
    if output.exists() and any(output.iterdir()) and not resume:
        raise UsageError(f"{output} is not empty; use --resume to go on with it, or another folder")
    cells = []
    for player in players:
        with _opened(player, changes or {}) as engine:
            for item in suite.panels:
                cells.append(_play(player, item, output, seeds, changes or {}, progress, engine))
    return cells


def _play(
    player: Player,
    item: Mapping[str, Any],
    output: Path,
    seeds: Sequence[int],
    changes: Mapping[str, Any],
    progress: Progress | None,
    engine: Engine | TextEngine | None,
) -> Cell:
    found: dict[int, Summary] = {}
    try:
        for seed in seeds:
            folder = _folder(output, player.name, str(item["panel"]), seed)
            values = {**item, **changes, "policy": player.policy, "seed": seed, "output_dir": str(folder)}
            if player.model is not None:
                values["model_name_or_path"] = player.model
            else:  # a ready-made policy samples nothing
                values = {key: value for key, value in values.items() if key not in _OF_MODELS}
            config = validate(EvalConfig, values)
            found[seed] = evaluate(config, resume=folder.exists(), progress=progress, engine=engine)
    except MissingData as error:
        return Cell(player.name, item["panel"], found, refused=str(error))
    return Cell(player.name, item["panel"], found)


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w.@-]+", "_", name).strip("_")


def _folder(output: Path, player: str, panel: str, seed: int) -> Path:
    return output / _as_folder(player) / panel.replace("/", "_") / f"seed-{seed}"


_OF_MODELS = frozenset(
    {
        *("temperature", "top_p", "top_k", "max_new_tokens", "prompt", "history", "guided", "stop"),
        *("engine", "engine_options"),
    }
)


@contextmanager
def _opened(player: Player, changes: Mapping[str, Any]) -> Iterator[Engine | TextEngine | None]:
    if player.model is None:
        yield None
        return
    engine = open_engine(changes.get("engine", "hf"), player.model, changes.get("engine_options", {}))
    try:
        yield engine
    finally:
        engine.close()


def load_published(file: Path, suite: Suite) -> list[Published]:
    """Read numbers that others report, a YAML list of `Published`.

    Raises: ConfigError: the file breaks the format, or names a panel that is not the suite's.
    """
    values = parse_yaml(read_text(file, "the published numbers"), f"published numbers {file}")
    if not isinstance(values, list) or not all(isinstance(item, Mapping) for item in values):
        raise ConfigError(f"published numbers {file} must be a list of player, panel, value, n, source")
    found = [validate(Published, item, f"published numbers {file}: ") for item in values]
    panels = [str(item["panel"]) for item in suite.panels]
    for item in found:
        if item.panel not in panels:
            raise unknown_name(f"panel of {suite.id}", item.panel, panels)
    return found


def write_suite(
    output: Path, suite: Suite, cells: Sequence[Cell], published: Sequence[Published] = ()
) -> None:
    """Write the table and its record into the suite's folder."""
    output.mkdir(parents=True, exist_ok=True)
    for name, data in _pages(suite, cells, published).items():
        write_whole(output / name, data)


def suite_pages(output: Path) -> dict[str, bytes]:
    """What the table and the record of a played suite should hold, from the run folders below it.

    Raises: MissingData: a run folder is gone. CorruptData: the record is none.
    """
    record = read_json(output / RECORD)
    try:
        suite = validate(Suite, record["suite"])
        published = [validate(Published, item) for item in record.get("published", [])]
        cells = [
            Cell(
                item["player"],
                item["panel"],
                {
                    int(seed): summary_of(_folder(output, item["player"], item["panel"], int(seed)))
                    for seed in item["seeds"]
                },
                refused=item["refused"],
            )
            for item in record["cells"]
        ]
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"{output / RECORD} is no record of a suite: {error}") from error
    return _pages(suite, cells, published)


def _pages(suite: Suite, cells: Sequence[Cell], published: Sequence[Published]) -> dict[str, bytes]:
    record = {
        "suite": suite.model_dump(mode="json"),
        "cells": [
            {
                "player": cell.player,
                "panel": cell.panel,
                "values": cell.values,
                "refused": cell.refused,
                "seeds": {str(at): summary.model_dump(mode="json") for at, summary in cell.summaries.items()},
            }
            for cell in cells
        ],
    }
    if published:
        record["published"] = [item.model_dump(mode="json") for item in published]
    return {TABLE: table(suite, cells, published).encode(), RECORD: encode_json(record)}


def table(suite: Suite, cells: Sequence[Cell], published: Sequence[Published] = ()) -> str:
    """The suite's table as Markdown: a row for each player, a column for each panel, and what could not be played."""
    panels = [str(item["panel"]) for item in suite.panels]
    by = {(cell.player, cell.panel): cell.text for cell in cells}
    by |= {(_copied(item), item.panel): f"{100 * item.value:.1f}" for item in published}
    players = dict.fromkeys([*(cell.player for cell in cells), *map(_copied, published)])
    lines = [f"# {suite.id}", "", suite.description, ""]
    lines.append("| player | " + " | ".join(panels) + " |")
    lines.append("|---" * (len(panels) + 1) + "|")
    lines += [
        f"| {escaped(player)} | " + " | ".join(by.get((player, panel), "–") for panel in panels) + " |"
        for player in players
    ]
    lines += [
        "",
        "Per cent; one seed: 95 % interval over tasks, several: interval over seeds, standard deviation, every value.",
        "",
    ]
    lines += [
        f"- {escaped(item.player)} on {item.panel}: copied from {escaped(item.source)}, "
        f"n={item.n or 'not told'}; not played here, so its protocol may be another"
        for item in published
    ]
    lines += [f"- {cell.player} on {cell.panel}: {cell.refused}" for cell in cells if cell.refused]
    lines += [
        f"- {cell.player} on {cell.panel}, seed {seed}: {banner}"
        for cell in cells
        for seed, summary in cell.summaries.items()
        for banner in remarks(summary)
    ]
    return "\n".join(lines).rstrip() + "\n"


def _copied(item: Published) -> str:
    return f"{item.player} (published)"
