"""What a bridge is: a way for another code base to play one of our environments under that code base's own names.

A bridge is a plug-in of the group `agentbench.bridges`. Owns the contract, how a bridge is switched on by an
environment variable, and the settings that all share. Leaves out every bridge itself: they live with their
environments, and what serves any environment is beside this module (`server`, `factory`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import Section, validate
from ..errors import ConfigError, ContractError
from ..registry import load, names


class BridgeSettings(Section):
    """Settings of every bridge; each adds its own.

    Attributes:
        enabled: false leaves everything to the original.
        quiet: say nothing about set-ups that are handed to the original.
    """

    enabled: bool = True
    quiet: bool = False


@dataclass
class SideBySide:
    """What was played on both sides, and what differed.

    Attributes:
        counts: what was compared, by kind, such as {"games": 3, "values": 2010}.
        differences: a line for each value that differs; empty where both are equal.
        seconds: name of a part -> (seconds of the original, seconds of ours), summed over the same work.
        notes: worth saying, such as what was not compared.
    """

    counts: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, kind: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[kind] = self.counts.get(kind, 0) + number

    def same(self, where: str, ours: object, original: object) -> None:
        """Count a value and note it where the two differ, in type too."""
        self.count("values")
        if ours != original or type(ours) is not type(original):
            self.differences.append(f"{where}: ours {ours!r:.300}, original {original!r:.300}")

    def spent(self, part: str, original: float, ours: float) -> None:
        """Add seconds to a part."""
        before = self.seconds.get(part, (0.0, 0.0))
        self.seconds[part] = (before[0] + original, before[1] + ours)


@dataclass(frozen=True)
class Bridge:
    """A bridge as a plug-in (entry-point group `agentbench.bridges`).

    Attributes:
        id: plug-in name, lower case; its variable is AGENTBENCH_<ID>.
        stands_for: what other code bases find in its place, in words.
        install: switch it on, with the settings given, in this process; a second call changes the settings.
        uninstall: put everything back.
        settings: the kind of settings that `install` takes.
        check: "module:function" that plays files of the user on both sides; None where there is no original to play
            against. By name, since what compares the two imports the bridge.
    """

    id: str
    stands_for: str
    install: Callable[[Any], None]
    uninstall: Callable[[], None]
    settings: type[BridgeSettings] = BridgeSettings
    check: str | None = None

    @property
    def variable(self) -> str:
        """The environment variable that switches it on."""
        return f"AGENTBENCH_{self.id.upper()}"

    def configured(self, overrides: Sequence[str] = (), file: str | Path | None = None) -> Any:
        """Read the settings: a file, else what the variable says, then `key=value` overrides.

        The variable holds 1 (on), 0 (off) or the path of a YAML file of settings; where it is not set, a bridge that
        is asked for by name is on.

        Raises: ConfigError: the file is absent or no YAML, or a key or value is not allowed.
        """
        said = os.environ.get(self.variable, "1").strip()
        values: dict[str, Any] = {}
        if file is not None:
            values = _read(Path(file))
        elif said in ("0", "1"):
            values["enabled"] = said == "1"
        elif Path(said).suffix in (".yaml", ".yml"):
            values = _read(Path(said))
        else:
            raise ConfigError(
                f"{self.variable}={said!r} is none of 1, 0 or the path of a .yaml file of settings"
            )
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals or not key:
                raise ConfigError(f"setting {override!r} is not of the form key=value")
            values[key] = yaml.safe_load(text)
        return validate(self.settings, values)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"no file of bridge settings {str(file)!r}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from error
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"{file}: expected keys and values, got {type(values).__name__}")
    return dict(values or {})


def find_bridge(name: str) -> Bridge:
    """Load a bridge by name.

    Raises: UnknownName: no such plug-in. ContractError: the entry point holds something else.
    """
    found = load("bridges", name)
    if not isinstance(found, Bridge):
        raise ContractError(f"bridge plug-in {name!r} must be a Bridge, got {type(found).__name__}")
    return found


def from_environment() -> list[str]:
    """Switch on every bridge whose variable is set and not 0; returns their names.

    For processes that somebody else starts, such as Ray's workers:
    `ray.init(runtime_env={"env_vars": {"AGENTBENCH_ALFWORLD": "1"},
    "worker_process_setup_hook": "agentbench.bridges.from_environment"})`.
    """
    switched_on = []
    for name in names("bridges"):
        if os.environ.get(f"AGENTBENCH_{name.upper()}", "0").strip() != "0":
            bridge = find_bridge(name)
            bridge.install(bridge.configured())
            switched_on.append(name)
    return switched_on


_said: set[str] = set()


def say_once(about: str, message: str) -> None:
    """Print a line on stderr unless this process has said something about it before."""
    if about not in _said:
        _said.add(about)
        print(f"agentbench: {message}", file=sys.stderr, flush=True)
