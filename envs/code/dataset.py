"""The published code benchmarks on disk: import, check, fetch, and the splits that they make. Judges nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from agentbench.datasets import Dataset, ImportReport, Progress, Source, dataset_dir, missing_data
from agentbench.errors import CorruptData, UnknownName, unknown_name

from . import generate
from .formats import NOTES, Record, numbered, read_records, read_task
from .tasks import Task

NAME = "code"


@dataclass(frozen=True)
class Published:
    """One benchmark as a split: names its file goes by, what `formats` calls it, and how many tasks are official."""

    files: tuple[str, ...]
    prefix: str
    size: int


PUBLISHED: dict[str, Published] = {
    "humaneval": Published(("HumanEval.jsonl", "HumanEval.jsonl.gz"), "humaneval", 164),
    "humaneval-plus-seed": Published(("humaneval_plus_seed.jsonl",), "humaneval-plus", 164),
    "mbpp": Published(("mbpp.jsonl",), "mbpp", 974),
    "mbpp-challenge": Published(("mbpp.jsonl",), "mbpp-challenge", 0),
    "mbpp-sanitized": Published(("sanitized-mbpp.json",), "mbpp-sanitized", 427),
    "mbpp-plus": Published(("mbpp_plus.jsonl", "MbppPlus.jsonl"), "mbpp-plus", 399),
    "livecodebench-v1-public": Published(("livecodebench_v1_public.jsonl",), "livecodebench", 400),
}
"""Splits that need files. mbpp-challenge: the tasks of MBPP that have further tests, judged by all of them."""

SPLITS = (*generate.SPLITS, *PUBLISHED)


def import_dir(src: Path, dest: Path, progress: Progress) -> ImportReport:
    """Read every benchmark file in a folder, or one file, check each task, and store them under their ids."""
    found = 0
    for split, item in PUBLISHED.items():
        path = _find(src, item)
        if path is None:
            continue
        records = read_records(path)
        if split == "mbpp-challenge":
            records = _challenging(records)
        lines = []
        for place, (task_id, record) in enumerate(numbered(records, item.prefix)):
            read_task(record)
            lines.append(orjson.dumps({"id": task_id, "record": record}))
            progress(place + 1, len(records), split)
        if lines:
            (dest / f"{split}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        found += 1
    if not found:
        shutil.rmtree(dest, ignore_errors=True)
        dest.mkdir(exist_ok=True)
        return ImportReport({})
    return _report(dest)


def _challenging(records: Sequence[Record]) -> list[Record]:
    """Tasks with a `challenge_test_list`, which moves behind their other tests."""
    return [
        {**each, "test_list": [*each["test_list"], *more], "challenge_test_list": []}
        for each in records
        if (more := each.get("challenge_test_list"))
    ]


def _find(src: Path, item: Published) -> Path | None:
    if src.is_file():
        return src if src.name in item.files else None
    return next((src / name for name in item.files if (src / name).is_file()), None)


def verify(folder: Path, progress: Progress) -> ImportReport:
    """Read every stored task again and compare it with its id."""
    problems = []
    for split in _present(folder):
        try:
            stored = _stored(folder / f"{split}.jsonl")
            again = dict(numbered(list(stored.values()), PUBLISHED[split].prefix))
            if list(again) != list(stored):
                changed = next(old for old, new in zip(stored, again, strict=False) if old != new)
                problems.append(f"{split}: task {changed} has changed on disk; import it again")
            for place, record in enumerate(stored.values()):
                read_task(record)
                progress(place + 1, len(stored), split)
        except (CorruptData, ValueError, KeyError) as error:
            problems.append(f"{split}: {error}")
    return ImportReport({}, problems=problems) if problems else _report(folder)


def _present(folder: Path) -> list[str]:
    return [split for split in PUBLISHED if (folder / f"{split}.jsonl").is_file()]


def _report(folder: Path) -> ImportReport:
    counts, notes = {}, []
    for split in _present(folder):
        stored = _stored(folder / f"{split}.jsonl")
        counts[split] = len(stored)
        size = PUBLISHED[split].size
        if size and len(stored) != size:
            notes.append(f"{split}: {len(stored)} of {size} official tasks")
        for task_id, record in stored.items():
            number = task_id.partition("@")[0]
            if defect := read_task(record).defect:
                notes.append(f"{number} is left out of the split: {defect}")
            elif number in NOTES:
                notes.append(f"{number}: {NOTES[number]}")
    return ImportReport(counts, notes)


def _stored(path: Path) -> dict[str, Record]:
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = orjson.loads(line)
            found[str(entry["id"])] = entry["record"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise CorruptData(
                f"{path} line {number} is broken ({error}); run: agentbench data import {NAME} DIR --replace"
            ) from error
    return found


@lru_cache(maxsize=len(PUBLISHED))
def _loaded(path: Path, changed: int) -> Mapping[str, Record]:
    return _stored(path)


def _records(split: str) -> Mapping[str, Record]:
    path = dataset_dir(NAME) / f"{split}.jsonl"
    if not path.is_file():
        raise missing_data(NAME, path.name)
    return _loaded(path, path.stat().st_mtime_ns)


def tasks(split: str) -> list[str]:
    """Ordered task ids of a split; tasks that no program can pass are left out.

    Raises: UnknownName: no such split. MissingData: its file was not imported.
    """
    if split in generate.SPLITS:
        return generate.task_ids(split)
    if split not in PUBLISHED:
        raise unknown_name("split of code", split, SPLITS)
    return [task_id for task_id, record in _records(split).items() if not _read(task_id, record).defect]


@lru_cache(maxsize=4096)
def find_task(task_id: str) -> Task:
    """Load one task by its id, generated or published.

    Raises: UnknownName: there is none. MissingData: its file was not imported.
    """
    if task_id.startswith("made/"):
        return generate.make_task(task_id)
    for split, item in PUBLISHED.items():
        if task_id.startswith(f"{item.prefix}/"):
            records = _records(split)
            if task_id in records:
                return _read(task_id, records[task_id])
    raise UnknownName(
        f"no code task {task_id!r}; ids look like 'humaneval/0@1a2b3c4d' or 'made/calls/list/blend/sort/sum'"
    )


def _read(task_id: str, record: Record) -> Task:
    task = read_task(record)
    return replace(task, id=task_id, stratum=task.stratum or task.benchmark)


_HUB: Any = "https://raw.githubusercontent.com"

DATASET = Dataset(
    id=NAME,
    version="1",
    import_dir=import_dir,
    verify=verify,
    description="HumanEval and MBPP (fetch); HumanEval+ seeds, MBPP+ and LiveCodeBench by import",
    licence="HumanEval MIT, MBPP CC BY 4.0, EvalPlus Apache-2.0, LiveCodeBench: see its authors",
    sources=(
        Source(f"{_HUB}/openai/human-eval/master/data/HumanEval.jsonl.gz", "", "HumanEval.jsonl.gz"),
        Source(f"{_HUB}/google-research/google-research/master/mbpp/mbpp.jsonl", "", "mbpp.jsonl"),
        Source(
            f"{_HUB}/google-research/google-research/master/mbpp/sanitized-mbpp.json",
            "",
            "sanitized-mbpp.json",
        ),
    ),
)
"""The plug-in. The published files carry no digests; the import checks every task."""
