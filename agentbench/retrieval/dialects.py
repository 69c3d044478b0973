"""What retrieval servers understand and how they answer: three ways to say the same. Leaves out the connection.

| dialect | servers | request | answer |
|---|---|---|---|
| search-r1 | Search-R1, verl, ours | POST /retrieve {queries, topk, return_scores} | {result: [[{document, score}]]} |
| verl-agent | verl-agent, SkyRL, SDAR | POST /retrieve {query, topk, return_scores} | the same with one list |
| flashrag | ReSearch and its kin | POST /batch_search or /search {query, top_n, return_score} | [lists, scores] |

Anything but a well-formed list for each query is an error, so that a fault never passes for a search without results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .contract import Hit
from .passages import passage_of

_PADDING = 3e38
"""faiss fills up with the largest float32 where it found too few; servers then show some passage beside it."""

Body = Callable[[Sequence[str], int], dict[str, Any]]
Read = Callable[[Any, int], list[list[Hit]]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to ask.

    Attributes:
        name: of the family.
        path: below the server's address.
        many: whether one request may hold several queries.
        body: queries, k -> JSON of the request.
        read: JSON of the answer, number of queries -> hits; ValueError says what is malformed.
    """

    name: str
    path: str
    many: bool
    body: Body
    read: Read


def _read_result(answer: Any, count: int) -> list[list[Hit]]:
    if not isinstance(answer, Mapping) or not isinstance(answer.get("result"), list):
        raise ValueError('the answer has no list "result"')
    return [_hits(items) for items in _counted(answer["result"], count)]


def _read_pair(answer: Any, count: int) -> list[list[Hit]]:
    """Read [lists, scores], or bare lists from servers that leave scores out."""
    if (
        isinstance(answer, list)
        and len(answer) == 2
        and _is_scores(answer[1], count)
        and _is_lists(answer[0], count)
    ):
        return [_scored(*pair) for pair in zip(*answer, strict=True)]
    return [_hits(items) for items in _counted(answer, count)]


def _read_one(answer: Any, count: int) -> list[list[Hit]]:
    """Read [documents, scores] or bare documents of one query."""
    if isinstance(answer, list) and len(answer) == 2 and all(isinstance(part, list) for part in answer):
        return [_scored(*answer)]
    return [_hits(answer)]


def _counted(lists: Any, count: int) -> list[Any]:
    if not isinstance(lists, list):
        raise ValueError(f"the answer is {type(lists).__name__}, not a list")
    if len(lists) != count:
        raise ValueError(f"{len(lists)} lists for {count} queries")
    return lists


def _is_scores(value: Any, count: int) -> bool:
    return _is_lists(value, count) and all(_is_number(score) for scores in value for score in scores)


def _is_lists(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(item, list) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scored(documents: Sequence[Any], scores: Sequence[Any]) -> list[Hit]:
    if len(documents) != len(scores):
        raise ValueError(f"{len(scores)} scores for {len(documents)} documents")
    return _hits(
        [{"document": document, "score": score} for document, score in zip(documents, scores, strict=True)]
    )


def _hits(items: Any) -> list[Hit]:
    if not isinstance(items, list):
        raise ValueError(f"a query is answered by {type(items).__name__}, not by a list")
    hits: list[Hit] = []
    for place, item in enumerate(items, 1):
        score: Any = 1 / place  # without scores the order is all there is
        if isinstance(item, Mapping) and "document" in item:
            item, score = item["document"], item.get("score", score)
        if not _is_number(score) or math.isnan(score):
            raise ValueError(f"a score is {score!r}")
        passage = passage_of(item)
        if abs(score) >= _PADDING:
            continue
        if passage.id and any(hit.passage == passage for hit in hits):
            raise ValueError(
                f"passage {passage.id!r} is listed twice for one query, as where an index pads its results"
            )
        hits.append(Hit(passage, float(score)))
    return hits


def _search_r1(queries: Sequence[str], k: int) -> dict[str, Any]:
    # without scores the published server takes apart what it should not: two queries get each other's passages
    return {"queries": list(queries), "topk": k, "return_scores": True}


def _verl_agent(queries: Sequence[str], k: int) -> dict[str, Any]:
    return {"query": queries[0], "topk": k, "return_scores": True}


def _flashrag(queries: Sequence[str], k: int) -> dict[str, Any]:
    return {"query": list(queries), "top_n": k, "return_score": True}


def _flashrag_one(queries: Sequence[str], k: int) -> dict[str, Any]:
    return {"query": queries[0], "top_n": k, "return_score": True}


DIALECTS = (
    Dialect("search-r1", "/retrieve", True, _search_r1, _read_result),
    Dialect("verl-agent", "/retrieve", False, _verl_agent, _read_result),
    Dialect("flashrag", "/batch_search", True, _flashrag, _read_pair),
    Dialect("flashrag", "/search", True, _flashrag, _read_pair),
    Dialect("flashrag", "/search", False, _flashrag_one, _read_one),
)
"""In the order in which they are tried."""
