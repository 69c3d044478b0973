r"""Frozen lists of tasks: read panel files and match them with the tasks that are there. Plays nothing.

A panel is a YAML file `envs/panels/*.yaml` (found through the entry-point group `agentbench.panels`) or any
file of the user's. All keys but those marked optional are required; any other key is an error::

    id: alfworld/valid-unseen@1     # <name>@<version>; the version rises when the list changes
    env: alfworld                   # EnvSpec id
    split: valid_unseen             # handed to EnvSpec.tasks
    description: One line for `agentbench list panels`.
    sha256: 5b4c...                 # of "\n".join(ids) in utf-8, no newline at the end
    tasks: [id, id, ...]            # either the ids themselves, in playing order ...
    count: 128                      # ... or the first ids of EnvSpec.tasks(split), frozen by `sha256` too
    official_size: 134              # optional: tasks in the official split, where `tasks` names fewer
    env_options: {engine: native}   # optional: keyword options of EnvSpec.make
    notes: Two tasks have no answer.  # optional: what whoever reads a score should know

`agentbench.evaluation.panels.digest(ids)` gives the sha256. With `tasks`, ids that the data lacks are an error unless
the caller allows it. With `official_size` above len(tasks), tasks of the split that the file does not name are
played after the named ones as long as no more than `official_size` result; a report then says how many of the
official tasks there are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ..config import Section, parse_mapping, read_text, validate
from ..env import EnvSpec
from ..errors import ConfigError, MissingData, UsageError, unknown_name
from ..foreign import printable
from ..registry import env_spec, panel_files

_ID = re.compile(r"^id:[ \t]*[\"']?([^\s\"']+)", re.MULTILINE)
_SHOWN = 3


def digest(ids: Iterable[str]) -> str:
    """Hash task ids in their order: sha256 of the ids joined by newlines."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


class Panel(Section):
    """One panel file; the module docstring explains the keys."""

    id: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    env: str
    split: str
    description: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tasks: tuple[str, ...] | None = None
    count: int | None = Field(default=None, ge=1)
    official_size: int | None = Field(default=None, ge=1)
    env_options: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""

    def resolve(self, spec: EnvSpec, *, allow_missing: bool = False) -> ResolvedPanel:
        """Match the panel with the tasks that are on disk.

        Args:
            spec: the env named by `env`.
            allow_missing: go on without listed tasks that the data lacks.
        Raises: MissingData: listed tasks are absent. UsageError: repeated tasks, or others than were frozen.
        """
        present = list(spec.tasks(self.split))
        _refuse_repeats(present, f"split {self.split!r} of env {spec.id!r}")
        if self.tasks is None:
            return self._resolve_generated(present)
        there = set(present)
        played = [task for task in self.tasks if task in there]
        missing = tuple(task for task in self.tasks if task not in there)
        if missing and not allow_missing:
            raise MissingData(
                f"panel {self.id}: {len(missing)} of {len(self.tasks)} tasks are not in the data: "
                f"{_some(missing)}; import all of split {self.split!r}, or use --allow-missing"
            )
        listed = set(self.tasks)
        unlisted = tuple(task for task in present if task not in listed)
        room = (self.official_size or 0) - len(self.tasks)
        if len(unlisted) <= room:
            played.extend(unlisted)
            unlisted = ()
        return ResolvedPanel(self, tuple(played), missing, unlisted)

    def _resolve_generated(self, present: list[str]) -> ResolvedPanel:
        assert self.count is not None
        played = present[: self.count]
        if len(played) < self.count:
            raise MissingData(
                f"panel {self.id} needs {self.count} tasks, split {self.split!r} has {len(played)} of them"
            )
        if (seen := digest(played)) != self.sha256:
            raise UsageError(
                f"panel {self.id} is frozen, but the first {self.count} tasks of split {self.split!r} have "
                f"changed: sha256 {seen}, expected {self.sha256}; use the release that made them, or a new "
                "panel version"
            )
        return ResolvedPanel(self, tuple(played))


@dataclass(frozen=True)
class ResolvedPanel:
    """A panel matched with the data.

    Attributes:
        panel: the file.
        tasks: ids to play, in order; unnamed official tasks last.
        missing: listed, but not in the data.
        unlisted: in the data's split, but neither listed nor played.
    """

    panel: Panel
    tasks: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of the ids to play."""
        return digest(self.tasks)

    def banners(self) -> list[str]:
        """Say loudly what keeps this from being the official set; [] when nothing does."""
        lines = []
        size = self.panel.official_size
        if size is not None and len(self.tasks) < size:
            lines.append(f"{len(self.tasks)} of {size} official tasks present")
        named = set(self.tasks if self.panel.tasks is None else self.panel.tasks)
        unnamed = [task for task in self.tasks if task not in named]
        if unnamed:
            lines.append(f"{len(unnamed)} tasks were played that the panel does not name: {_some(unnamed)}")
        if self.missing:
            lines.append(f"{len(self.missing)} tasks of the panel are missing: {_some(self.missing)}")
        if self.unlisted:
            lines.append(f"{len(self.unlisted)} more tasks are in the split: {_some(self.unlisted)}")
        return lines


def load_panel(name: str) -> Panel:
    """Read a panel by id ("alfworld/mini@1") or from a YAML file (a path ending in .yaml or .yml).

    Raises: UnknownName: no such id. ConfigError: the file breaks the format. MissingData: no such file.
    """
    if name.endswith((".yaml", ".yml")):
        if not os.path.isfile(name):
            raise MissingData(f"no panel file {printable(name, 300)}")
        return parse_panel(read_text(name, "the panel file"), name)
    known = {}
    for file in panel_files().values():
        text = file.read_text(encoding="utf-8")
        found = _ID.search(text)
        if found is None:
            raise ConfigError(f"panel file {file.name} has no id")
        if found.group(1) == name:
            return parse_panel(text, file.name)
        known[found.group(1)] = file
    raise unknown_name("panel", name, known, "A path to a panel file (.yaml) works too.")


def split_as_panel(env: str, split: str) -> Panel:
    """Take a split as it is on this machine: what is played where nobody has frozen a panel.

    Args:
        env: env plug-in, or "file.py:SPEC".
        split: one of its splits.
    Raises: UsageError: no such split, or it lists a task twice.
    """
    spec = env_spec(env)
    if split not in spec.splits:
        raise unknown_name(f"split of {spec.id}", split, spec.splits)
    tasks = list(spec.tasks(split))
    if not tasks:
        raise UsageError(f"split {split!r} of env {spec.id!r} has no tasks")
    return Panel(
        id=f"{spec.id}/{split}@unfrozen",
        env=env,
        split=split,
        description="a split as it is",
        sha256=digest(tasks),
        tasks=tuple(tasks),
    )


def all_panels() -> list[Panel]:
    """Read every shipped panel, sorted by id."""
    panels = [parse_panel(file.read_text(encoding="utf-8"), file.name) for file in panel_files().values()]
    return sorted(panels, key=lambda panel: panel.id)


def parse_panel(text: str, source: str) -> Panel:
    """Check one panel file.

    Args:
        text: the YAML.
        source: the file's name, for messages.
    Raises: ConfigError: not YAML, a key is missing, unknown or wrong, or the ids do not match `sha256`.
    """
    values = parse_mapping(text, f"panel file {source}")
    tasks = values.get("tasks")
    if (tasks is None) == (values.get("count") is None):
        raise ConfigError(f"panel file {source} needs exactly one of 'tasks' and 'count'")
    seen = digest(map(str, tasks)) if isinstance(tasks, list) else None
    if seen and "sha256" not in values:
        raise ConfigError(f"panel file {source} lacks sha256; for the tasks in it that is {seen}")
    panel = validate(Panel, dict(values), f"panel file {source}: ")
    _refuse_repeats(panel.tasks or (), f"panel {panel.id}")
    if seen and seen != panel.sha256:
        raise ConfigError(
            f"panel {panel.id} is frozen, but its tasks have changed: sha256 {seen}, expected "
            f"{panel.sha256}; restore the list, or give it a new version and digest"
        )
    return panel


def _refuse_repeats(ids: Iterable[str], where: str) -> None:
    repeated = [task for task, times in Counter(ids).items() if times > 1]
    if repeated:
        raise UsageError(
            f"{where}: {len(repeated)} tasks are repeated: {_some(repeated)}; each must occur once"
        )


def _some(ids: Iterable[str]) -> str:
    items = list(ids)
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
