"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(train)


def train(
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
    from ..train import main

    code: int = main(config, overrides or [], resume=resume, dry_run=dry_run, num_processes=num_processes)
    return code
