"""What a training run writes besides checkpoints: metrics by step, collected episodes, the best step, trackers.

`metrics.jsonl` holds reproducible numbers only; wall seconds go to `timings.jsonl`. Opening for resume drops whatever
lies after the checkpoint the run goes on from, so a resumed run leaves the same files as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError, missing_dependency
from ..runs.episodes import encode_episode
from ..runs.files import Lines, read_lines, write_whole
from ..runs.folder import METRICS, TIMINGS
from ..types import Trajectory
from .config import TrainConfig

BEST = "best.json"
ROLLOUTS = "rollouts"


class TrainLog:
    """Writes one run's files; only the first process has one."""

    def __init__(self, folder: Path, first: int, config: TrainConfig) -> None:
        """Open the files.

        Args:
            folder: the run folder.
            first: updates already done; later lines are dropped.
            config: of the run.
        """
        self._trackers = _open_trackers(config, folder)
        self.folder = folder
        self.metric = f"eval/{config.metric_for_best_model}"
        self.best: dict[str, Any] | None = None
        for name in (METRICS, TIMINGS):
            _keep(folder / name, first)
        for _, line in read_lines(folder / METRICS):
            self._consider(line["step"], line)
        self._metrics = Lines(folder / METRICS)
        self._timings = Lines(folder / TIMINGS)
        (folder / ROLLOUTS).mkdir(exist_ok=True)

    def write(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> bool:
        """Append one step's numbers; tells whether its evaluation is the best so far."""
        self._metrics.append({"step": step, **metrics})
        self._timings.append({"step": step, **seconds})
        for tracker in self._trackers:
            tracker.log({**metrics, **seconds}, step=step)
        return self._consider(step, metrics)

    def rollouts(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """Write the episodes collected in one step, annotated."""
        lines = b"".join(encode_episode(item) + b"\n" for item in trajectories)
        write_whole(self.folder / ROLLOUTS / f"step-{step:06d}.jsonl", lines)

    def _consider(self, step: int, metrics: Mapping[str, float]) -> bool:
        if not any(name.startswith("eval/") for name in metrics):
            return False
        if self.metric not in metrics:
            known = ", ".join(name.removeprefix("eval/") for name in metrics if name.startswith("eval/"))
            raise ConfigError(
                f"metric_for_best_model = {self.metric[5:]!r} is not a figure of the panel: {known}"
            )
        if self.best is not None and metrics[self.metric] <= self.best["value"]:
            return False
        self.best = {"step": step, "metric": self.metric, "value": metrics[self.metric]}
        write_whole(self.folder / BEST, json.dumps(self.best).encode() + b"\n")
        return True

    def close(self) -> None:
        self._metrics.close()
        self._timings.close()
        for tracker in self._trackers:
            tracker.finish()


def _keep(path: Path, last: int) -> None:
    """Drop the lines of steps after `last`, and a torn last line."""
    if not path.exists():
        return
    Lines(path).close()
    lines: Iterable[Mapping[str, Any]] = [line for _, line in read_lines(path) if line["step"] <= last]
    write_whole(path, b"".join(orjson.dumps(line) + b"\n" for line in lines))


def _open_trackers(config: TrainConfig, folder: Path) -> list[Any]:
    if not config.report_to:
        return []
    try:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    except ImportError as error:
        raise missing_dependency("accelerate", "train", "report_to") from error
    PartialState()
    available = {str(getattr(item, "value", item)) for item in get_available_trackers()}
    trackers = []
    for name in config.report_to:
        if name not in available:
            known = ", ".join(sorted(available)) or "none"
            raise ConfigError(f"report_to: tracker {name!r} is not installed; available: {known}")
        kind = LOGGER_TYPE_TO_CLASS[name]
        options = {"logging_dir": str(folder / "trackers")} if kind.requires_logging_directory else {}
        tracker = kind(folder.name, **options)
        tracker.start()
        tracker.store_init_configuration({"config": json.dumps(config.model_dump(mode="json"))})
        trackers.append(tracker)
    return trackers
