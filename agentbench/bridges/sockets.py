"""A small server for HTTP requests and WebSockets on one port, over asyncio and the frames of `websockets`.

Owns bytes, limits of size and time, and noticing that the other side is gone. Leaves out what is said
(`openenv`). Each HTTP answer ends its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import orjson

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

_Value = TypeVar("_Value")
_HEAD_BYTES = 1 << 14
_PIECE = 1 << 16
_HEAD_SECONDS = 10.0


@dataclass(frozen=True)
class HttpRequest:
    """One request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class HttpAnswer:
    """What is answered to a request: a status and a JSON value."""

    status: int
    content: Any


@dataclass(frozen=True)
class SocketLimits:
    """What one connection may use.

    Attributes:
        message_bytes: of one message, or of the body of a request.
        ping_seconds: a waiting connection is asked for a sign of life so often, and ended when two of them stay out.
    """

    message_bytes: int = 1 << 20
    ping_seconds: float = 20.0


class Socket:
    """One WebSocket, already accepted."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        protocol: ServerProtocol,
        limits: SocketLimits,
    ) -> None:
        """Take over a connection after its handshake."""
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._limits = limits
        self._messages: deque[str] = deque()
        self._parts: list[bytes] = []
        self._heard: float | None = None

    async def receive(self) -> str | None:
        """Return the next message; None when the other side has closed, is gone, or broke the protocol."""
        pinger = asyncio.create_task(self._watch())
        try:
            while not self._messages:
                if self._protocol.state.name != "OPEN":
                    return None
                self._heard = asyncio.get_running_loop().time()
                data = await self._reader.read(_PIECE)
                if data:
                    self._protocol.receive_data(data)
                else:
                    self._protocol.receive_eof()
                self._take()
                await self._flush()
        except (ConnectionError, OSError):
            return None
        finally:
            pinger.cancel()
        return self._messages.popleft()

    def _take(self) -> None:
        """Put the frames that have arrived together to messages; the library answers pings and closing."""
        from websockets.frames import Frame, Opcode

        for frame in self._protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(bytes(frame.data))
                if frame.fin:
                    self._messages.append(b"".join(self._parts).decode("utf-8", "replace"))
                    self._parts.clear()

    async def _watch(self) -> None:
        """Ask for signs of life while a message is waited for; cut the connection when none comes."""
        pause = self._limits.ping_seconds
        while True:
            await asyncio.sleep(pause)
            if self._heard is not None and asyncio.get_running_loop().time() - self._heard > 2 * pause:
                self._writer.transport.abort()
                return
            with contextlib.suppress(Exception):  # what breaks here is seen by the read
                self._protocol.send_ping(b"")
                await self._flush()

    async def send(self, text: bytes) -> None:
        """Send a message of text in UTF-8."""
        self._protocol.send_text(text)
        await self._flush()

    async def close(self, code: int = 1000) -> None:
        """Say good-bye; nothing may be sent afterwards."""
        with contextlib.suppress(Exception):  # it may be closed already
            self._protocol.send_close(code)
            await self._flush()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
            elif self._writer.can_write_eof():
                self._writer.write_eof()
        await self._writer.drain()


async def apart(act: Callable[[], _Value]) -> _Value:
    """Run something that may wait in a thread of its own.

    A thread each, and none that the end of the process waits for: with a pool, calls that never return would one
    after the other take all its threads from everybody else.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_Value] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)

    def run() -> None:
        value, failed = None, None
        try:
            value = act()
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, failed)

    threading.Thread(target=run, daemon=True).start()
    return await result


Respond = Callable[[HttpRequest], Awaitable[HttpAnswer]]
Converse = Callable[[Socket], Awaitable[None]]
Guard = Callable[[HttpRequest], HttpAnswer | None]


async def listen(
    host: str,
    port: int,
    *,
    guard: Guard,
    respond: Respond,
    converse: Converse,
    limits: SocketLimits,
    path: str = "/ws",
) -> asyncio.Server:
    """Start to listen.

    Args:
        host: address.
        port: 0 lets the system choose one.
        guard: returns a refusal, or None to let a request in; asked before anything else.
        respond: answers a plain request.
        converse: talks over a WebSocket until it returns.
        limits: of each connection.
        path: where WebSockets are accepted.
    Raises: OSError: the port is taken.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the other side is gone or sends no request
        finally:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        request = _parse(head)
        refusal = guard(request) if request is not None else HttpAnswer(400, {"detail": "no HTTP request"})
        if refusal is not None or request is None:
            return await _write(writer, refusal or HttpAnswer(400, {}))
        if request.headers.get("upgrade", "").lower() == "websocket" and request.path == path:
            socket = await _accept(reader, writer, head, limits)
            if socket is not None:
                await converse(socket)
                await socket.close()
            return None
        body = await _body(reader, request, limits)
        answer = body if isinstance(body, HttpAnswer) else None
        if isinstance(body, bytes):
            answer = await respond(HttpRequest(request.method, request.path, request.headers, body))
        assert answer is not None
        return await _write(writer, answer)

    return await asyncio.start_server(connected, host, port, limit=max(_HEAD_BYTES, _PIECE))


def _parse(head: bytes) -> HttpRequest | None:
    lines = head.decode("latin-1").split("\r\n")
    first = lines[0].split(" ")
    if len(first) != 3 or not first[2].startswith("HTTP/1.") or len(head) > _HEAD_BYTES:
        return None
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return HttpRequest(first[0], unquote(urlsplit(first[1]).path), headers)


async def _body(
    reader: asyncio.StreamReader, request: HttpRequest, limits: SocketLimits
) -> bytes | HttpAnswer:
    said = request.headers.get("content-length", "0")
    if not said.isdigit():
        return HttpAnswer(400, {"detail": f"content-length {said!r} is no number"})
    if int(said) > limits.message_bytes:
        return HttpAnswer(
            413, {"detail": f"a body may have {limits.message_bytes} bytes, this one has {said}"}
        )
    async with asyncio.timeout(_HEAD_SECONDS):
        return await reader.readexactly(int(said))


async def _accept(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, limits: SocketLimits
) -> Socket | None:
    from websockets.http11 import Request as Handshake
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(max_size=limits.message_bytes)
    protocol.receive_data(head)
    events = protocol.events_received()
    if not events or not isinstance(events[0], Handshake):
        await _write(writer, HttpAnswer(400, {"detail": "no WebSocket handshake"}))
        return None
    protocol.send_response(protocol.accept(events[0]))
    socket = Socket(reader, writer, protocol, limits)
    await socket._flush()
    return socket if protocol.state.name == "OPEN" else None


async def _write(writer: asyncio.StreamWriter, answer: HttpAnswer) -> None:
    body = orjson.dumps(answer.content)
    phrase = HTTPStatus(answer.status).phrase
    head = f"HTTP/1.1 {answer.status} {phrase}\r\nContent-Type: application/json\r\n"
    head += "WWW-Authenticate: Bearer\r\n" if answer.status == HTTPStatus.UNAUTHORIZED else ""
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
