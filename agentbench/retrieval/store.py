"""Where indexes are kept, and how one process at a time builds them. Leaves out what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..datasets import data_root
from ..errors import UsageError


def cache_folder() -> Path:
    """Where offsets and indexes are kept: `indexes` under the folder of all benchmark files."""
    return data_root() / "indexes"


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """Let one process at a time work on `place`, a file or folder to be; the system takes the lock off a dead one.

    Raises: UsageError: the folder it is in cannot be written.
    """
    home = place.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / f".{place.name}.lock").open("w")
    except OSError as error:
        raise UsageError(
            f"the index cannot be kept in {home}: {error.strerror}; name another folder, or set AGENTBENCH_DATA"
        ) from error
    with lock:
        with contextlib.suppress(
            ImportError, OSError
        ):  # some systems and network disks have no locks: build twice
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
