"""What a training run writes besides checkpoints: metrics by step, collected episodes, the best step, trackers.

`metrics.jsonl` holds reproducible numbers only; wall seconds go to `timings.jsonl`. Opening for resume drops whatever
lies after the checkpoint the run goes on from, so a resumed run leaves the same files as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError, CorruptData, missing_dependency
from ..foreign import shortened
from ..runs.episodes import encode_episode
from ..runs.files import Lines, read_lines, write_whole
from ..runs.folder import METRICS, TIMINGS
from ..types import Trajectory
from .config import TrainConfig

FIGURES = ("success", "score", "turns", "errors")
"""What an evaluation on the way gives; `metric_for_best_model` is one of them."""
_SMALLER_IS_BETTER = frozenset({"turns", "errors"})


def direction(figure: str) -> int:
    """1 where more of a figure is better, -1 where less is."""
    return -1 if figure in _SMALLER_IS_BETTER else 1


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
        (folder / BEST).unlink(missing_ok=True)  # written again from what is kept
        for _, line in read_lines(folder / METRICS):
            self._consider(line["step"], line)
        self._metrics = Lines(folder / METRICS)
        try:
            self._timings = Lines(folder / TIMINGS)
            (folder / ROLLOUTS).mkdir(exist_ok=True)
        except BaseException:
            self._metrics.close()
            raise

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
        """Keep the best evaluation of a step that has a checkpoint; the first of equals. Step 0 has none."""
        if not any(name.startswith("eval/") for name in metrics):
            return False
        if self.metric not in metrics:
            known = ", ".join(name.removeprefix("eval/") for name in metrics if name.startswith("eval/"))
            raise ConfigError(
                f"metric_for_best_model = {self.metric[5:]!r} is not a figure of the panel: {known}"
            )
        sign = direction(self.metric.removeprefix("eval/"))
        if step == 0 or (self.best is not None and sign * metrics[self.metric] <= sign * self.best["value"]):
            return False
        self.best = {
            "step": step,
            "metric": self.metric,
            "value": metrics[self.metric],
            "checkpoint": f"checkpoint-{step}",
        }
        write_whole(self.folder / BEST, json.dumps(self.best).encode() + b"\n")
        return True

    def sync(self) -> None:
        """Wait until all lines are on the disk: a checkpoint without the steps before it could not be resumed."""
        self._metrics.sync()
        self._timings.sync()

    def close(self) -> None:
        self._metrics.close()
        self._timings.close()
        for tracker in self._trackers:
            tracker.finish()


def require_steps(folder: Path, checkpoint: tuple[int, Path], older: Sequence[tuple[int, Path]]) -> None:
    """Check that the metrics on record reach the checkpoint that a run is to go on from.

    Args:
        folder: the run folder.
        checkpoint: step and folder of the newest checkpoint.
        older: of the others, oldest first.
    Raises: CorruptData: steps are missing, or a line is no step; names the next step.
    """
    try:
        steps = {_step_of(line, folder / METRICS, number) for number, line in read_lines(folder / METRICS)}
    except CorruptData as error:
        if "is torn" not in str(error):
            raise
        Lines(folder / METRICS).close()  # a kill cuts the last line, and cutting that off is all it takes
        steps = {_step_of(line, folder / METRICS, number) for number, line in read_lines(folder / METRICS)}
    missing = [step for step in range(1, checkpoint[0] + 1) if step not in steps]
    if not missing:
        return
    problem = f"{folder / METRICS} lacks step {missing[0]}, and {checkpoint[1].name} stands after {checkpoint[0]} steps"
    reached = [path.name for step, path in older if step < missing[0]]
    raise CorruptData(
        f"{problem}; put the file back, or remove {checkpoint[1].name} to go on from {reached[-1]}"
        if reached
        else f"{problem}; put the file back, or start anew in another folder (model_name_or_path: {checkpoint[1]})"
    )


def _step_of(line: Mapping[str, Any], path: Path, number: int) -> int:
    step = line.get("step")
    if type(step) is not int:
        raise CorruptData(f"{path} line {number} names no step; it is no line of a training run")
    return step


def _keep(path: Path, last: int) -> None:
    """Drop the lines of steps after `last`, and a torn last line."""
    if not path.exists():
        return
    if last < 0:
        write_whole(path, b"")
        return
    Lines(path).close()
    lines = [line for number, line in read_lines(path) if _step_of(line, path, number) <= last]
    write_whole(path, b"".join(orjson.dumps(line) + b"\n" for line in lines))


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed. Raises: ConfigError, MissingDependency."""
    if not names:
        return
    try:
        from accelerate.tracking import get_available_trackers
    except ImportError as error:
        raise missing_dependency("accelerate", "train", "report_to") from error
    available = {str(getattr(item, "value", item)) for item in get_available_trackers()}
    for name in names:
        if name not in available:
            known = ", ".join(sorted(available)) or "none"
            raise ConfigError(f"report_to: tracker {shortened(name)} is not installed; available: {known}")


def _open_trackers(config: TrainConfig, folder: Path) -> list[Any]:
    check_trackers(config.report_to)
    if not config.report_to:
        return []
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()
    trackers = []
    for name in config.report_to:
        kind = LOGGER_TYPE_TO_CLASS[name]
        options = {"logging_dir": str(folder / "trackers")} if kind.requires_logging_directory else {}
        tracker = kind(folder.name, **options)
        tracker.start()
        tracker.store_init_configuration({"config": json.dumps(config.model_dump(mode="json"))})
        trackers.append(tracker)
    return trackers
