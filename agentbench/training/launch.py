"""Starts a training run on several processes of this machine, and ends them together.

What torchrun does, with one clear line and the run's own exit code at the end. For several machines start torchrun or
`accelerate launch` on each (docs/scaling.md). Leaves out what the processes do (`loop`).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence

from ..errors import TrainingError, UsageError, missing_dependency

LAUNCHER = "AGENTBENCH_LAUNCHER"
"""Environment variable that holds the launcher's process id; only processes it started have it."""

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LOOK_SECONDS = 1.0


def end_with_launcher() -> None:
    """In a process that `launch` started: end when the launcher does, even by kill -9; elsewhere do nothing.

    Without it the processes would train on as orphans and hold their devices. Linux tells at once; a thread that looks
    at the parent covers other systems, and a launcher that died before this was called.
    """
    launcher = os.environ.get(LAUNCHER, "")
    if not launcher.isdigit() or os.environ.get("RANK") is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    threading.Thread(target=_watch, args=(int(launcher),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_LOOK_SECONDS)
    os._exit(128 + signal.SIGKILL)


def launch(words: Sequence[str], processes: int) -> int:
    """Run `agentbench WORDS` as `processes` processes; returns the exit code of the first that failed, else 0.

    When one of them fails or dies, the others are stopped; they end with this process, and when a signal ends it the
    exit code is 128 + the signal's number.

    Raises: UsageError: this is already one of several processes, or torch is missing.
        TrainingError: a process was killed.
    """
    if "RANK" in os.environ:
        raise UsageError(
            "--num-processes starts processes itself; leave it out under torchrun or accelerate launch"
        )
    try:
        import torch
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    except ImportError as error:
        raise missing_dependency("torch", "train", "training") from error
    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "1"  # accelerate trains twice, each alone, without it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ[LAUNCHER] = str(os.getpid())
    for name in list(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):  # the failed process speaks for itself
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "agentbench", *words)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _how_late(item[1].exitcode))
        if failure.exitcode > 0:
            return int(failure.exitcode)
        raise TrainingError(
            f"process {rank} of {processes} died ({failure.signal_name()}), the others were stopped; checkpoints are "
            "intact, --resume goes on from the newest"
        ) from None
    return 0


def _how_late(exit_code: int) -> int:
    """Order failures by which explains the others.

    A killed process, one that aborted, as torch may when its peer is gone, one that gave up, one that was stopped on
    their account.
    """
    if exit_code > 0:
        return 2
    return {-signal.SIGABRT: 1, -signal.SIGTERM: 3}.get(exit_code, 0)
