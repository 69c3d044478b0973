"""HTTP connections to one retriever, in a loop of their own: only there does one limit of time bound a whole exchange.

A client that blocks can bound each piece it reads, so a server that drips its headers is waited for without end.
Leaves out what is asked, what answers mean and what is asked again (`client`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import httpx
import orjson

from ..engines.settings import is_loopback
from ..errors import EnvFailure

MAX_BYTES = 1 << 28
"""Longest answer that is read: 256 MiB."""

_CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_GRACE = 5.0  # seconds beyond the limit after which the loop itself counts as gone


class Unanswered(Exception):
    """No whole answer came; says why."""


class Connections:
    """Open connections; may be used from any thread."""

    def __init__(self, base_url: str, *, kept: int) -> None:
        """Keep up to `kept` idle connections to the server."""
        self.base_url = base_url
        self._closed = False
        self._http = httpx.AsyncClient(
            # a proxy of the environment would catch calls to this machine too, and answer in the server's place
            trust_env=not is_loopback(base_url),
            verify=base_url.startswith("https:"),  # certificates take a tenth of a second to load
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=kept),
            follow_redirects=False,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="retriever", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def exchange(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        """Send one request and read the whole answer: (status, bytes).

        Args:
            method: of HTTP.
            path: on the server.
            body: sent as JSON; None sends nothing.
            seconds: for all of it.
        Raises: Unanswered: silence, a drip, a cut or an answer without end. EnvFailure: closed while asked.
        """
        closed = EnvFailure(f"the connection to {self.base_url} is closed")
        if self._closed:
            raise closed
        work = self._exchange(method, path, body, seconds)
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds + _GRACE)
        except (concurrent.futures.CancelledError, TimeoutError, RuntimeError) as error:
            raise closed from error

    async def _exchange(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        timeout = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        data = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(
                    method, self.base_url + path, content=content, headers=headers, timeout=timeout
                ) as answer,
            ):
                async for piece in answer.aiter_bytes():
                    data += piece
                    if len(data) > MAX_BYTES:
                        raise Unanswered(f"the answer is longer than {MAX_BYTES} bytes")
                return answer.status_code, bytes(data)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unanswered(f"no whole answer within {seconds:g} s") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Drop the connections and what is under way."""
        if self._closed:
            return
        self._closed = True
        done = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        concurrent.futures.wait([done], timeout=_CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()
