"""The files of Search-QA as a dataset plug-in: question files of any public copy, and a corpus where one is given.

Leaves out what a question is (`questions`) and what is played (`splits`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from agentbench.datasets import Dataset, ImportReport, Progress, Source, dataset_dir, missing_data
from agentbench.errors import CorruptData
from agentbench.retrieval.passages import Passages, read_passages, write_passages

from .metrics import normal_form
from .questions import SETS, TRAINING, Question, question_of, read_records, role_of, set_of, to_record

NAME = "search-qa"
CORPUS = "corpus.jsonl"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def find_files(src: Path) -> dict[str, list[Path]]:
    """Return the question files of a folder by set or training file; of test and dev, test where there is one.

    A file belongs to the set that its name, or a folder around it, begins with: `nq.jsonl`, `nq/test.jsonl`,
    `nq-test.jsonl`, `hotpotqa_nosupport.jsonl.gz`. One whose records name their sets (`data_source`, `dataset`),
    such as the prepared `train.parquet` and `test.parquet` of the field, belongs to all of them.
    """
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    paths = [src] if src.is_file() else sorted(path for path in src.rglob("*") if path.is_file())
    for path in paths:
        if path.name.endswith(_SUFFIXES) and not path.name.startswith("corpus"):
            for owner in [_owner(path, src)] if _owner(path, src) else _named_sets(path):
                found[owner][role_of(path)].append(path)
    chosen = {}
    for owner in SETS:
        roles = found[owner]
        if roles["train"] and f"{owner}-train" in TRAINING:
            chosen[f"{owner}-train"] = roles["train"]
        if questions := roles["test"] or roles["dev"]:
            chosen[owner] = questions
    return chosen


def _owner(path: Path, src: Path) -> str:
    around = path.relative_to(src).parts[:-1] if src.is_dir() else ()
    for name in (path.name.split(".")[0], *reversed(around)):
        parts = name.lower().replace("_", "-").split("-")
        for size in range(len(parts), 0, -1):
            if owner := set_of("-".join(parts[:size])) or set_of("_".join(parts[:size])):
                return owner
    return ""


def _named_sets(path: Path) -> list[str]:
    """Sets that a file's records name; [] where the first record names none."""
    named: dict[str, None] = {}
    for record, _ in read_records(path):
        name = _set_named_by(record)
        if not name and not named:
            return []
        named[name] = None
    return [name for name in SETS if name in named]


def _set_named_by(record: Mapping[str, Any]) -> str:
    return set_of(str(record.get("dataset") or record.get("data_source") or ""))


def import_dir(src: Path, dest: Path, progress: Progress) -> ImportReport:
    """Store every question file and the corpus in `src`, in one form.

    Args:
        src: folder or file; see `find_files`; a corpus is named corpus.jsonl or corpus.jsonl.gz.
        dest: empty folder to fill.
        progress: told how far it is.
    """
    notes = []
    for owner, paths in find_files(src).items():
        questions: dict[str, Question] = {}
        read = 0
        for path in paths:
            for question in _questions(path, owner):
                read += 1
                questions.setdefault(question.id, question)
                if read % 1000 == 0:
                    progress(read, 0, f"{owner} questions")
        if read > len(questions):
            notes.append(f"{owner}: {read - len(questions)} repeated questions left out")
        (dest / f"{owner}.jsonl").write_bytes(
            b"".join(orjson.dumps(to_record(item)) + b"\n" for item in questions.values())
        )
    for name in (CORPUS, f"{CORPUS}.gz"):
        if src.is_dir() and (src / name).is_file():
            write_passages(dest / CORPUS, read_passages(src / name))
            break
    return _report(dest, notes)


def _questions(path: Path, owner: str) -> Iterator[Question]:
    """Read a file; records that name another set than the file's owner are left to that set's own file."""
    for record, where in read_records(path):
        named = _set_named_by(record)
        if not named or named == owner.removesuffix("-train"):
            yield question_of(record, owner, where)


def verify(folder: Path, progress: Progress) -> ImportReport:
    """Read everything again."""
    problems = []
    for name in _present(folder):
        try:
            list(_questions(folder / f"{name}.jsonl", name))
        except CorruptData as error:
            problems.append(str(error))
    if (folder / CORPUS).is_file():
        try:
            for number, _ in enumerate(Passages.open(folder / CORPUS, progress=progress)):
                if number % 10_000 == 0:
                    progress(number, 0, "passages")
        except CorruptData as error:
            problems.append(str(error))
    return ImportReport({}, problems=problems) if problems else _report(folder, [])


def _present(folder: Path) -> list[str]:
    return [name for name in (*SETS, *TRAINING) if (folder / f"{name}.jsonl").is_file()]


def _report(folder: Path, notes: list[str]) -> ImportReport:
    counts: dict[str, int] = {}
    for name in _present(folder):
        questions = list(_questions(folder / f"{name}.jsonl", name))
        counts[name] = len(questions)
        if name in SETS and len(questions) < SETS[name]:
            notes.append(f"{name}: {len(questions)} of {SETS[name]} official questions")
        if empty := [item.id for item in questions if any(not normal_form(gold) for gold in item.answers)]:
            notes.append(f"{name}: any answer covers the gold of {', '.join(empty)}")
    if (folder / CORPUS).is_file():
        counts["passages"] = len(Passages.open(folder / CORPUS))
    return ImportReport(counts, notes)


def stored(name: str) -> MappingProxyType[str, Question]:
    """Return the imported questions of a set or training file by task id, in the order of their file.

    Raises: MissingData: it was not imported.
    """
    return _stored(name, dataset_dir(NAME))


@lru_cache(maxsize=32)
def _stored(name: str, folder: Path) -> MappingProxyType[str, Question]:
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise missing_data(NAME, f"the questions of {name!r}")
    return MappingProxyType({item.id: item for item in _questions(path, name)})


def corpus_file() -> Path:
    """Where the imported corpus is.

    Raises: MissingData: none was imported.
    """
    path = dataset_dir(NAME) / CORPUS
    if not path.is_file():
        raise missing_data(
            NAME, "a corpus for the public questions (corpus=FILE and retriever=URL name others)"
        )
    return path


_COPY = "https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets/resolve/main"
_PUBLISHED = (
    ("nq", "test"), ("triviaqa", "test"), ("popqa", "test"), ("hotpotqa", "dev"), ("2wikimultihopqa", "dev"),
    ("musique", "dev"), ("bamboogle", "test"), ("nq", "train"), ("hotpotqa", "train"),
)  # fmt: skip


def _sources(files: Iterable[tuple[str, str]]) -> tuple[Source, ...]:
    return tuple(Source(f"{_COPY}/{name}/{role}.jsonl", "", f"{name}-{role}.jsonl") for name, role in files)


def _dataset(**values: Any) -> Dataset:
    return Dataset(id=NAME, version="1", import_dir=import_dir, verify=verify, **values)


DATASET = _dataset(
    description="Search-QA: NQ, TriviaQA, PopQA, HotpotQA, 2WikiMultiHopQA, MuSiQue, Bamboogle; a corpus by import",
    licence="per set: CC BY-SA (NQ, HotpotQA), Apache-2.0 (2Wiki, TriviaQA), CC BY (MuSiQue), MIT (PopQA, Bamboogle)",
    sources=_sources(_PUBLISHED),
)
"""The plug-in. The copy that is fetched publishes no checksums; contents are checked question by question."""
