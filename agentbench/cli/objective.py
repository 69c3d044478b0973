"""`check-objective`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("check-objective")(command)


def command(
    algorithm: Annotated[str, typer.Option("--algorithm", help="Trainer plug-in.")],
    model: Annotated[str, typer.Option("--model", help="Student: a local folder or a hub id.")],
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher", help="Teacher; repeatable. Left out, the configuration's.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Training configuration whose env, rollout and trainer keys are taken.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Hold an algorithm's gradient on your own models against a plain float64 reference, and against itself."""
    from ..training.verification import TOLERANCE, check_objective

    checks = check_objective(_configuration(algorithm, model, teacher or [], config), _running)
    if json:
        print_json({"algorithm": algorithm, "model": model, "tolerance": TOLERANCE, "checks": checks})
    else:
        shown = {True: "passed", False: "FAILED", None: "left out"}
        rows = [
            (c.name, shown[c.passed], "" if c.deviation is None else f"{c.deviation:.1e}", c.detail)
            for c in checks
        ]
        print_table(("check", "result", "deviation", ""), rows)
        print(f"float64; relative to each parameter's largest gradient, at most {TOLERANCE:g} allowed")
    return 1 if any(check.passed is False for check in checks) else 0


def _configuration(algorithm: str, model: str, teachers: list[str], path: Path | None) -> Any:
    """The file's run under these names; without a file, the embedded tasks of the corridor."""
    from ..config import read_mapping, validate
    from ..training.config import TrainConfig

    values: dict[str, Any] = {"env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript"}}
    if path is not None:
        values = read_mapping(path, "the configuration")
        if values.get("algorithm", algorithm) != algorithm:  # its keys are another algorithm's
            values = {
                key: value for key, value in values.items() if key not in ("trainer", "preset", "teachers")
            }
    values |= {"algorithm": algorithm, "model_name_or_path": model, "output_dir": "unused"}
    if teachers:
        values["teachers"] = [{"model_name_or_path": name} for name in teachers]
    return validate(TrainConfig, values)


def _running(check_name: str) -> None:
    if sys.stderr.isatty():
        print(f"checking {check_name}", file=sys.stderr, flush=True)
