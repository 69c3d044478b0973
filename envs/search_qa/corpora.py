"""Retrievers by configuration, opened once for all envs of a process, with the queries of all episodes gathered.

Generated questions are searched for in their own world, public ones in the imported corpus or in the user's. Leaves out
how passages are found (`agentbench.retrieval`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from agentbench.errors import ConfigError
from agentbench.retrieval.batching import Batching
from agentbench.retrieval.contract import Retriever
from agentbench.retrieval.open import open_retriever

from .dataset import corpus_file
from .world.encyclopaedia import world

_lock = threading.Lock()
_open: dict[str, Retriever] = {}


def settings_of(retriever: str | Mapping[str, Any], corpus: str | None) -> dict[str, Any]:
    """Read the env's options `retriever` and `corpus` into keyword arguments of `open_retriever`.

    Args:
        retriever: a kind ("bm25", "dense"), the address of a server, or a mapping with the key `kind` and settings.
        corpus: a JSONL file of passages; None takes the world's own, or the imported one.
    Raises: ConfigError: neither text nor mapping, or a corpus for a server that has its own.
    """
    if isinstance(retriever, str):
        url = retriever.startswith(("http://", "https://"))
        found: dict[str, Any] = {"kind": "client", "base_url": retriever} if url else {"kind": retriever}
    elif isinstance(retriever, Mapping):
        found = {"kind": "bm25", **retriever}
    else:
        raise ConfigError(
            f"retriever of search-qa must be a kind, an address or a mapping with 'kind', got {retriever!r}"
        )
    if corpus is not None:
        if found["kind"] == "client":
            raise ConfigError(
                f"corpus={corpus!r} would be ignored: the server {found.get('base_url')} has its own"
            )
        found["corpus"] = corpus
    return found


def retriever_for(world_name: str, settings: Mapping[str, Any]) -> Retriever:
    """Return the retriever for questions about a world, or, with "", for public questions.

    Raises: MissingData: no corpus was imported or named. UsageError: a setting is wrong.
    """
    own = world_name if settings["kind"] != "client" and "corpus" not in settings else ""
    values = dict(settings)
    if settings["kind"] != "client" and "corpus" not in settings:
        values["corpus"] = own or str(corpus_file())
    key = json.dumps(values, sort_keys=True, default=str)
    with _lock:
        if key not in _open:
            if own and dict(settings) == {"kind": "bm25"}:
                found = world(own).retriever
            else:
                found = open_retriever(**({**values, "corpus": world(own).passages} if own else values))
            _open[key] = Batching(found)
        return _open[key]


def forget_retrievers() -> None:
    """Drop all retrievers and the answers they keep; the next env opens them anew."""
    with _lock:
        for found in _open.values():
            found.close()
        _open.clear()
