"""What commands share on the way out: JSON, options of the form key=value, progress bars on terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..datasets import Progress
    from ..types import Trajectory


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    from ..runs.files import encode_json

    sys.stdout.write(encode_json(value).decode())


def note(text: str) -> None:
    """Say something in passing, on stderr."""
    from ..foreign import printable

    print(f"note: {printable(text)}", file=sys.stderr)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; plain text, so that other programs can read it."""
    from ..foreign import printable

    cells = [list(columns), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def key_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Read repeated `key=value` options; values are YAML.

    Raises: ConfigError: one is not of that form.
    """
    from ..config import parse_yaml
    from ..errors import ConfigError
    from ..foreign import printable

    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        shown = printable(pair, 200)
        if not key or not equals:
            raise ConfigError(f"{option} {shown!r} is not of the form key=value")
        values[key] = parse_yaml(text, f"{option} {shown!r}: the value")
    return values


@contextmanager
def file_progress() -> Iterator[Progress]:
    """Show files and bytes on a terminal; say nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total or None)

        yield show


@contextmanager
def episode_progress() -> Iterator[Any]:
    """Show episodes, successes and errors on a terminal; say nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        counts = {"won": 0, "played": 0, "errors": 0}

        def show(episode: Trajectory | None, done: int, total: int) -> None:
            if episode is not None:
                counts["played"] += episode.ok
                counts["won"] += bool(episode.success)
                counts["errors"] += not episode.ok
            bar.update(task, completed=done, total=total, description=_tally(counts))

        yield show


def _tally(counts: Mapping[str, int]) -> str:
    errors = f", {counts['errors']} errors" if counts["errors"] else ""
    return f"{counts['won']} of {counts['played']} solved{errors}"
