"""`sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("sweep")(command)


def command(
    file: Annotated[Path, typer.Argument(help="Table file: methods, settings, seeds, published numbers.")],
    scale: Annotated[str, typer.Option("--scale", help="Which of the file's scales.")] = "small",
    only: Annotated[
        str | None,
        typer.Option("--only", help='Runs that fit, such as "alfworld/*/seed-1".', show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Expand and check every run, train nothing.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Fail when the written table is not what the runs give; train nothing."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Make a paper's table: train or resume every run of it, one after another, and write the table."""
    from ..runs.files import encode_json, write_whole
    from ..runs.significance import require_statistics
    from ..training.sweep import read_sweep, run_sweep, select
    from ..training.sweep_table import PAGE, RECORD, page_of, record_of, stale

    plan = read_sweep(file, scale)
    runs = select(plan, only)
    if dry_run:
        return _dry_run(runs, json)
    require_statistics("the table of a sweep")
    if check:
        found = stale(plan)
        if json:
            print_json(found)
        else:
            print("\n".join(found) or f"{plan.folder / PAGE} is what the runs give")
        return 1 if found else 0
    failed = run_sweep(runs, report=lambda line: typer.echo(line, err=True))
    record = record_of(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_whole(plan.folder / RECORD, encode_json(record))
    write_whole(plan.folder / PAGE, page_of(record).encode())
    if json:
        print_json({**record, "failed": failed})
    else:
        print(page_of(record), end="")
        print(f"\nwritten to {plan.folder / PAGE}")
    return 1 if failed else 0


def _dry_run(runs: list[Any], json: bool) -> int:
    from ..training.sweep import problem_of

    rows = [
        {
            "run": run.name,
            "algorithm": run.config.algorithm,
            "steps": run.config.max_steps,
            "done": run.done,
            "problem": problem_of(run),
        }
        for run in runs
    ]
    if json:
        print_json(rows)
    else:
        known = list(dict.fromkeys(row["problem"] for row in rows if row["problem"]))
        columns = ("run", "algorithm", "steps", "done")
        states = [f"[{known.index(row['problem']) + 1}]" if row["problem"] else "ok" for row in rows]
        cells = [[*(row[name] for name in columns), state] for row, state in zip(rows, states, strict=True)]
        print_table((*columns, ""), cells)
        for number, problem in enumerate(known, start=1):
            print(f"[{number}] {problem}")
    problems = sum(bool(row["problem"]) for row in rows)
    if not json:
        print(f"{len(rows)} runs, {problems} with a problem; nothing was trained")
    return 1 if problems else 0
