"""Calls into environments that may hang: within a time, in threads that never hold the process.

Leaves out what is called and when (`schedule`).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from ..env import TextEnv
from ..errors import EnvFailure
from ..foreign import message_of

_T = TypeVar("_T")
_CLOSE_SECONDS = 5.0
_LAST_SECONDS = 2.0


class Overdue(Exception):
    """A call did not return in time; its thread is left to itself."""


def _guarded(function: Callable[..., _T], *args: Any) -> _T:
    """Call an env's function; what would end the process is the env's failure: `sys.exit`, a cancelled task, a panic.

    Raises: EnvFailure: in place of such an exception; Ctrl-C and ordinary exceptions pass.
    """
    try:
        return function(*args)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise EnvFailure(f"{type(error).__name__}: {message_of(error)}") from error


class EnvThreads:
    """Threads for environments.

    They are daemons, unlike those of `concurrent.futures`, which the interpreter joins on its way out: a step that
    never returns must not keep the process. The thread that was free last is taken first, so calls made one after
    another run in one thread, as some libraries want it, until one of them hangs.
    """

    def __init__(self, *, timed: bool) -> None:
        """`timed`: calls may have to be given up, so they are made in a thread."""
        self.timed = timed
        self._free: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._closing: list[Future[None]] = []

    def start(self, function: Callable[..., _T], *args: Any) -> Future[_T]:
        """Call a function in a thread."""
        future: Future[_T] = Future()

        def work() -> None:
            try:
                future.set_result(_guarded(function, *args))
            except BaseException as error:
                future.set_exception(error)

        inbox = self._free.pop() if self._free else self._new_thread()
        inbox.put(work)
        return future

    def _new_thread(self) -> queue.SimpleQueue[Callable[[], None] | None]:
        inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

        def serve() -> None:
            while (work := inbox.get()) is not None:
                work()
                self._free.append(inbox)

        threading.Thread(target=serve, name="env", daemon=True).start()
        return inbox

    def call(self, function: Callable[..., _T], *args: Any, until: float | None = None) -> _T:
        """Call a function and wait for it.

        Args:
            function: may be an env's own.
            args: its arguments.
            until: moment of `time.monotonic` to wait for; None waits as long as it takes.
        Raises: Overdue: it has not returned by then. Whatever the function raises.
        """
        if not self.timed:
            try:  # as `_guarded`, without a call more for every step of every episode
                return function(*args)
            except (Exception, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise EnvFailure(f"{type(error).__name__}: {message_of(error)}") from error
        future = self.start(function, *args)
        wait([future], timeout=None if until is None else max(0.0, until - time.monotonic()))
        if not future.done():
            raise Overdue
        return future.result()

    def close(self, env: TextEnv | None, *, hung: bool = False) -> None:
        """Close an env that is not used again, whatever it raises; one that hangs is not waited for."""
        if env is None:
            return
        if not self.timed and not hung:
            with contextlib.suppress(Exception):
                _guarded(env.close)
            return
        future = self.start(env.close)
        if not hung:
            wait([future], timeout=_CLOSE_SECONDS)
        self._closing.append(future)

    def shut(self, envs: Iterable[tuple[TextEnv, bool]]) -> None:
        """Close the last envs, each with whether it hangs, and let the threads end."""
        for env, hung in envs:
            self.close(env, hung=hung)
        wait(self._closing, timeout=_LAST_SECONDS)
        for inbox in self._free:
            inbox.put(None)
