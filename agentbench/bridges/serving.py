"""Runs an OpenEnv service: in the foreground until it is interrupted, or beside a program for as long as it wants."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from .openenv import Server, Service


def serve_forever(service: Service, report: Callable[[str], None] = print) -> int:
    """Serve until Ctrl-C or SIGTERM; open envs are closed then.

    Args:
        service: what to serve.
        report: receives lines for a person.
    Returns: 0.
    Raises: UsageError: the address cannot be listened on.
    """
    asyncio.run(_until_interrupted(service, report))
    return 0


async def _until_interrupted(service: Service, report: Callable[[str], None]) -> None:
    server = Server(service)
    url = await server.start()
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, over.set)
    terms = service.terms
    report(
        f"serving {terms.spec.id}, split {terms.split}, {terms.limit} turns an episode, at {url}"
        f"{' (with a key)' if service.key else ''}; Ctrl-C ends it"
    )
    await over.wait()
    open_sessions = len(server.sessions)
    await server.stop()
    report(f"ended; {open_sessions} sessions were open")


@contextlib.contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serve in a thread of this process for the length of a `with` block; gives the URL.

    Raises: UsageError: the address cannot be listened on.
    """
    started: list[str | BaseException] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        server = Server(service)
        try:
            started.append(await server.start())
        except BaseException as error:
            started.append(error)
            return
        finally:
            ready.set()
        await over.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    ready.wait()
    url = started[0]
    try:
        if isinstance(url, BaseException):
            raise url
        yield url
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
