"""A frozen teacher behind a vLLM server: sampled-token and top-K log-probs of given tokens, over HTTP.

The server scores prompts at temperature 1 and gives no entropy. Leaves out the divergence over the full
vocabulary, which needs hidden states (`teachers.LocalTeacher`), and the wire (`agentbench.engines.vllm.wire`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from concurrent.futures import Future

import numpy as np
from pydantic import Field

from agentbench.config import MOST_SECONDS, Section, validate
from agentbench.engines.http import HttpClient, RequestRefused
from agentbench.engines.vllm.wire import PROBE_TEXT, Scored, VLLMServer
from agentbench.errors import EngineFailure, TrainingError, UsageError
from agentbench.training.config import TeacherConfig

from ..batch.tables import Batch
from ..student.student import Student
from .contract import TeacherScores, require_top_k
from .prompt_scores import require_temperature_one, row_tokens, table


class ServerOptions(Section):
    """Keys of `engine_options`; those not explained here are of `agentbench.engines.http.HttpClient`.

    Attributes:
        cache_bytes: memory for scores of rows that may be asked for again; the oldest are dropped.
    """

    api_key_env: str | None = None
    request_timeout: float = Field(default=600.0, gt=0, le=MOST_SECONDS)
    retries: int = Field(default=8, ge=0)
    max_in_flight: int = Field(default=64, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    cache_bytes: int = Field(default=512 * 2**20, ge=0)


class ServerTeacher:
    """Scores the student's tokens through a vLLM server.

    Attributes:
        server: where it is served.
        cached_rows: rows that were answered from memory so far.
    """

    def __init__(self, config: TeacherConfig, student: Student, *, top_k: int = 0) -> None:
        """Connect, and check that the server can give what the run needs.

        Args:
            config: names server and model.
            student: whose tokens it will read; gives vocabulary and temperature.
            top_k: likeliest ids that will be asked for.
        Raises: UsageError: it cannot be reached or used, or has another tokenizer.
        """
        require_temperature_one(student, "a teacher behind a server")
        for key, value, default in (("dtype", config.dtype, "auto"), ("revision", config.revision, None)):
            if value != default:
                raise UsageError(
                    f"teachers.{key} = {value!r} would be ignored: the server has loaded its model already; start it "
                    f"with --{key} {value} and remove the key"
                )
        assert config.base_url is not None
        options = validate(ServerOptions, config.engine_options, "teachers.engine_options.")
        self.name = config.model_name_or_path
        http = HttpClient(
            config.base_url.rstrip("/").removesuffix("/v1"),
            api_key_env=options.api_key_env,
            request_timeout=options.request_timeout,
            retries=options.retries,
            max_in_flight=options.max_in_flight,
            requests_per_minute=options.requests_per_minute,
        )
        self.server = VLLMServer(http, self.name)
        self.max_context = self.server.max_model_len - 1  # it insists on sampling one token more
        self.vocabulary = student.vocabulary
        self.cached_rows = 0
        self._cache = _Cache(options.cache_bytes)
        self._check(student, top_k)

    def _check(self, student: Student, top_k: int) -> None:
        pushed = self.server.weight_version()
        if pushed is not None:
            raise UsageError(
                f"the teacher's server at {self.server.http.base_url} has had other weights pushed to it ({pushed}); "
                "a teacher is frozen, so start a server of its own"
            )
        self.server.check_tokenizer(student.tokenizer, required=False)
        probe = student.tokenizer.encode(PROBE_TEXT, add_special_tokens=False)
        try:
            self.server.score(probe, top_k).result()
        except RequestRefused as error:
            raise UsageError(
                f"the teacher's server cannot score prompts with the {top_k} likeliest tokens: {error}; start it "
                f"with: agentbench serve {self.name} --for teacher --top-k {max(top_k, 1)}"
            ) from error
        except EngineFailure as error:
            raise UsageError(f"the teacher's server cannot score prompts: {error}") from error

    def score(self, batch: Batch, top_k: int = 0) -> TeacherScores:
        """Score every trained token on the student's own prompt; with `top_k`, also the likeliest ids.

        Raises: TrainingError: a row could not be scored, or the likeliest ids are not the tokenizer's.
        """
        require_top_k(top_k, self.vocabulary.count)
        rows = ((scored.logp, scored.top_ids, scored.top_logp) for scored in self._rows(batch, top_k))
        return table(batch, rows, top_k, self.vocabulary, self.name)

    def _rows(self, batch: Batch, top_k: int) -> list[Scored]:
        """Scores of each row up to its last trained token; equal rows are asked for once."""
        keys, asked = [], dict[bytes, Future[Scored]]()
        known: dict[bytes, Scored] = {}
        for ids in row_tokens(batch):
            key = hashlib.blake2b(np.asarray([top_k, *ids], np.int64).tobytes(), digest_size=16).digest()
            keys.append(key)
            if key in known or key in asked:
                continue
            found = self._cache.get(key)
            if found is not None:
                known[key] = found
                self.cached_rows += 1
                continue
            self._check_length(len(ids))
            asked[key] = self.server.score(ids, top_k)
        for key, future in asked.items():
            known[key] = self._answer(future, asked)
            self._cache.put(key, known[key])
        return [known[key] for key in keys]

    def _answer(self, future: Future[Scored], asked: dict[bytes, Future[Scored]]) -> Scored:
        try:
            return future.result()
        except EngineFailure as error:
            for other in asked.values():
                other.cancel()
            raise TrainingError(
                f"teacher {self.name!r} at {self.server.http.base_url} could not score a row: {error}; the last "
                "checkpoint is intact, train --resume goes on from it"
            ) from error

    def _check_length(self, tokens: int) -> None:
        if tokens + 1 > self.server.max_model_len:  # the server insists on sampling one token more
            raise TrainingError(
                f"a row of {tokens} tokens and one more exceed the max_model_len {self.server.max_model_len} of the "
                f"teacher's server; start it with a larger --max-model-len, or set rollout.max_episode_tokens"
            )

    @property
    def usage(self) -> dict[str, float]:
        """Requests, retries, tokens and seconds so far."""
        return self.server.http.usage.totals()

    def close(self) -> None:
        self.server.http.close()


class _Cache:
    """Scores by key; the least recently used go first when memory is short."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._items: OrderedDict[bytes, Scored] = OrderedDict()

    def get(self, key: bytes) -> Scored | None:
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def put(self, key: bytes, scored: Scored) -> None:
        self._items[key] = scored
        self.size += scored.nbytes
        while self.size > self.limit:
            self.size -= self._items.popitem(last=False)[1].nbytes
