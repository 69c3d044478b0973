"""A retriever over HTTP, for trainers and checkpoints of others too: `/retrieve` as Search-R1 and verl-agent ask it.

| path | request | answer |
|---|---|---|
| POST /retrieve | queries (list) or query (text), topk, return_scores | result: per query a list of {document, score} |
| GET /health | | service, status, engine, index (its hash), passages, topk |

Searching runs in threads. Whatever is wrong with a request is answered in JSON, and the server goes on.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import EnvFailure, UsageError, missing_dependency
from .client import SERVICE
from .contract import MAX_K, MAX_QUERY, Hit, Refused, Retriever
from .passages import Passages

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_QUERIES = 4096
MAX_BODY = 1 << 26
"""Longest request that is read: 64 MiB."""

TOP_K = 3
_GRACE_SECONDS = 3


class _Wrong(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_installed() -> None:
    """Raises: MissingDependency: the packages of the extra `search` are not there."""
    for package in ("starlette", "uvicorn"):
        try:
            __import__(package)
        except ImportError as error:
            raise missing_dependency(package, "search", "serving a retriever") from error


def make_app(
    retriever: Retriever, *, top_k: int = TOP_K, facts: Mapping[str, Any] | None = None
) -> Starlette:
    """Build the application.

    Args:
        retriever: what answers.
        top_k: passages for requests that do not say how many.
        facts: added to what `/health` says.
    Raises: UsageError: top_k is out of range. MissingDependency: starlette is not installed.
    """
    _check_top_k(top_k)
    check_installed()
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    async def retrieve(request: Request) -> Response:
        asked = _read(await _body(request), top_k)
        try:
            lists = await run_in_threadpool(retriever.search, asked["queries"], asked["k"])
        except Refused as error:
            raise _Wrong(422, str(error)) from error
        except EnvFailure as error:
            raise _Wrong(503, str(error)) from error
        result = [[_shown(hit, asked["scores"]) for hit in hits] for hits in lists]
        return _answer(200, {"result": result, "index": retriever.digest})

    async def health(request: Request) -> Response:
        known = {"service": SERVICE, "status": "ok", "engine": retriever.name, "index": retriever.digest}
        return _answer(200, {**known, "topk": top_k, **(facts or {})})

    async def wrong(request: Request, error: Exception) -> Response:
        status = getattr(error, "status", 500)
        return _answer(status, {"error": str(error) if status != 500 else f"{type(error).__name__}: {error}"})

    async def refused(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        message = f"{request.method} {request.url.path}: {getattr(error, 'detail', error)}"
        return _answer(status, {"error": f"{message}; ask POST /retrieve or GET /health"})

    return Starlette(
        routes=[Route("/retrieve", retrieve, methods=["POST"]), Route("/health", health, methods=["GET"])],
        exception_handlers={_Wrong: wrong, HTTPException: refused, Exception: wrong},
    )


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= MAX_K:
        raise UsageError(f"--top-k must be a whole number from 1 to {MAX_K}, got {top_k!r}")


def _answer(status: int, value: Any) -> Response:
    from starlette.responses import Response

    return Response(orjson.dumps(value), status, media_type="application/json")


def _shown(hit: Hit, scores: bool) -> dict[str, Any]:
    passage = hit.passage
    document = {"id": passage.id, "contents": passage.contents, "title": passage.title, "text": passage.text}
    return {"document": document, "score": hit.score} if scores else document


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise _Wrong(413, f"a request may hold {MAX_BODY} bytes")
    return bytes(data)


def _read(data: bytes, top_k: int) -> dict[str, Any]:
    """Take a request apart: queries, k and whether scores are wanted."""
    try:
        try:
            asked = orjson.loads(data)
        except orjson.JSONDecodeError:
            asked = json.loads(data)  # takes escapes of lone surrogates
    except (ValueError, RecursionError) as error:
        raise _Wrong(400, f"the request is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise _Wrong(422, f"the request must be a JSON object, got {type(asked).__name__}")
    scores = asked.get("return_scores", False)
    if scores is not None and not isinstance(scores, bool):
        raise _Wrong(422, f"return_scores must be true or false, got {scores!r:.80}")
    return {"queries": _queries(asked), "k": _k(asked.get("topk"), top_k), "scores": bool(scores)}


def _queries(asked: Mapping[str, Any]) -> list[str]:
    many, one = asked.get("queries"), asked.get("query")
    if (many is None) == (one is None):
        raise _Wrong(422, 'give "queries" (a list of texts) or "query" (one text)')
    queries = [one] if many is None else many
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise _Wrong(422, '"queries" must be a list of texts, "query" one text')
    if len(queries) > MAX_QUERIES:
        raise _Wrong(413, f"{len(queries)} queries; at most {MAX_QUERIES} in one request")
    longest = max(map(len, queries), default=0)
    if longest > MAX_QUERY:
        raise _Wrong(422, f"a query has {longest} characters; at most {MAX_QUERY} are allowed")
    return queries


def _k(value: Any, default: int) -> int:
    if value is None or (value == 0 and not isinstance(value, bool)):
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_K:
        raise _Wrong(422, f"topk must be a whole number from 1 to {MAX_K}, got {value!r:.80}")
    return value


# --- running ---


def bound_socket(host: str, port: int) -> socket.socket:
    """Take a port, so that a taken one is told before anything is opened.

    Raises: UsageError: the port is taken, not allowed or no port, or the host is none of this machine's.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be from 0 (any free one) to 65535, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(2048)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; stop what is there, or choose another --port"
        ) from error
    return found


def serve_retriever(
    open_it: Callable[[], Retriever],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    top_k: int = TOP_K,
    report: Callable[[str], None] = print,
) -> int:
    """Open a retriever and answer until interrupted.

    Args:
        open_it: opens the retriever; called once the port is ours.
        host: address to listen on; loopback alone unless another is named.
        port: port; 0 takes a free one.
        top_k: passages for requests that do not say how many.
        report: receives the line that says where the server is.
    Returns: 0 after an interruption.
    Raises: UsageError: the port is taken. MissingDependency, MissingData, CorruptData.
    """
    _check_top_k(top_k)
    check_installed()
    import uvicorn

    with bound_socket(host, port) as place:
        retriever = open_it()
        passages = _passages(retriever)
        count = None if passages is None else len(passages)
        facts = {} if count is None else {"passages": count}
        settings = uvicorn.Config(
            make_app(retriever, top_k=top_k, facts=facts),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        taken = place.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        amount = "" if count is None else f" over {count:,} passages"
        previous = {name: signal.signal(name, _interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            report(
                f"{retriever.name}{amount}, index {retriever.digest[:12]}, at http://{shown}:{taken}; Ctrl-C ends it"
            )
            uvicorn.Server(settings).run(sockets=[place])
        except KeyboardInterrupt:
            pass
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
            retriever.close()
    return 0


def _passages(retriever: Retriever) -> Passages | None:
    """The corpus, where it is here."""
    inner = getattr(retriever, "retriever", retriever)  # behind `Batching`
    found = getattr(inner, "passages", None)
    return found if isinstance(found, Passages) else None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
