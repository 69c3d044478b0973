"""`judge`: verdicts on given programs, without a model. Finds who judges by entry point; knows no benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import file_progress, print_json


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(judge)


def judge(
    tasks: Annotated[
        Path, typer.Option("--tasks", help="Tasks: JSON lines of a known benchmark, or custom ones.")
    ],
    solutions: Annotated[
        Path, typer.Option("--solutions", help="Programs: task_id, and solution or completion.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of verdicts, one line a program.")],
    k: Annotated[
        list[int] | None, typer.Option("--k", help="pass@k to compute; may be repeated.", show_default="1")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the verdicts that are there.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Programs judged at the same time.")] = 2,
    extraction: Annotated[
        str, typer.Option("--extraction", help="auto, none, agentbench@1, lcb or evalplus.")
    ] = "auto",
    isolation: Annotated[
        str, typer.Option("--isolation", help="auto, root, user or landlock; see agentbench doctor.")
    ] = "auto",
    python: Annotated[
        str | None, typer.Option("--python", help="Interpreter that runs the programs.")
    ] = None,
    unsafe: Annotated[
        bool,
        typer.Option(
            "--unsafe-no-sandbox", help="Run programs with all your rights; recorded in every verdict."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Judge programs that are in a file, in a sandbox, and compute pass@k."""
    from ..errors import UsageError
    from ..registry import load

    if unsafe and isolation != "auto":
        raise UsageError(f"--unsafe-no-sandbox and --isolation {isolation} exclude each other; leave one out")
    plugin = load("judges", "code")
    sandbox = plugin.sandbox("unsafe" if unsafe else isolation, python)
    with file_progress() as progress:
        found = plugin.grade(
            tasks,
            solutions,
            output,
            sandbox=sandbox,
            workers=workers,
            extraction=extraction,
            ks=tuple(k or [1]),
            resume=resume,
            progress=progress,
        )
    rates = {f"pass@{key}": rate for key, rate in found.rates.items()}
    if json:
        shown = {
            name: {"value": rate.value, "low": rate.low, "high": rate.high, "tasks": rate.n}
            for name, rate in rates.items()
        }
        print_json({**shown, "verdicts": found.verdicts, "missing": found.missing, "sandbox": found.facts})
        return 1 if found.broken else 0
    for name, rate in rates.items():
        print(f"{name} {rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] over {rate.n} tasks")
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(found.verdicts.items())))
    if found.missing:
        print(f"{found.missing} of {found.tasks} tasks have no program and count as failed")
    if found.broken:
        print(f"{found.broken} programs got no verdict because the sandbox broke; --resume tries them again")
    facts = found.facts
    print(f"isolation {facts['isolation']}, Python {facts.get('python', '?')}, rules {facts['rules']}")
    return 1 if found.broken else 0
