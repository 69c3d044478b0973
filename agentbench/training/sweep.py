"""A paper's table as one file: methods x settings x seeds, expanded into training runs, made one after another.

The file names what is trained (`SweepFile`); each run is a run folder of its own, OUTPUT/SETTING/METHOD/seed-N, made
as `agentbench train` makes it, so a sweep that was stopped, even by kill -9, goes on where it stopped. Leaves out the
table that is made of the runs (`sweep_table`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ..config import Section, dump, read_mapping, validate
from ..errors import AgentBenchError, ConfigError, UsageError, unknown_name
from ..runs.files import write_whole
from .check import check, check_resume
from .checkpoints import checkpoints
from .config import TrainConfig, under
from .launch import launch
from .loop import train


class PublishedColumn(Section):
    """What a paper reports in one setting.

    Attributes:
        values: by method, in the metric's own unit (success as a rate).
        protocol: dotted keys of a training run with the paper's values; where a run has another one, the numbers are
            not comparable, and the table says so.
        notes: what else stands between the numbers.
    """

    values: dict[str, float]
    protocol: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class SettingSection(Section):
    """One setting of a table: usually an environment with a student and a teacher.

    Attributes:
        values: of a training run, over those of the scale.
        published: which column of the paper is shown beside it.
    """

    values: dict[str, Any]
    published: str | None = None


class ScaleSection(Section):
    """One size at which the table can be made.

    Attributes:
        seeds: each makes a run of every method in every setting.
        values: of a training run, under everything else.
        settings: by name.
        methods: values of a method at this scale, over the method's own.
    """

    seeds: tuple[int, ...] = Field(min_length=1)
    values: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, SettingSection] = Field(min_length=1)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


class SweepFile(Section):
    """A table of a paper, as read from YAML.

    Attributes:
        source: the paper, and which table.
        output_dir: the scale's name is added.
        baseline: the method that the others are compared with.
        methods: values of a training run, over those of scale and setting; each names its algorithm.
        published: columns of the paper, by name.
    """

    id: str
    title: str
    source: str
    output_dir: str
    baseline: str
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    scales: dict[str, ScaleSection] = Field(min_length=1)
    published: dict[str, PublishedColumn] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> SweepFile:
        if self.baseline not in self.methods:
            raise ValueError(
                f"baseline {self.baseline!r} is not one of the methods: {', '.join(self.methods)}"
            )
        for name, scale in self.scales.items():
            for method in scale.methods:
                if method not in self.methods:
                    raise ValueError(f"scales.{name}.methods: {method!r} is not one of the methods")
            for setting, section in scale.settings.items():
                if section.published is not None and section.published not in self.published:
                    raise ValueError(
                        f"scales.{name}.settings.{setting}: no published column {section.published!r}"
                    )
        return self


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep."""

    setting: str
    method: str
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """SETTING/METHOD/seed-N, as the folder."""
        return f"{self.setting}/{self.method}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def done(self) -> int:
        """Steps of its newest checkpoint."""
        found = checkpoints(self.folder)
        return found[-1][0] if found else 0

    @property
    def finished(self) -> bool:
        return self.done >= self.config.max_steps


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A table at one scale.

    Attributes:
        runs: all of them, setting by setting, method by method, seed by seed.
    """

    table: SweepFile
    scale: str
    runs: tuple[SweepRun, ...]

    @property
    def folder(self) -> Path:
        return Path(self.table.output_dir) / self.scale


def read_sweep(path: str | Path, scale: str) -> SweepPlan:
    """Read a table file and expand it at one scale.

    Raises: ConfigError, UnknownName: the file or one of its runs is not valid; names the run.
    """
    table = validate(SweepFile, read_mapping(path, "the table"))
    if scale not in table.scales:
        raise unknown_name("scale", scale, table.scales)
    return SweepPlan(table, scale, tuple(_expand(table, scale)))


def _expand(table: SweepFile, scale: str) -> Iterator[SweepRun]:
    chosen = table.scales[scale]
    for setting, section in chosen.settings.items():
        for method, own in table.methods.items():
            values = chosen.values
            for layer in (section.values, own, chosen.methods.get(method, {})):
                values = under(values, layer)
            for seed in chosen.seeds:
                folder = Path(table.output_dir) / scale / setting / method / f"seed-{seed}"
                full = {**values, "seed": seed, "output_dir": str(folder)}
                yield SweepRun(setting, method, seed, _valid(full, f"{setting}/{method}"))


def _valid(values: Mapping[str, Any], name: str) -> TrainConfig:
    try:
        return validate(TrainConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def select(plan: SweepPlan, pattern: str | None) -> list[SweepRun]:
    """Runs whose name fits a pattern such as "alfworld/*/seed-1". Raises: UsageError: none does."""
    chosen = [run for run in plan.runs if pattern is None or fnmatchcase(run.name, pattern)]
    if not chosen:
        raise UsageError(f"no run fits {pattern!r}; the first is {plan.runs[0].name!r}")
    return chosen


def problem_of(run: SweepRun) -> str:
    """Why a run cannot be made, as far as can be told before a model is loaded; "" where it can."""
    try:
        if run.config.eval is None:
            raise ConfigError("a run of a table needs 'eval': a panel to be measured on")
        check(run.config)
        check_resume(run.config, resume=True)
    except UsageError as error:
        return str(error)
    return ""


def run_sweep(runs: list[SweepRun], report: Callable[[str], None] = print) -> dict[str, str]:
    """Make or finish every run, one after another.

    One that fails does not keep the others from being made; what can be mended is refused before the first starts.

    Returns: by name, why a run failed.
    Raises: UsageError: a run cannot be made; names it.
    """
    for run in runs:  # the finished ones, too: they may have been made by another version of the file
        if problem := problem_of(run):
            raise UsageError(f"{run.name}: {problem}")
    waiting = [run for run in runs if not run.finished]
    failed: dict[str, str] = {}
    for number, run in enumerate(waiting, start=1):
        at = f"from step {run.done} " if run.done else ""
        report(f"run {number} of {len(waiting)}: {run.name} {at}({run.config.max_steps} steps)")
        try:
            _make(run, report)
        except UsageError:
            raise
        except AgentBenchError as error:
            failed[run.name] = f"{type(error).__name__}: {error}"
            report(f"{run.name} failed: {failed[run.name]}")
        gc.collect()  # models of the last run, before those of the next are loaded
    return failed


def _make(run: SweepRun, report: Callable[[str], None]) -> None:
    """As `agentbench train` would."""
    if run.config.num_processes == 1:
        train(run.config, resume=True, report=lambda line: report(f"  {line}"))
        return
    path = run.folder.parent / f"{run.folder.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump(run.config).encode())
    code = launch(["train", str(path), "--resume"], run.config.num_processes)
    if code:
        raise AgentBenchError(f"agentbench train {path} --resume ended with exit code {code}")
