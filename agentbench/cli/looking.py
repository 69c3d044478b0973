"""`view`, `plan` and `export`: what was played, what would be, and the same for other people's code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import note


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(view)
    app.command()(plan)
    app.command()(export)


def view(
    run: Annotated[Path, typer.Argument(help="Evaluation, training run, or a file of episodes (.jsonl).")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="page.html; else text is printed.", show_default=False),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only tasks that hold this text; repeatable.")
    ] = None,
    lost: Annotated[bool, typer.Option("--lost", help="Only episodes that did not succeed.")] = False,
    step: Annotated[
        int | None, typer.Option(help="Step of a training run; the newest when left out.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many episodes.")] = 100,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder with the tokenizer; the run's model when left out.", show_default=False),
    ] = None,
) -> int:
    """Look at the episodes of a run, turn by turn: a page with -o, text without."""
    from ..errors import UsageError
    from ..runs.files import write_whole
    from ..runs.view import Pieces, as_html, as_text, choose, read_recorded

    if output is not None and output.suffix not in (".html", ".htm"):
        raise UsageError(f"a page is written as .html, not {output.name!r}")
    source = read_recorded(run, step)
    episodes, notes = choose(source, tasks=task or (), lost=lost, limit=limit)
    for text in notes:
        note(text)
    if output is None:
        print(as_text(episodes), end="")
        return 0
    pieces = Pieces([tokenizer] if tokenizer else source.tokenizers)
    if tokenizer and not pieces:
        raise UsageError(f"--tokenizer: {pieces.missing}")
    write_whole(output, as_html(source, episodes, pieces, notes).encode())
    print(output)
    return 0


def plan(
    config: Annotated[Path, typer.Argument(help="Configuration of a training run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.sub=value ...]", help="Values over those of the file.")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Steps that are told task by task.")] = 1,
) -> int:
    """Say which tasks a training run would play first, and what it comes to; opens its models, plays nothing."""
    from ..training.config import read_config
    from ..training.plan import plan_lines

    for line in plan_lines(read_config(config, overrides or []), steps):
        print(line)
    return 0


def export(
    run: Annotated[Path, typer.Argument(help="Evaluation or training run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of conversations (.jsonl).")],
    won: Annotated[bool, typer.Option("--won", help="Only episodes that succeeded.")] = False,
    step: Annotated[
        int | None, typer.Option(help="Step of a training run; the newest when left out.", show_default=False)
    ] = None,
) -> int:
    """Write a run's episodes as chat messages, a JSON object a line, for other people's training code."""
    import orjson

    from ..errors import UsageError
    from ..evaluation.export import conversations
    from ..runs.files import write_whole

    if output.suffix != ".jsonl":
        raise UsageError(f"conversations are written as .jsonl, not {output.name!r}")
    rows = [orjson.dumps(row) for row in conversations(run, step=step, won=won)]
    if not rows:
        raise UsageError(f"{run} has no episode to export" + (" that succeeded (--won)" if won else ""))
    write_whole(output, b"\n".join(rows) + b"\n")
    print(f"{output}: {len(rows)} conversations")
    return 0
