"""vLLM's own server as an engine: token ids and log-probs over HTTP, for evaluation and for training.

Several servers of one model share the work: a conversation stays with the server that holds its prefix. New weights
travel as safetensors through a folder that both sides see. Leaves out the wire (`wire`) and starting servers
(`agentbench.engines.vllm.serve`).
"""

from __future__ import annotations

import os
import queue
import shutil
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...engine import Completion, Engine, Request, check_keys, check_request
from ...errors import EngineFailure, TrainingError, UsageError, missing_dependency
from ...models.loading import end_ids, find_tokenizer
from ...models.vocabulary import Vocabulary, vocabulary_of
from ...types import Action, Finish
from ..http import HttpClient, Usage
from ..stops import StopFinder
from .adapter import check_temperature
from .wire import PROBE_TEXT, Sampled, VLLMServer

_SHARD_BYTES = 2 * 10**9


class VLLMServerEngine(Engine):
    """Samples from one or several vLLM servers.

    Attributes:
        tokenizer: whose ids are spoken.
        max_context: prompt plus reply.
        policy_version: number of weight updates sent.
        outlives_runs: servers stay up with the weights last pushed, so training pushes before its first step.
    """

    outlives_runs = True

    def __init__(
        self,
        servers: Sequence[VLLMServer],
        tokenizer: Any,
        stop_ids: Sequence[int],
        *,
        vocabulary: Vocabulary | None = None,
        rows: int | None = None,
        weights_folder: Path | None = None,
    ) -> None:
        """Put servers that were checked together.

        Args:
            servers: all serve the same model.
            tokenizer: its tokenizer.
            stop_ids: tokens that end a reply.
            vocabulary: ids that exist; None takes all that the tokenizer has.
            rows: of the model's head; None where nobody knows.
            weights_folder: where new weights are left for the servers; None refuses them.
        """
        self.servers = list(servers)
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary_of(tokenizer, None) if vocabulary is None else vocabulary
        self._allowed = _allowed(self.vocabulary, rows)
        self.max_context = min(server.max_model_len for server in servers)
        self.policy_version = 0
        self._stop_ids = [int(token) for token in stop_ids]
        self._stops = StopFinder(tokenizer)
        self._weights_folder = weights_folder
        self._running: dict[str, tuple[Request, Future[Sampled]]] = {}
        self._ended: queue.SimpleQueue[tuple[Request, Future[Sampled]]] = queue.SimpleQueue()
        self._ready: list[Completion] = []
        first = servers[0]
        self._served = {
            "model": first.model,
            "root": first.root,
            "vllm": first.version,
            "weights": first.weight_version(),
        }

    @property
    def info(self) -> dict[str, Any]:
        """Say which model answers; `weights` is the fingerprint of weights pushed since the server's start, or None."""
        return {"name": "vllm-server", **self._served, "max_context": self.max_context}

    @property
    def usage(self) -> dict[str, float]:
        """Requests, retries, tokens, seconds and cost so far, over all servers."""
        return add_usage(server.http.usage for server in self.servers)

    # --- sampling -----------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> None:
        """Send requests.

        Raises: UsageError: a request makes no sense; then none of them is sent.
        """
        for request in requests:
            check_request(request, self.vocabulary)
            check_temperature(request.sampling.temperature)
            if request.choices is not None:
                raise UsageError(
                    f"request {request.key!r} cannot be answered: vLLM's server cannot choose among token sequences "
                    "with their log-probs; use engine: hf or vllm"
                )
        check_keys(requests, self._running)
        for request in requests:
            self._send(request)

    def _send(self, request: Request) -> None:
        used, sampling = len(request.token_ids), request.sampling
        room = min(sampling.max_new_tokens, self.max_context - used)
        if room < 1:
            message = f"the prompt of {used} tokens leaves no room in max_context {self.max_context}"
            self._ready.append(Completion(request.key, failure=EngineFailure(message)))
            return
        # Everything is said, because a server may have defaults of its own.
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_tokens": min(sampling.min_new_tokens, room),
            "stop_token_ids": sorted({*self._stop_ids, *request.end_ids}),
            "seed": request.seed,
            **self._allowed,
        }
        if sampling.stop:
            options |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        future = self._server_of(request).sample(request.token_ids, room, options)
        self._running[request.key] = (request, future)
        future.add_done_callback(lambda done: self._ended.put((request, done)))

    def _server_of(self, request: Request) -> VLLMServer:
        return self.servers[zlib.crc32((request.slot or request.key).encode()) % len(self.servers)]

    def poll(self, timeout: float | None = None) -> list[Completion]:
        """Wait until something is answered, at most `timeout` seconds; [] when nothing is asked or answered."""
        ready, self._ready = self._ready, []
        until = None if timeout is None else time.monotonic() + timeout
        while self._running and (not ready or not self._ended.empty()):
            try:
                left = None if until is None else max(0.0, until - time.monotonic())
                request, future = self._ended.get(timeout=left)
            except queue.Empty:
                break
            if self._running.get(request.key, (None, None))[1] is not future:
                continue  # stopped meanwhile
            del self._running[request.key]
            ready.append(self._completion(request, future))
        return ready

    def _completion(self, request: Request, future: Future[Sampled]) -> Completion:
        error = future.exception()
        if isinstance(error, EngineFailure):
            return Completion(request.key, failure=error)
        if error is not None:
            raise error
        said, sampling = future.result(), request.sampling
        known = self.vocabulary.has(said.token_ids)
        if not known.all():
            stranger = said.token_ids[int(known.argmin())]
            message = (
                f"the server said id {stranger}, which no token has (padding of the model's head); name the model's "
                "folder in model_name_or_path, so that such ids can be forbidden"
            )
            return Completion(request.key, failure=EngineFailure(message))
        ids, logprobs, finish = said.token_ids, said.logprobs, said.finish
        length = self._stops.length(ids, sampling.stop, sampling.min_new_tokens)
        if length is not None:  # a server may send tokens that it computed beyond it
            ids, logprobs, finish = ids[:length], logprobs[:length], "stop"
        return Completion(request.key, self._action(request, ids, logprobs, finish))  # type: ignore[arg-type]

    def _action(
        self, request: Request, ids: Sequence[int], logprobs: Sequence[float], finish: Finish
    ) -> Action:
        spoken = ids[:-1] if ids and ids[-1] in (*self._stop_ids, *request.end_ids) else ids
        text = self.tokenizer.decode(spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Action(text, ids, logprobs, finish, self.policy_version)

    def abort(self, keys: Iterable[str]) -> None:
        """Stop requests; each is answered with nothing said and finish "abort"."""
        for key in set(keys) & set(self._running):
            request, future = self._running.pop(key)
            future.cancel()
            self._ready.append(Completion(key, self._action(request, [], [], "abort")))

    def drop(self, keys: Iterable[str]) -> None:
        """Stop requests; nothing more is heard of them."""
        for key in set(keys) & set(self._running):
            self._running.pop(key)[1].cancel()
        self._ready = [item for item in self._ready if item.key not in keys]

    def release(self, slot: str) -> None:
        """Nothing is kept here; servers drop old prefixes by themselves."""

    # --- weights ------------------------------------------------------------------------------------------------------

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob in nats, at temperature 1, of each token but the first, as every server gives it.

        Raises: EngineFailure: a server could not say, or two servers differ by more than rounding explains.
        """
        answers = [server.score(token_ids) for server in self.servers]
        found = [answer.result().logp for answer in answers]
        for server, other in zip(self.servers, found, strict=True):
            gap = float(abs(other - found[0]).mean())
            if gap > 0.1:
                raise EngineFailure(
                    f"{server.http.base_url} and {self.servers[0].http.base_url} differ by {gap:.2g} nats a token on "
                    "the same text; they do not serve the same weights"
                )
        scores: list[float] = found[0].tolist()
        return scores

    def load_weights(self, named_tensors: Iterable[tuple[str, Any]]) -> int:
        """Hand new weights to every server; running requests start over, so no reply mixes two policies.

        Raises: UsageError: no folder, or servers that take none. TrainingError: a server failed; its weights are
            then unknown.
        """
        if self._weights_folder is None:
            raise UsageError(
                "engine 'vllm-server' hands new weights over in a folder that the server sees too; set "
                "rollout.engine_options.weights_folder"
            )
        if self.policy_version == 0:
            for server in self.servers:
                server.check_takes_weights()
        requests = [request for request, _ in self._running.values()]
        for _, future in self._running.values():
            future.cancel()
        self._running.clear()
        version = self.policy_version + 1
        write_weights(folder := self._weights_folder / f"version-{version}", named_tensors)
        for server in self.servers:
            try:
                self._served["weights"] = server.load_from(str(folder), version)
            except EngineFailure as error:
                raise TrainingError(
                    f"the server at {server.http.base_url} did not take the new weights (version {version}): {error}"
                ) from error
        shutil.rmtree(folder)
        self.policy_version = version
        for request in requests:
            self._send(request)
        return version

    def close(self) -> None:
        for server in self.servers:
            server.http.close()


def _allowed(vocabulary: Vocabulary, rows: int | None) -> dict[str, Any]:
    """Sampling options that leave ids without a token no probability; the shorter of the two lists that say so."""
    absent = vocabulary.holes if rows is None else vocabulary.absent(rows)
    if not absent.size:
        return {}
    if absent.size <= vocabulary.count:
        return {"logit_bias": {str(token): -100.0 for token in absent.tolist()}}  # e^-100 is 0 in float32
    return {"allowed_token_ids": np.flatnonzero(vocabulary.exists).tolist()}


def write_weights(folder: Path, named_tensors: Iterable[tuple[str, Any]]) -> None:
    """Write tensors as safetensors files of about 2 GB each."""
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise missing_dependency("safetensors", "train", "handing weights to a server") from error
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed here
    folder.mkdir(parents=True)
    shard: dict[str, Any] = {}
    size = number = 0
    for name, tensor in named_tensors:
        shard[name] = (
            tensor.detach().cpu().contiguous().clone()
        )  # tied weights may not share memory in a file
        size += tensor.numel() * tensor.element_size()
        if size >= _SHARD_BYTES:
            number += 1
            save_file(shard, str(folder / f"model-{number:05d}.safetensors"), metadata={"format": "pt"})
            shard, size = {}, 0
    if shard:
        save_file(shard, str(folder / f"model-{number + 1:05d}.safetensors"), metadata={"format": "pt"})


def add_usage(usages: Iterable[Usage]) -> dict[str, float]:
    """Add the counters of several clients."""
    total: dict[str, float] = {}
    for usage in usages:
        for name, value in usage.totals().items():
            total[name] = total.get(name, 0) + value
    return total


def load_tokenizer(name: str) -> tuple[Any, list[int]]:
    """Load a tokenizer and the tokens that end a reply, without the model's weights."""
    tokenizer = find_tokenizer(name, "the engine 'vllm-server'")
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(name)
    except OSError:  # a tokenizer-only folder
        generation = None
    found = end_ids(SimpleNamespace(generation_config=generation), tokenizer)
    return tokenizer, [int(token) for token in found]


def head_rows(name: str) -> int | None:
    """Rows of a model's head by its configuration; None where there is only a tokenizer."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        return None
    rows = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    return None if rows is None else int(rows)


def build(
    model: str,
    *,
    base_url: str | Sequence[str] = "http://localhost:8000",
    served_model: str | None = None,
    tokenizer: str | None = None,
    weights_folder: str | None = None,
    api_key_env: str | None = None,
    request_timeout: float = 600.0,
    retries: int = 8,
    max_in_flight: int = 256,
    requests_per_minute: float | None = None,
    prices: Mapping[str, float] | None = None,
) -> VLLMServerEngine:
    """Connect to servers that are running, and check that they can do the work.

    Args:
        model: folder or hub id of the model.
        base_url: of one server, or a list; a training run in several processes deals the servers out among them.
        served_model: name under which it is served; None takes `model`.
        tokenizer: folder or hub id; None takes `model`.
        weights_folder: on a disk that the servers see under the same path; needed for training.
        api_key_env: environment variable that holds the key; None sends none.
        request_timeout: as in `HttpClient`, and so are the rest.
        retries: of one request.
        max_in_flight: requests at a time, per server.
        requests_per_minute: per server.
        prices: per million tokens.
    """
    loaded, stop_ids = load_tokenizer(tokenizer or model)
    probe = [int(token) for token in loaded.encode(PROBE_TEXT, add_special_tokens=False)]
    servers = []
    for url in _own_urls([base_url] if isinstance(base_url, str) else list(base_url)):
        http = HttpClient(
            url.rstrip("/").removesuffix("/v1"),
            api_key_env=api_key_env,
            request_timeout=request_timeout,
            retries=retries,
            max_in_flight=max_in_flight,
            requests_per_minute=requests_per_minute,
            prices=prices,
        )
        server = VLLMServer(http, served_model or model)
        server.check_tokenizer(loaded)
        server.check_processed_logprobs(probe)
        servers.append(server)
    folder = Path(weights_folder).resolve() if weights_folder else None
    if folder is not None:
        folder = folder / f"process-{_rank()}"
    rows = head_rows(model if tokenizer is None else tokenizer)
    vocabulary = vocabulary_of(loaded, rows, model)
    return VLLMServerEngine(
        servers, loaded, stop_ids, vocabulary=vocabulary, rows=rows, weights_folder=folder
    )


def _own_urls(urls: Sequence[str]) -> list[str]:
    """Servers of this process: each process pushes weights to servers of its own, so that nobody waits for others."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if not urls or len(set(urls)) < len(urls):
        raise UsageError(f"base_url needs one or several different addresses, got {list(urls)}")
    if len(urls) < processes:
        raise UsageError(
            f"{processes} processes train together and need at least one server each, but base_url names {len(urls)}"
        )
    return list(urls[_rank() :: processes])


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
