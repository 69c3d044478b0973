"""Questions: what a task is, and how the seven public sets are read in whatever form their files have.

A task id of a public set reads <set>-<hash>, the hash being of the question and its answers: an id means one task for
ever, whatever file it was read from. Leaves out where files are (`dataset`) and which tasks form a split (`splits`).
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from agentbench.errors import CorruptData, UsageError

from .world.asking import Plan

SETS: dict[str, int] = {
    "nq": 3610,
    "triviaqa": 11313,
    "popqa": 14267,
    "hotpotqa": 7405,
    "2wikimultihopqa": 12576,
    "musique": 2417,
    "bamboogle": 125,
}
"""The public sets with the sizes of their official test splits (dev where the test answers are not public)."""

TRAINING = ("nq-train", "hotpotqa-train")
"""What the field trains on, in this order."""

_ALIASES = {
    "natural_questions": "nq", "nq_open": "nq", "nq-open": "nq", "trivia_qa": "triviaqa", "trivia": "triviaqa",
    "hotpot_qa": "hotpotqa", "hotpot": "hotpotqa", "2wiki": "2wikimultihopqa", "2wikimultihop": "2wikimultihopqa",
    "2wikimultihop_qa": "2wikimultihopqa",
}  # fmt: skip
_ANSWER_KEYS = ("answers", "golden_answers", "answer", "target")


@dataclass(frozen=True, slots=True)
class Question:
    """One task.

    Attributes:
        id: task id.
        stratum: name of its set, or the number of facts of a generated question; the task type of reports.
        text: the question in its own form.
        answers: any of them is right; at least one.
        support: how far the imported corpus can answer it: "context", "gold", "answer" or "none".
        gold_titles: titles of the passages that hold the evidence, where known.
        passages: ids of passages in the imported corpus that hold it.
        plan: what has to be looked up, for generated questions.
        world: name of the world it is about, "" for public sets.
    """

    id: str
    stratum: str
    text: str
    answers: tuple[str, ...]
    support: str = "none"
    gold_titles: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    plan: Plan | None = None
    world: str = ""


def content_hash(text: str, answers: Iterable[str]) -> str:
    """Hash a question and its answers, whose order does not matter: 10 hex digits."""
    parts = [text.strip(), *sorted(set(answers))]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:10]


def set_of(name: str) -> str:
    """The set that a name stands for, "" if none."""
    name = name.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in SETS else ""


def answers_of(value: Any, where: str) -> tuple[str, ...]:
    """Make a list of strings of what a file has as answers.

    Args:
        value: a list, tuple or array of strings, or one bare string, which is one answer.
        where: named in errors.
    Raises: CorruptData: no answer, or something else than text.
    """
    if isinstance(value, Mapping):  # {"target": [...]}, as prepared for training
        value = next((value[key] for key in _ANSWER_KEYS if key in value), None)
    tolist = getattr(value, "tolist", None)
    items = tolist() if callable(tolist) else value
    if isinstance(items, str):
        items = [items]
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise CorruptData(f"{where}: answers must be text or a list of texts, got {value!r:.80}")
    kept = tuple(dict.fromkeys(item for item in items if item.strip()))
    if not kept:
        raise CorruptData(f"{where}: the list of answers is empty; every question needs one")
    return kept


def question_of(record: Mapping[str, Any], set_name: str, where: str) -> Question:
    """Read one record in the form of any of the public copies.

    Args:
        record: `question`, and `answers`, `golden_answers`, `answer` or `reward_model.ground_truth.target`.
        set_name: set, or training file, that it belongs to.
        where: named in errors.
    Raises: CorruptData: no question or no answer.
    """
    text = record.get("question")
    if not isinstance(text, str) or not text.strip():
        raise CorruptData(f"{where} has no question")
    value = next((record[key] for key in _ANSWER_KEYS if record.get(key) is not None), None)
    if value is None and isinstance(record.get("reward_model"), Mapping):
        value = record["reward_model"].get("ground_truth")
    answers = answers_of(value, where)
    return Question(
        id=f"{set_name}-{content_hash(text, answers)}",
        stratum=set_name.removesuffix("-train"),
        text=text.strip(),
        answers=answers,
        support=str(record.get("support") or "none"),
        gold_titles=tuple(map(str, record.get("gold_titles") or ())),
        passages=tuple(map(str, record.get("passages") or ())),
    )


def read_records(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the records of a .jsonl, .jsonl.gz or .parquet file, with where they stand.

    Raises: CorruptData: a line is no JSON object. UsageError: parquet without the package that reads it.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path} line {number}"
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise CorruptData(f"{where} is not JSON: {error}") from error
                if not isinstance(record, dict):
                    raise CorruptData(f"{where} is no JSON object")
                yield record, where
    except (OSError, EOFError) as error:
        raise CorruptData(f"{path} cannot be read: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            f"{path} needs the package 'pyarrow', which is not installed; pip install pyarrow, or give .jsonl"
        ) from error
    for number, record in enumerate(parquet.read_table(path).to_pylist(), 1):
        yield record, f"{path} row {number}"


_TRAIN = re.compile(r"(^|[-_./])train([-_.]|$)")
_TEST = re.compile(r"(^|[-_./])test([-_.]|$)")


def role_of(path: Path) -> str:
    """What a file's name says it is: "train", "test", or "dev" where it says nothing."""
    name = path.name.lower()
    return "train" if _TRAIN.search(name) else "test" if _TEST.search(name) else "dev"


def to_record(question: Question) -> dict[str, Any]:
    """A question as it is stored; `question_of` reads it back."""
    record: dict[str, Any] = {
        "question": question.text,
        "answers": question.answers,
        "support": question.support,
    }
    if question.gold_titles:
        record["gold_titles"] = question.gold_titles
    if question.passages:
        record["passages"] = question.passages
    return record
