"""Schedules: numbers that depend on the training step, and for one kind on what the run has measured.

Owns: constant, linear, cosine, stair and piecewise schedules as frozen values: called with a step they return a
float, and `config()` gives the mapping that `from_config` reads back. Being pure functions of the step they hold no
other state, so a resumed run continues exactly. A `Measured` schedule is told every step's figures (`observe`), and
what it remembers is saved with the trainer (`Algorithm.schedule`). Leaves out: learning-rate schedules of the optimiser
(the model library's).
"""

from __future__ import annotations

import copy
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar

from agentbench.errors import ConfigError


@dataclass(frozen=True)
class Schedule(ABC):
    """A number for every training step; step 0 is the first update."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse fields that are not numbers, such as quoted ones from a config."""
        for each in fields(self):
            value = getattr(self, each.name)
            if (value is None and each.default is None) or not each.init or each.type == "str":
                continue
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
                raise ConfigError(f"{self.kind} schedule: {each.name}={value!r} must be a number")

    def __call__(self, step: int) -> float:
        """Return the value at `step`.

        Raises: ConfigError: the step is negative.
        """
        if step < 0:
            raise ConfigError(f"step={step}: schedules start at step 0")
        return self.at(step)

    @abstractmethod
    def at(self, step: int) -> float:
        """Compute the value at a step that is known to be >= 0."""

    def config(self) -> dict[str, Any]:
        """Return the plain mapping that `from_config` turns into an equal schedule."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step."""

    kind: ClassVar[str] = "constant"
    value: float

    def at(self, step: int) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Linear(Schedule):
    """Straight from `start` at step 0 to `end` at step `steps`, then `end` for good.

    ATOD's two coefficients: kappa = Linear(1.0, 0.1, T) falls to its floor, rho = Linear(1.0, 2.0, T) rises to
    its ceiling.
    """

    kind: ClassVar[str] = "linear"
    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse a horizon that is not positive."""
        super().__post_init__()
        _check_horizon(self.steps)

    def at(self, step: int) -> float:
        """Interpolate; both end points are returned exactly."""
        progress = min(step / self.steps, 1.0)
        return float(self.end) if progress == 1.0 else self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `start` at step 0 to `end` at step `steps`, then `end` for good."""

    kind: ClassVar[str] = "cosine"
    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse a horizon that is not positive."""
        super().__post_init__()
        _check_horizon(self.steps)

    def at(self, step: int) -> float:
        """Interpolate along the cosine; both end points are returned exactly."""
        progress = min(step / self.steps, 1.0)
        if progress == 1.0:
            return float(self.end)
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Stair(Schedule):
    """`start + increment * floor(step / every)`, no further than `limit`: a curriculum's turn horizon."""

    kind: ClassVar[str] = "stair"
    start: float = 1.0
    every: int = 2
    increment: float = 1.0
    limit: float | None = None

    def __post_init__(self) -> None:
        """Refuse a tread that is not positive."""
        super().__post_init__()
        _check_horizon(self.every, name="every")

    def at(self, step: int) -> float:
        """Count whole treads."""
        value = self.start + self.increment * (step // self.every)
        if self.limit is None:
            return float(value)
        return float(min(value, self.limit) if self.increment >= 0 else max(value, self.limit))


@dataclass(frozen=True)
class Piecewise(Schedule):
    """`values[i]` from step `starts[i]` until the next start."""

    kind: ClassVar[str] = "piecewise"
    starts: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Accept lists from a config; refuse pieces that do not begin at 0 or do not rise."""
        for name in ("starts", "values"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ConfigError(f"piecewise schedule: {name}={getattr(self, name)!r} must be a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        rising = all(a < b for a, b in zip(self.starts, self.starts[1:], strict=False))
        if not self.starts or self.starts[0] != 0 or not rising or len(self.starts) != len(self.values):
            raise ConfigError(
                f"starts={self.starts} with {len(self.values)} values; starts must begin at 0, rise strictly "
                "and have one value each"
            )

    def at(self, step: int) -> float:
        """Find the piece that holds the step."""
        return float(
            next(v for s, v in reversed(list(zip(self.starts, self.values, strict=True))) if s <= step)
        )


@dataclass(frozen=True)
class Measured(Schedule):
    """A number that follows figures of the run; what it remembers is plain values, and no part of its equality."""

    memory: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @abstractmethod
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take in the figures of a step, after its update; they are the same on all processes."""

    def state(self) -> dict[str, Any]:
        """Return what is remembered, for a checkpoint."""
        return copy.deepcopy(self.memory)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.memory.clear()
        self.memory.update(copy.deepcopy(dict(state)))

    def config(self) -> dict[str, Any]:
        """Return the plain mapping of the settings alone."""
        return {name: value for name, value in super().config().items() if name != "memory"}


@dataclass(frozen=True)
class Handover(Measured):
    """From `start` to `end` as the gap to the teacher stops closing; never back.

    m_s = mu m_{s-1} + (1 - mu) G_s is the smoothed figure, I_s = (m_{s-W+1} - m_s) / m_{s-W+1} what it has fallen
    within the window. Where 0 < I_s <= threshold, progress r grows by `rate`, up to 1. The value is
    end + (start - end) (1 - r).

    Attributes:
        figure: name of a metric, such as teacher_distance, the mean |log q - log p|.
        smoothing: mu, in [0, 1).
        window: W, in steps, at least 2.
        threshold: zeta, as a share of the figure.
        rate: eta, progress of one step.
    Source: TIDE, arXiv:2609.35058; there the figure is the mean over turns of a turn's mean |log p - log q|.
    """

    kind: ClassVar[str] = "handover"
    start: float
    end: float
    figure: str = "teacher_distance"
    smoothing: float = 0.9
    window: int = 10
    threshold: float = 0.02
    rate: float = 0.02

    def __post_init__(self) -> None:
        """Refuse settings under which nothing could be measured."""
        super().__post_init__()
        if not isinstance(self.figure, str) or not self.figure:
            raise ConfigError(f"handover schedule: figure={self.figure!r} must name a metric")
        _check_horizon(self.window - 1, name="window - 1")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"handover schedule: smoothing={self.smoothing!r} must lie in [0, 1)")

    @property
    def progress(self) -> float:
        """r, in [0, 1]."""
        return float(self.memory.get("progress", 0.0))

    def at(self, step: int) -> float:
        """Read off the progress made so far; the step itself moves nothing."""
        return (
            float(self.end)
            if self.progress == 1.0
            else self.end + (self.start - self.end) * (1 - self.progress)
        )

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Smooth the figure and look how far it has fallen.

        Raises: ConfigError: the algorithm reports no such figure.
        """
        if self.figure not in metrics:
            raise ConfigError(
                f"handover schedule: the run reports no figure {self.figure!r}{_near(self.figure, metrics)}"
            )
        seen: list[float] = self.memory.setdefault("smoothed", [])
        now = float(metrics[self.figure])
        seen.append(self.smoothing * seen[-1] + (1 - self.smoothing) * now if seen else now)
        del seen[: -self.window]
        fallen = (seen[0] - seen[-1]) / max(seen[0], 1e-8)
        if len(seen) == self.window and 0 < fallen <= self.threshold:
            self.memory["progress"] = min(self.progress + self.rate, 1.0)


KINDS: dict[str, type[Schedule]] = {c.kind: c for c in (Constant, Linear, Cosine, Stair, Piecewise, Handover)}
ScheduleConfig = float | dict[str, Any]
"""A schedule in a configuration: a number, or {kind, ...}."""


def from_config(config: float | Mapping[str, Any] | Schedule) -> Schedule:
    """Build a schedule from a number (constant) or a mapping with `kind` and that kind's fields.

    Raises: ConfigError: unknown kind, unknown or missing field, a value of the wrong type.
    """
    if isinstance(config, Schedule):
        return config
    if isinstance(config, int | float) and not isinstance(config, bool):
        return Constant(float(config))
    if not isinstance(config, Mapping):
        raise ConfigError(f"a schedule is a number or a mapping with 'kind', not {config!r}")
    given = dict(config)
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"no schedule kind {kind!r}; choose one of {', '.join(KINDS)}{_near(kind, KINDS)}")
    allowed = {f.name: f.default is MISSING for f in fields(KINDS[kind]) if f.init}
    for name in given:
        if name not in allowed:
            fields_of = ", ".join(allowed)
            raise ConfigError(
                f"schedule {kind!r} has no field {name!r}; it has {fields_of}{_near(name, allowed)}"
            )
    missing = [name for name, needed in allowed.items() if needed and name not in given]
    if missing:
        raise ConfigError(f"schedule {kind!r} lacks {', '.join(missing)}")
    return KINDS[kind](**given)


def _check_horizon(steps: int, name: str = "steps") -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"{name}={steps!r} must be a whole number of steps, at least 1")


def _near(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f". Did you mean {close[0]!r}?" if close else ""
