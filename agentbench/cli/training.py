"""`train`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..config import dump
from ..errors import TrainingError
from ..training.check import check, check_resume
from ..training.checkpoints import checkpoints
from ..training.config import preset_lines, read_config
from ..training.launch import end_with_launcher, launch
from ..training.loop import train


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("train")(command)


def command(
    config: Annotated[Path, typer.Argument(help="Configuration file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.sub=value ...]", help="Values over those of the file.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    num_processes: Annotated[
        int | None, typer.Option("--num-processes", min=1, help="Train on so many processes of this machine.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
) -> int:
    """Train an agent by the algorithm that CONFIG names."""
    return main(config, overrides or [], resume=resume, dry_run=dry_run, num_processes=num_processes)


def _peer_is_gone(error: RuntimeError) -> bool:
    """Tell the ways in which torch's process groups report a lost peer; they have no class in common."""
    return "gloo" in str(error) or type(error).__name__ in ("DistBackendError", "DistNetworkError")


def main(
    path: str | Path,
    overrides: Sequence[str],
    *,
    resume: bool = False,
    dry_run: bool = False,
    num_processes: int | None = None,
) -> int:
    """Do what `agentbench train` does; returns its exit code.

    Args:
        path: configuration file.
        overrides: `key.sub=value`, over the file's.
        resume: go on from the newest checkpoint.
        dry_run: check everything that needs no model, show the resolved configuration, train nothing.
        num_processes: start so many processes on this machine; None trains in this one, or is one of several already.
    """
    end_with_launcher()
    if num_processes is not None:
        overrides = [*overrides, f"num_processes={num_processes}"]
    config = read_config(path, overrides)
    spec, _, env = check(config)
    if dry_run:
        check_resume(config, resume=resume)
        print(dump(config))
        if config.preset is not None:
            print(f"preset {config.preset} of {spec.id}: {', '.join(preset_lines(config))}")
        count = len(env.tasks(config.env.split)[: config.env.num_tasks])
        print(
            f"ok: {spec.id} on {count} tasks of {env.id} {config.env.split}; all that needs no model was checked"
        )
        return 0
    if num_processes is not None and num_processes > 1:
        return launch(["train", str(path), *overrides, *(["--resume"] if resume else [])], num_processes)
    began = time.monotonic()
    try:
        train(config, resume=resume)
    except RuntimeError as error:
        if config.num_processes > 1 and _peer_is_gone(error):
            raise TrainingError(
                "another process of this run ended; what it said last is the reason"
            ) from error
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        last = checkpoints(Path(config.output_dir))[-1][1]
        seconds = time.monotonic() - began
        print(f"done in {seconds:.0f} s: {last}  (metrics.jsonl, rollouts/ and eval/ lie beside it)")
    return 0
