"""One HTTP client for all endpoints: retries, limits, time limits, counters, and a key that never leaves the header.

Requests run side by side on an event loop in a thread of their own, so whatever is answered can be taken at once.
Leaves out what is said over the wire (`openai`, `vllm.wire`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import orjson

from ..errors import EngineFailure, UsageError

_T = TypeVar("_T")
_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LONGEST_ASKED_WAIT = 300.0
_SHOWN = 300


class RequestRefused(EngineFailure):
    """The server understood the request and will not answer it; asking again would not help.

    Attributes:
        status: HTTP status.
        code: the error code of the body, "" when it has none.
        reason: the server's own words, cut short.
    """

    def __init__(self, url: str, status: int, code: str, reason: str) -> None:
        """Say who refused, and why."""
        super().__init__(f"{url} answered {status}: {reason}")
        self.status, self.code, self.reason = status, code, reason


class ServerUnavailable(EngineFailure):
    """No usable answer, however often it was asked."""


@dataclass(slots=True)
class Usage:
    """What a client has used so far.

    Attributes:
        requests: sent, repetitions included.
        retries: repetitions by reason: rate_limit, server_error, connection, timeout, malformed.
        failures: requests that were given up.
        seconds: waited for answers, summed over requests that overlap.
        prompt_tokens: as the server counts them; so are `completion_tokens`.
        cost: tokens times prices, in the currency of the prices.
    """

    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def totals(self) -> dict[str, float]:
        """All numbers under flat names, for the records."""
        found: dict[str, float] = {
            "requests": self.requests,
            "failures": self.failures,
            "seconds": round(self.seconds, 3),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
        found |= {f"retries_{kind}": count for kind, count in sorted(self.retries.items())}
        return found if self.cost is None else {**found, "cost": self.cost}


@dataclass(frozen=True, slots=True)
class _Trouble(Exception):
    """An attempt that failed and may be repeated: the kind, what to tell, and how long the server wants us to wait."""

    kind: str
    message: str
    wait: float | None = None


class HttpClient:
    """Talks JSON to one server; may be used from any thread.

    Attributes:
        base_url: without a trailing slash.
        usage: counters.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None = None,
        request_timeout: float = 600.0,
        retries: int = 8,
        max_in_flight: int = 64,
        requests_per_minute: float | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        """Connect lazily.

        Args:
            base_url: such as http://localhost:8000/v1.
            api_key_env: name of the environment variable that holds the key; None or an unset one sends no key.
            request_timeout: seconds for one attempt.
            retries: repetitions of one request, with growing pauses (0.5 s, doubling, at most 30 s, or as long as
                the server asks).
            max_in_flight: requests at a time.
            requests_per_minute: most requests started in a minute, evenly spaced; None is unlimited.
            prices: "prompt" and "completion", per million tokens; None counts no cost.
        Raises: UsageError: a value makes no sense.
        """
        self.base_url = checked_url(base_url)
        if request_timeout <= 0 or retries < 0 or max_in_flight < 1:
            raise UsageError(
                "request_timeout must be positive, retries at least 0 and max_in_flight at least 1; "
                f"got {request_timeout}, {retries} and {max_in_flight}"
            )
        if requests_per_minute is not None and requests_per_minute <= 0:
            raise UsageError(f"requests_per_minute must be positive, got {requests_per_minute}")
        if prices is not None and set(prices) != {"prompt", "completion"}:
            raise UsageError(
                f"prices needs the keys prompt and completion (per million tokens), got {sorted(prices)}"
            )
        self.usage = Usage(cost=None if prices is None else 0.0)
        self._prices = prices
        self._key = os.environ.get(api_key_env, "") if api_key_env else ""
        self._timeout, self._retries, self._limit = request_timeout, retries, max_in_flight
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="http", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        """Keep the connections open until `close`; then drop what is under way."""
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._room = asyncio.Semaphore(self._limit)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self._limit, max_keepalive_connections=self._limit)
        timeout = httpx.Timeout(self._timeout, connect=_CONNECT_SECONDS, pool=None)
        # A proxy of the environment would be asked for this machine's addresses too, where it finds another server.
        own = is_loopback(self.base_url)
        async with httpx.AsyncClient(
            headers=headers, limits=limits, timeout=timeout, trust_env=not own
        ) as self._http:
            self._ready.set()
            await self._closing.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    # --- asking ------------------------------------------------------------------------------------------------------

    def start(
        self, path: str, body: Any, read: Callable[[Any], _T], *, retries: int | None = None
    ) -> Future[_T]:
        """Post a request and return at once.

        Args:
            path: below `base_url`, starting with a slash.
            body: JSON value.
            read: takes what is wanted out of the answer; KeyError, TypeError, ValueError or IndexError count as a
                malformed answer, and the request is repeated.
            retries: instead of the client's own.
        Returns: a future of what `read` returned; it raises RequestRefused or ServerUnavailable. Cancel it to stop.
        """
        return self._run(self._ask("POST", path, body, read, self._retries if retries is None else retries))

    def post(self, path: str, body: Any, *, retries: int | None = None) -> Any:
        """Post a request and wait for the answer."""
        return self.start(path, body, lambda answer: answer, retries=retries).result()

    def get(self, path: str, *, retries: int | None = None) -> Any:
        """Get a resource and wait for it."""
        count = self._retries if retries is None else retries
        return self._run(self._ask("GET", path, None, lambda answer: answer, count)).result()

    def _run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, method: str, path: str, body: Any, read: Callable[[Any], _T], retries: int) -> _T:
        data = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        for attempt in range(retries + 1):
            try:
                async with self._room:
                    await self._take_turn()
                    return await self._attempt(method, path, data, read)
            except RequestRefused:
                self.usage.failures += 1
                raise
            except _Trouble as trouble:
                asked = trouble.wait or 0.0
                if attempt == retries or asked > _LONGEST_ASKED_WAIT:
                    self.usage.failures += 1
                    raise ServerUnavailable(self._given_up(path, trouble, attempt + 1)) from None
                self.usage.retries[trouble.kind] += 1
                self._next_start = max(self._next_start, time.monotonic() + asked)
                await asyncio.sleep(asked + self._pause(attempt))
        raise AssertionError("unreachable")

    def _pause(self, attempt: int) -> float:
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt)
        return longest * random.uniform(0.5, 1.0)

    def _given_up(self, path: str, trouble: _Trouble, attempts: int) -> str:
        asked = f"; it asks to wait {trouble.wait:.0f} s" if trouble.wait is not None else ""
        return f"{self.base_url}{path} gave no usable answer in {attempts} attempts; the last: {trouble.message}{asked}"

    async def _take_turn(self) -> None:
        """Wait until the next request may start: requests are spaced evenly, and a server's wish to wait binds all."""
        while (now := time.monotonic()) < self._next_start:
            await asyncio.sleep(self._next_start - now)
        self._next_start = now + self._spacing

    async def _attempt(self, method: str, path: str, data: bytes | None, read: Callable[[Any], _T]) -> _T:
        began = time.monotonic()
        self.usage.requests += 1
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._http.request(method, self.base_url + path, content=data, headers=headers)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Trouble("timeout", f"no answer within {self._timeout:g} s") from error
        except httpx.TransportError as error:
            raise _Trouble("connection", self._clean(f"{type(error).__name__}: {error}")) from error
        finally:
            self.usage.seconds += time.monotonic() - began
        if answer.status_code >= 300:
            raise self._refusal(path, answer)
        try:
            value = orjson.loads(answer.content) if answer.content.strip() else None
            self._count(value)
            return read(value)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _Trouble(
                "malformed", f"malformed answer: {type(error).__name__}: {error}"[:_SHOWN]
            ) from error

    def _refusal(self, path: str, answer: httpx.Response) -> RequestRefused | _Trouble:
        """Tell answers that may change when asked again from those that will not."""
        status = answer.status_code
        code, reason = _error_text(answer)
        reason = self._clean(reason)
        if status == 429 and code != "insufficient_quota":
            return _Trouble("rate_limit", f"status 429: {reason}", _retry_after(answer))
        if status >= 500 or status in (408, 425):
            return _Trouble("server_error", f"status {status}: {reason}", _retry_after(answer))
        return RequestRefused(self.base_url + path, status, code, reason)

    def _clean(self, text: str) -> str:
        """Cut a server's words short, and take the key out should they repeat it."""
        text = text.replace(self._key, "(key)") if self._key else text
        return " ".join(text.split())[:_SHOWN]

    def _count(self, answer: Any) -> None:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if not isinstance(usage, dict):
            return
        prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        if self._prices is not None and self.usage.cost is not None:
            self.usage.cost += (
                prompt * self._prices["prompt"] + completion * self._prices["completion"]
            ) / 1e6

    def close(self) -> None:
        """Drop what is under way and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()


def checked_url(text: str) -> str:
    """Check an http address and drop a trailing slash.

    Raises: UsageError: it is none, or holds a password.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(
            f"base_url {text!r} is no address: {error}; an example: http://localhost:8000/v1"
        ) from error
    if url.userinfo:
        raise UsageError(
            "base_url holds a name or password; put the key in an environment variable (api_key_env)"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"base_url {text!r} is no http address; an example: http://localhost:8000/v1")
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = httpx.URL(url).host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _error_text(answer: httpx.Response) -> tuple[str, str]:
    """Error code and message of an answer, in the shapes that servers use."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return "", answer.text or answer.reason_phrase
    if isinstance(body, dict):
        error = body.get("error", body)
        if isinstance(error, dict):
            code = error.get("code") or error.get("type") or ""
            return str(code), str(error.get("message") or error.get("detail") or error)
        return "", str(error)
    return "", str(body)


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds the server asks to wait: a number or a date; None when it does not say."""
    text = answer.headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
