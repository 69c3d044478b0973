"""One HTTP client for all endpoints: retries, limits, time limits, counters, and a key that never leaves the header.

Requests run side by side on an event loop in a thread of their own, so whatever is answered can be taken at once.
Leaves out what is said over the wire (`openai`, `vllm.wire`).
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import orjson

from ..errors import ContextFull, EngineFailure, UsageError
from .answers import judge, parse
from .secret import Secret, key_of
from .settings import check_numbers, checked_url, is_loopback, is_number

_T = TypeVar("_T")
_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LONGEST_ASKED_WAIT = 300.0
LOOKUP_SECONDS = 60.0
_SHOWN = 300
_MOST_TOKENS = 2**53
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


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


class ContextRefused(RequestRefused, ContextFull):
    """The server refused because the conversation no longer fits its context."""


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


@dataclass  # not frozen: contextlib sets the traceback of what passes through it
class _Trouble(Exception):
    """An attempt that failed and may be repeated: the kind, what to tell, and how long the server wants us to wait."""

    kind: str
    message: str
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class _Patience:
    """Repetitions of a request, seconds of one attempt, and seconds after which a silent attempt is the last."""

    retries: int
    timeout: float
    seconds: float


class HttpClient:
    """Talks JSON to one server; may be used from any thread.

    Attributes:
        base_url: without a trailing slash.
        request_timeout: seconds for one attempt.
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
        max_answer_bytes: int = 2**30,
        context_words: Sequence[str] = (),
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
            max_answer_bytes: a longer answer, inflated, is malformed.
            context_words: regular expressions by which this server says that a conversation is too long.
        Raises: UsageError: a value makes no sense, or the machine's proxies, certificates or key cannot be used.
        """
        check_numbers(request_timeout, retries, max_in_flight, requests_per_minute, prices)
        self.base_url = checked_url(base_url)
        self.usage = Usage(cost=None if prices is None else 0.0)
        self._prices = prices
        self._secret = Secret(key_of(api_key_env))
        self._largest, self._context_words = max_answer_bytes, tuple(context_words)
        self.request_timeout, self._retries, self._limit = request_timeout, retries, max_in_flight
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self._http = (
            self._connections()
        )  # here, so that whatever is wrong with it is raised and not waited for
        self._ready = threading.Event()
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run_loop, name="http", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._broken is not None:
            raise UsageError(f"the HTTP client cannot start: {type(self._broken).__name__}")

    def _connections(self) -> httpx.AsyncClient:
        headers = {"Accept-Encoding": "identity"}
        if self._secret.key:
            headers["Authorization"] = f"Bearer {self._secret.key}"
        limits = httpx.Limits(max_connections=self._limit, max_keepalive_connections=self._limit)
        timeout = httpx.Timeout(self.request_timeout, connect=_CONNECT_SECONDS, pool=None)
        # A proxy of the environment would be asked for this machine's addresses too, where it finds another server.
        trust = not is_loopback(self.base_url)
        try:
            return httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=trust)
        except Exception as error:  # of httpx, of the proxies' settings, of the certificates: no common class
            raise UsageError(self._cannot_start(error)) from error

    def _cannot_start(self, error: Exception) -> str:
        names = _CERTIFICATES if isinstance(error, OSError) else _PROXIES
        found = [name for name in os.environ if name.upper() in names and os.environ[name]]
        what = ", ".join(sorted(found)) or "its environment"
        reason = f"{type(error).__name__}: {self._secret.clean(str(error), _SHOWN)}"
        if isinstance(error, ImportError):
            reason = "it asks for a SOCKS proxy: pip install 'httpx[socks]'"
        elif names is _PROXIES:
            reason = f"{type(error).__name__}"  # an address may hold a password
        return (
            f"no connection can be made with the environment variable {what}: {reason}; correct or unset it, or name "
            "this server in NO_PROXY"
        )

    def _run_loop(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._broken = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        """Keep the connections open until `close`; then drop what is under way."""
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._room = asyncio.Semaphore(self._limit)
        async with self._http:
            self._ready.set()
            await self._closing.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    # --- asking ------------------------------------------------------------------------------------------------------

    def start(
        self,
        path: str,
        body: Any,
        read: Callable[[Any], _T],
        *,
        retries: int | None = None,
        patience: float = math.inf,
    ) -> Future[_T]:
        """Post a request and return at once.

        Args:
            path: below `base_url`, starting with a slash.
            body: JSON value.
            read: takes what is wanted out of the answer; KeyError, TypeError, ValueError, IndexError or
                AttributeError count as a malformed answer, and the request is repeated.
            retries: instead of the client's own.
            patience: seconds from now after which an attempt without an answer is the last.
        Returns: a future of what `read` returned; it raises RequestRefused or ServerUnavailable. Cancel it to stop.
        """
        count = self._retries if retries is None else retries
        return self._run(
            self._ask("POST", path, body, read, _Patience(count, self.request_timeout, patience))
        )

    def post(self, path: str, body: Any, *, retries: int | None = None) -> Any:
        """Post a request and wait for the answer."""
        return self.start(path, body, lambda answer: answer, retries=retries).result()

    def get(self, path: str, *, retries: int | None = None) -> Any:
        """Look something up and wait for it; what is not sampled is there within a minute or not at all."""
        count = self._retries if retries is None else retries
        how = _Patience(count, min(self.request_timeout, LOOKUP_SECONDS), LOOKUP_SECONDS)
        return self._run(self._ask("GET", path, None, lambda answer: answer, how)).result()

    def _run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, method: str, path: str, body: Any, read: Callable[[Any], _T], how: _Patience) -> _T:
        began = time.monotonic()
        data = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        for attempt in range(how.retries + 1):
            try:
                async with self._room:
                    await self._take_turn()
                    return await self._attempt(method, path, data, read, how.timeout)
            except RequestRefused:
                self.usage.failures += 1
                raise
            except _Trouble as trouble:
                asked = trouble.wait or 0.0
                late = trouble.kind == "timeout" and time.monotonic() - began > how.seconds
                if attempt == how.retries or asked > _LONGEST_ASKED_WAIT or late:
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
        times = f"{attempts} attempt" + "s" * (attempts > 1)
        return f"{self.base_url}{path} gave no usable answer in {times}; the last: {trouble.message}{asked}"

    async def _take_turn(self) -> None:
        """Wait until the next request may start: requests are spaced evenly, and a server's wish to wait binds all."""
        while (now := time.monotonic()) < self._next_start:
            await asyncio.sleep(self._next_start - now)
        self._next_start = now + self._spacing

    async def _attempt(
        self, method: str, path: str, data: bytes | None, read: Callable[[Any], _T], timeout: float
    ) -> _T:
        began = time.monotonic()
        self.usage.requests += 1
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            async with asyncio.timeout(timeout):
                answer, raw = await self._receive(method, path, data, headers)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Trouble("timeout", f"no answer within {timeout:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _Trouble("connection", self.clean(f"{type(error).__name__}: {error}")) from error
        finally:
            self.usage.seconds += time.monotonic() - began
        try:
            value = self._secret.without(parse(raw))
        except ValueError as error:
            if answer.status_code < 300:
                start = self.clean(raw[:_SHOWN].decode(errors="replace"))
                raise _Trouble("malformed", f"malformed answer: no JSON, it begins {start[:80]!r}") from error
            value = None
        self._refuse(path, answer, value, raw)
        try:
            self._count(value)
            return read(value)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise _Trouble("malformed", self.clean(f"malformed answer: {_in_words(error)}")) from error

    async def _receive(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[httpx.Response, bytes]:
        """Send a request and take the answer in, as much of it as is allowed."""
        chunks, size = [], 0
        async with self._http.stream(method, self.base_url + path, content=data, headers=headers) as answer:
            async for chunk in answer.aiter_bytes():  # inflated, whatever the encoding
                chunks.append(chunk)
                size += len(chunk)
                if size > self._largest:
                    raise _Trouble("malformed", f"an answer of more than {self._largest / 2**20:g} MiB")
        return answer, b"".join(chunks)

    def _refuse(self, path: str, answer: httpx.Response, value: Any, raw: bytes) -> None:
        """Raise what an answer means, unless it is usable."""
        text = raw[: 10 * _SHOWN].decode(errors="replace") or answer.reason_phrase
        found = judge(answer.status_code, value, text, self._context_words)
        if found.kind == "usable":
            return
        reason = self.clean(found.message)
        if found.kind in ("rate_limit", "server_error"):
            raise _Trouble(found.kind, f"status {found.status}: {reason}", _retry_after(answer))
        kind = ContextRefused if found.kind == "context_full" else RequestRefused
        raise kind(self.base_url + path, found.status, self.clean(found.code), reason)

    def clean(self, text: str) -> str:
        """A server's words for people: cut short, in one line, without the key should they repeat it."""
        return self._secret.clean(text, _SHOWN)

    def _count(self, answer: Any) -> None:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if not isinstance(usage, dict):
            return
        prompt, completion = _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))
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
            self._thread.join(_CONNECT_SECONDS)  # a daemon: what hangs even now does not hold the process


def _tokens(count: Any) -> int:
    """A count of tokens that can be one; 0 for anything else."""
    return int(count) if is_number(count) and 0 <= count <= _MOST_TOKENS and count == int(count) else 0


def _in_words(error: Exception) -> str:
    """What is wrong with an answer that could not be read."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, IndexError):
        return "a list in it is empty"
    return f"{type(error).__name__}: {error}"


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds the server asks to wait: a number or a date; None when it does not say."""
    text = answer.headers.get("retry-after", "")
    try:
        asked = float(text)
        return None if math.isnan(asked) else max(0.0, asked)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
