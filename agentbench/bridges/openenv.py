"""Serves an environment to OpenEnv clients, and to everything that speaks to those, such as verifiers.

One WebSocket at /ws is one session with one `Seat`; beside it stand the descriptions that clients ask for over HTTP
and the lists of tasks. Leaves out bytes and frames (`sockets`), and the protocol's stateless POST /reset and /step,
which cannot hold an episode.

Source: the wire of OpenEnv 0.4 to 0.10, as its generic client speaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import Field, StrictInt, StrictStr

from ..config import Section, validate
from ..errors import AgentBenchError, UsageError
from .descriptions import SplitData, listing, schemas, split_of
from .episode import EpisodeOver, Seat, Seen, Terms
from .sockets import HttpAnswer, HttpRequest, Socket, SocketLimits, apart, listen

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Service:
    """How an environment is served.

    Attributes:
        terms: what is played.
        host: address to listen on; beyond this machine a key is needed.
        port: 0 lets the system choose one.
        key: what clients must show, as a bearer token or as the password of the URL; "" asks for nothing.
        max_sessions: sessions at once; one more is told so and closed.
        idle_seconds: a session that says nothing for so long is closed.
        step_seconds: a reset or step that takes longer ends its session.
        limits: of each connection.
    Raises: UsageError: an open address without a key, or a limit that is not positive.
    """

    terms: Terms
    host: str = "127.0.0.1"
    port: int = 8000
    key: str = ""
    max_sessions: int = 1000
    idle_seconds: float = 3600.0
    step_seconds: float = 120.0
    limits: SocketLimits = field(default_factory=SocketLimits)

    def __post_init__(self) -> None:
        if not self.on_this_machine and not self.key:
            raise UsageError(
                f"host {self.host!r} lets other machines in, so a key is needed: put one into a file and pass "
                "--key-file FILE, or set AGENTBENCH_SERVE_KEY; without one only 127.0.0.1 is served"
            )
        for name in ("max_sessions", "idle_seconds", "step_seconds"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def on_this_machine(self) -> bool:
        """Only this machine can reach it."""
        return _is_loopback(self.host)


class ResetData(Section):
    """What a reset may say: a task by `task` or by `split` and `index`, else one drawn with `seed`."""

    seed: Annotated[StrictInt, Field(ge=0)] | None = None
    episode_id: StrictStr | None = None
    task: StrictStr | None = None
    split: StrictStr | None = None
    index: StrictInt | None = None


class StepData(Section):
    """What a step must say."""

    command: StrictStr
    metadata: dict[str, Any] = Field(default_factory=dict)


class Rejected(AgentBenchError):
    """A message that is answered with an error; `code` is one of the protocol's."""

    def __init__(self, code: str, message: str, *, ends: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.ends = ends


class Server:
    """The sessions of one service."""

    def __init__(self, service: Service) -> None:
        """Serve nothing yet; see `start`."""
        self.service = service
        self.terms = service.terms
        self.sessions: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Start to listen; returns the URL for clients.

        Raises: UsageError: the address cannot be listened on.
        """
        service = self.service
        try:
            self._server = await listen(
                service.host,
                service.port,
                guard=self._guard,
                respond=self._respond,
                converse=self._converse,
                limits=service.limits,
            )
        except OSError as error:
            raise UsageError(
                f"cannot listen on {service.host}:{service.port} ({error.strerror}); choose another --port"
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        host = "127.0.0.1" if service.host in ("", "0.0.0.0", "::") else service.host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening and end all sessions; returns when their envs are closed."""
        if self._server is not None:
            self._server.close()
        for session in self.sessions:
            session.cancel()
        await asyncio.gather(*self.sessions, return_exceptions=True)

    # --- who may come in ---

    def _guard(self, request: HttpRequest) -> HttpAnswer | None:
        """Refuse strangers: without the key, or through a web page that a browser on this machine shows."""
        if self.service.on_this_machine:
            origin = request.headers.get("origin")
            named = [
                request.headers.get("host", ""),
                *([urlsplit(origin).netloc] if origin is not None else []),
            ]
            if not all(_is_loopback(_host_of(name)) for name in named):
                return HttpAnswer(403, {"detail": "this server answers to programs of this machine only"})
        if self.service.key and request.path != "/health":
            shown = _shown_key(request.headers.get("authorization", ""))
            if not hmac.compare_digest(shown.encode(), self.service.key.encode()):
                return HttpAnswer(
                    401, {"detail": "show the key: Authorization: Bearer KEY, or http://user:KEY@host"}
                )
        return None

    # --- sessions ---

    async def _converse(self, socket: Socket) -> None:
        """Hold one session from its first message to its end."""
        task = asyncio.current_task()
        assert task is not None
        if len(self.sessions) >= self.service.max_sessions:
            message = f"{self.service.max_sessions} sessions are open, which is all there may be; try later"
            return await socket.send(_error("CAPACITY_REACHED", message))
        self.sessions.add(task)
        seat: Seat | None = None
        try:
            try:
                seat = await apart(lambda: Seat(self.terms))
            except Exception as error:
                return await socket.send(_error("FACTORY_ERROR", f"{type(error).__name__}: {error}"))
            await self._listen_to(socket, seat)
        finally:
            self.sessions.discard(task)
            if seat is not None:
                with contextlib.suppress(Exception):  # nobody is left to tell
                    seat.close()

    async def _listen_to(self, socket: Socket, seat: Seat) -> None:
        while True:
            try:
                async with asyncio.timeout(self.service.idle_seconds):
                    said = await socket.receive()
            except TimeoutError:
                message = f"nothing was said for {self.service.idle_seconds:g} s"
                return await socket.send(_error("SESSION_ERROR", message))
            if said is None:
                return None
            try:
                answer = await self._answer(seat, said)
            except Rejected as refused:
                await socket.send(_error(refused.code, str(refused)))
                if refused.ends:
                    return None
                continue
            if answer is None:
                return None
            await socket.send(answer)

    async def _answer(self, seat: Seat, said: str) -> bytes | None:
        """HttpAnswer one message; None ends the session.

        Raises: Rejected: the message is answered with an error.
        """
        try:
            message = orjson.loads(said)
        except ValueError as error:
            raise Rejected("INVALID_JSON", f"a message must be JSON: {error}") from error
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "close":
            return None
        if kind == "state":
            return _encode("state", self._state(seat))
        if kind not in ("reset", "step"):
            raise Rejected("UNKNOWN_TYPE", f"type {kind!r} is none of reset, step, state, close")
        data = message.get("data", {} if kind == "reset" else None)
        try:
            moment = await self._play(seat, kind, data)
        except UsageError as error:
            raise Rejected("VALIDATION_ERROR", str(error)) from error
        except EpisodeOver as error:
            raise Rejected("EXECUTION_ERROR", str(error)) from error
        return _encode("observation", self._observation(moment))

    async def _play(self, seat: Seat, kind: str, data: Any) -> Seen:
        """Carry out a reset or step."""
        if not isinstance(data, dict):
            raise UsageError(f"the data of a {kind} must be an object, got {type(data).__name__}")
        if kind == "reset":
            wanted = validate(ResetData, data, "data.")
            # in a thread: the first game of a benchmark may take seconds to open, which no other session waits for
            return await self._limited(seat, lambda: seat.reset(**wanted.model_dump()), waits=True)
        command = validate(StepData, data, "data.").command
        return await self._limited(seat, lambda: seat.step(command), waits=self.terms.spec.blocking)

    async def _limited(self, seat: Seat, act: Callable[[], _Value], *, waits: bool) -> _Value:
        """Act, in a thread where it may take long; whatever the env raises is an answer, not an end."""
        try:
            if not waits:
                return act()
            return await asyncio.wait_for(apart(act), self.service.step_seconds)
        except (UsageError, EpisodeOver):
            raise
        except TimeoutError as error:
            message = f"the env did not answer within {self.service.step_seconds:g} s"
            raise Rejected("SESSION_ERROR", message, ends=True) from error
        except Exception as error:
            seat.moment = None  # nobody knows what state the env is in
            raise Rejected("EXECUTION_ERROR", f"{type(error).__name__}: {error}; reset first") from error

    def _observation(self, moment: Seen) -> dict[str, Any]:
        """Lay out what an agent reads, and beside it what only a program does."""
        admissible = list(moment.info.get("admissible", ()))
        shown: dict[str, Any] = {"text": moment.text, "admissible": admissible}
        instruction = moment.info.get("instruction")
        if isinstance(instruction, str):
            shown["instruction"] = instruction
        rest = {name: value for name, value in moment.info.items() if name != "admissible"}
        notes = {**rest, "turn": moment.turn, "max_turns": self.terms.limit, "command": moment.command}
        return {"observation": shown, "reward": moment.reward, "done": moment.done, "metadata": notes}

    def _state(self, seat: Seat) -> dict[str, Any]:
        done = seat.moment is not None and seat.moment.done
        return {
            "episode_id": seat.episode_id or None,
            "step_count": seat.turn,
            "task": seat.task,
            "done": done,
        }

    # --- requests ---

    async def _respond(self, request: HttpRequest) -> HttpAnswer:
        name = self.terms.spec.id
        described: dict[str, Callable[[], Any]] = {
            "/health": lambda: {"status": "healthy"},
            "/schema": lambda: schemas(self.terms),
            "/metadata": lambda: {
                "name": name,
                "description": f"{name} of agentbench, {self.terms.limit} turns an episode, split {self.terms.split}",
                "version": version("agentbench-opd"),
            },
            "/list_environments": lambda: [name],
            f"/{name}/splits": lambda: [split_of(split) for split in self.terms.spec.splits],
        }
        listings = {f"/{name}/{what}": what for what in ("tasks", "num_tasks", "task", "task_range")}
        wanted = "POST" if request.path in listings else "GET"
        if request.path not in described and request.path not in listings:
            return HttpAnswer(
                404, {"detail": f"no {request.path}; there are {', '.join((*described, *listings))}"}
            )
        if request.method != wanted:
            return HttpAnswer(
                405, {"detail": f"{request.path} is asked for with {wanted}, not {request.method}"}
            )
        if request.path in described:
            return HttpAnswer(200, described[request.path]())
        try:
            said = orjson.loads(request.body)
            asked = validate(SplitData, said if isinstance(said, dict) else {"split": said})
            content = await apart(lambda: listing(self.terms, listings[request.path], asked))
        except ValueError as error:  # no JSON, or a value that is not allowed
            return HttpAnswer(422, {"detail": str(error)})
        except IndexError:
            return HttpAnswer(400, {"detail": "Invalid task index"})
        return HttpAnswer(200, content)


def _encode(kind: str, data: Mapping[str, Any]) -> bytes:
    return orjson.dumps(
        {"type": kind, "data": data}, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    )


def _error(code: str, message: str) -> bytes:
    return _encode("error", {"message": message, "code": code})


def _shown_key(header: str) -> str:
    kind, _, rest = header.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return b64decode(rest, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def _host_of(name: str) -> str:
    return urlsplit(f"//{name}").hostname or ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
