"""`suite` and `card`: many models, panels and seeds into one table; one run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import episode_progress, key_values, note, print_json


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(suite)
    app.command()(card)


def suite(
    name: Annotated[str, typer.Argument(help="Suite id (agentbench list suites) or file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run folders.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Folder, glob or hub id; repeatable.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="expert, explorer, random, null.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeatable; 0 when left out.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first tasks of each panel.")] = None,
    engine: Annotated[str, typer.Option(help="Engine plug-in for models.")] = "hf",
    engine_option: Annotated[
        list[str] | None, typer.Option(help="key=value for the engine; repeatable.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Episodes at once; moves no result.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on without absent tasks.")
    ] = False,
    published: Annotated[
        Path | None,
        typer.Option(help="YAML list of numbers that others report, marked as copied.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --output.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> int:
    """Play a suite with every model and policy named, and write one table."""
    from ..errors import UsageError
    from ..evaluation.suite import RECORD, TABLE, Player, load_published, load_suite, run_suite, write_suite

    players = [Player(item) for item in policy or []]
    players += [Player("model", found) for item in model or [] for found in _models(item)]
    if not players:
        raise UsageError("name who plays: --model FOLDER or --policy expert, each as often as you like")
    changes: dict[str, Any] = {
        "engine": engine,
        "engine_options": key_values(engine_option or [], "--engine-option"),
    }
    changes |= {
        key: value for key, value in (("limit", limit), ("concurrency", concurrency)) if value is not None
    }
    changes |= {"allow_missing": True} if allow_missing else {}
    chosen = load_suite(name)
    known = load_published(published, chosen) if published else []
    with episode_progress() as progress:
        cells = run_suite(
            chosen, players, output, seeds=seed or [0], changes=changes, resume=resume, progress=progress
        )
    write_suite(output, chosen, cells, known)
    print((output / (RECORD if json else TABLE)).read_text(encoding="utf-8"), end="")
    short = any(cell.refused or any(found.fell_short for found in cell.summaries.values()) for cell in cells)
    return 1 if short else 0


def card(
    run: Annotated[Path, typer.Argument(help="Evaluation, or training run (its last evaluation).")],
    other: Annotated[
        Path | None, typer.Argument(help="Another one: list what differs.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="card.md or card.html; else printed.", show_default=False),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Evaluation of the teacher: its own score is shown.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Write a run's reproduction card, or list in what two runs differ."""
    from ..errors import UsageError
    from ..evaluation.card import as_html, as_markdown, card_differences, card_of
    from ..runs.files import write_whole
    from ..runs.sides import last_evaluation

    run = last_evaluation(run, note)
    found = card_of(run, teacher and last_evaluation(teacher, note))
    if other is not None:
        lines = card_differences(found, card_of(last_evaluation(other, note)))
        if json:
            print_json(lines)
        else:
            print("\n".join(lines) or "the runs differ in nothing but their results")
        return 0
    if json:
        print_json(found)
    elif output is None:
        print(as_markdown(found, run.name), end="")
    elif output.suffix in (".md", ".html"):
        page = as_html(found, run.name) if output.suffix == ".html" else as_markdown(found, run.name)
        write_whole(output, page.encode())
        print(output)
    else:
        raise UsageError(f"a card is written as .md or .html, not {output.name!r}")
    return 0


def _models(name: str) -> list[str]:
    """A model, or every folder that a glob names ("RUN/checkpoint-*"), in the order of their numbers."""
    from glob import glob

    if not any(sign in name for sign in "*?["):
        return [name]
    found = [path for path in glob(name) if Path(path).is_dir()]
    if not found:
        from ..errors import MissingData

        raise MissingData(f"no folder matches {name!r}")
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in path.split("-")])
