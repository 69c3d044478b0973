"""`data fetch`, `data import`, `data verify` and `data list`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..foreign import printable
from .output import file_progress, print_json, print_table

if TYPE_CHECKING:
    from ..datasets import ImportReport

_group = typer.Typer(help="Get benchmark files, check them, see what is there.")
_Name = Annotated[str, typer.Argument(help="Data set; see agentbench data list.")]
_Replace = Annotated[bool, typer.Option("--replace", help="Exchange what is there already.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_group, name="data")


@_group.command()
def fetch(name: _Name, replace: _Replace = False, json: _Json = False) -> int:
    """Download a data set from its published source (goes on where it stopped), check it, import it."""
    from ..datasets import dataset, fetch_data

    item = dataset(name)
    with file_progress() as progress:
        report = fetch_data(item, replace=replace, progress=progress)
    return _show(name, report, json)


@_group.command("import")
def import_(
    name: _Name,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder or archive with the files.")],
    replace: _Replace = False,
    json: _Json = False,
) -> int:
    """Take files that are on disk already."""
    from ..datasets import dataset, import_data

    item = dataset(name)
    with file_progress() as progress:
        report = import_data(item, source, replace=replace, progress=progress)
    return _show(name, report, json)


@_group.command()
def verify(name: _Name, json: _Json = False) -> int:
    """Check the files of an imported data set."""
    from ..datasets import dataset, verify_data

    item = dataset(name)
    with file_progress() as progress:
        report = verify_data(item, progress=progress)
    return _show(name, report, json)


@_group.command("list")
def list_(json: _Json = False) -> None:
    """Show the data sets and whether they are there."""
    from ..datasets import data_root
    from ..doctor import data_sets

    found = data_sets()
    if json:
        print_json({"root": str(data_root()), "data": found})
        return
    print(f"root: {data_root()}")
    rows = []
    for name, item in found.items():
        counts = ", ".join(f"{key} {count}" for key, count in item.get("counts", {}).items())
        rows.append((name, item.get("problem") or ("present" if item["present"] else "absent"), counts))
    print_table(("data set", "state", "items"), rows)


def _show(name: str, report: ImportReport, json: bool) -> int:
    if json:
        print_json({"dataset": name, **_plain(report)})
        return 1 if report.problems else 0
    for key, count in report.counts.items():
        print(f"{name} {key}: {count}")
    for note in report.notes:
        print(f"note: {printable(note)}")
    for problem in report.problems:
        print(f"problem: {printable(problem)}", file=sys.stderr)
    return 1 if report.problems else 0


def _plain(report: ImportReport) -> dict[str, object]:
    return {"counts": dict(report.counts), "notes": list(report.notes), "problems": list(report.problems)}
