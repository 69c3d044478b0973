"""The wire of vLLM's own OpenAI server, as much of it as is used: what is sent, what comes back, what is checked first.

Written for vLLM 0.32 (`/v1/models`, `/version`, `/tokenize`, `/v1/completions` with integer prompts, and the routes of
development mode). Leaves out retries (`engines.http`), sampling for episodes (`server`) and teachers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EngineFailure, UsageError
from ..http import HttpClient, RequestRefused
from .adapter import SUPPORTED

PROBE_TEXT = 'The quick brown fox: 0 1 2 3, don\'t <stop> naïve café\n\n  {"a": [1.5]} -- go to desk 1'
"""Both sides tokenize this; equal ids are taken for equal tokenizers."""

PROBE_TOP = 5
"""Likeliest tokens that the start-up check asks for."""

_START = "start it with: agentbench serve {model}"
_PROBE_TEMPERATURE = 0.25
_START_VERSION = "default"
_LOOKUP_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Sampled:
    """A reply: ids, their log-probs, and why it ended ("stop", "length" or "abort")."""

    token_ids: list[int]
    logprobs: list[float]
    finish: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probs of given tokens [T - 1], and of the likeliest K ids at each place [T - 1, K] (K may be 0)."""

    logp: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int32]
    top_logp: npt.NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Memory of the three arrays."""
        return self.logp.nbytes + self.top_ids.nbytes + self.top_logp.nbytes


class VLLMServer:
    """One running server that serves one model.

    Attributes:
        http: the client.
        model: name under which it is served.
        version: of vLLM.
        max_model_len: prompt plus reply.
        root: what the server itself loaded.
    """

    def __init__(self, http: HttpClient, model: str) -> None:
        """Look the model up.

        Raises: UsageError: nothing answers there, or another model is served.
        """
        self.http = http
        self.model = model
        try:
            self.version = str(self.http.get("/version", retries=_LOOKUP_RETRIES)["version"])
            served = {item["id"]: item for item in self.http.get("/v1/models")["data"]}
        except RequestRefused as error:
            raise UsageError(refused(http, error, "vLLM's server")) from error
        except EngineFailure as error:
            raise UsageError(
                f"no server answers at {http.base_url}: {error}; {_START.format(model=model)}"
            ) from error
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"the server at {http.base_url} is no vLLM server (its /version or /v1/models differ); "
                f"{_START.format(model=model)}"
            ) from error
        low, high = (".".join(map(str, edge)) for edge in SUPPORTED)
        if (
            not SUPPORTED[0]
            <= tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
            < SUPPORTED[1]
        ):
            raise UsageError(
                f"the server at {http.base_url} runs vLLM {self.version}; supported is >={low},<{high}"
            )
        if model not in served:
            raise UsageError(
                f"the server at {http.base_url} does not serve {model!r}; it serves {', '.join(sorted(served))}. "
                "Use that name, or start the server with --served-model-name"
            )
        self.max_model_len = int(served[model].get("max_model_len") or 0)
        self.root = str(served[model].get("root") or model)
        if self.max_model_len < 2:
            raise UsageError(
                f"the server at {http.base_url} states no max_model_len for {model!r}; it is no vLLM server"
            )

    # --- checks before work -------------------------------------------------------------------------------------------

    def check_tokenizer(self, tokenizer: Any, *, required: bool = True) -> None:
        """Compare the server's token ids of a text with ours.

        Args:
            tokenizer: ours.
            required: refuse a server that has no /tokenize; False lets it pass unseen.
        Raises: UsageError: they differ.
        """
        ours = [int(token) for token in tokenizer.encode(PROBE_TEXT, add_special_tokens=False)]
        body = {"model": self.model, "prompt": PROBE_TEXT, "add_special_tokens": False}
        try:
            theirs = self.http.post("/tokenize", body)["tokens"]
        except RequestRefused as error:
            if error.status == 404 and not required:
                return
            raise UsageError(refused(self.http, error, "/tokenize")) from error
        if theirs != ours:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
            raise UsageError(
                f"the server at {self.http.base_url} splits text into other tokens than "
                f"{getattr(tokenizer, 'name_or_path', 'the local tokenizer')!r} (first difference at token {at} of a "
                "probe text); serve the model with the tokenizer it is used with"
            )

    def check_processed_logprobs(self, prompt: Sequence[int]) -> None:
        """Make sure that log-probs are of the distribution sampled from.

        At temperature T, the gap between two tokens' log-probs must be 1/T times the gap at temperature 1.

        Raises: UsageError: they are not, or cannot be read.
        """
        plain, cold = self._top(prompt, 1.0), self._top(prompt, _PROBE_TEMPERATURE)
        both = sorted(set(plain) & set(cold), key=lambda token: plain[token])
        remedy = f"start it with --logprobs-mode processed_logprobs, as does: agentbench serve {self.model}"
        if max(plain.values()) > 1e-3 or len(both) < 2:
            raise UsageError(
                f"the server at {self.http.base_url} returns no log-probs but other numbers; {remedy}"
            )
        low, high = both[0], both[-1]
        gap, cold_gap = plain[high] - plain[low], cold[high] - cold[low]
        if gap < 1e-3:
            raise UsageError(
                f"cannot tell whether the log-probs of the server at {self.http.base_url} count the temperature: its "
                f"likeliest tokens differ by {gap:.2g} nats only"
            )
        if cold_gap < gap * (1 + 1 / _PROBE_TEMPERATURE) / 2:
            raise UsageError(
                f"the server at {self.http.base_url} returns log-probs at temperature 1 whatever it samples at, so a "
                f"trainer would learn from wrong numbers; {remedy}"
            )

    def _top(self, prompt: Sequence[int], temperature: float) -> dict[str, float]:
        body = self._body(prompt, 1) | {
            "temperature": temperature,
            "logprobs": PROBE_TOP,
            "return_tokens_as_token_ids": True,
        }
        try:
            answer = self.http.post("/v1/completions", body)
            found: dict[str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        except RequestRefused as error:
            raise UsageError(refused(self.http, error, "integer prompts with log-probs")) from error
        except EngineFailure as error:
            raise UsageError(f"the server cannot answer: {error}; its own log says why") from error
        except (KeyError, TypeError, IndexError) as error:
            raise UsageError(
                f"the server at {self.http.base_url} returned no top_logprobs: {error}"
            ) from error
        return found

    # --- tokens -------------------------------------------------------------------------------------------------------

    def sample(self, prompt: Sequence[int], max_tokens: int, options: Mapping[str, Any]) -> Future[Sampled]:
        """Sample a reply to a prompt of ids; `options` are vLLM's sampling parameters."""
        body = self._body(prompt, max_tokens) | {"logprobs": 0, "return_token_ids": True, **options}
        return self.http.start("/v1/completions", body, _read_sampled)

    def score(self, token_ids: Sequence[int], top_k: int = 0) -> Future[Scored]:
        """Score each token but the first, given those before it, at temperature 1."""
        ids = [int(token) for token in token_ids]
        body = self._body(ids, 1) | {"temperature": 0.0, "prompt_logprobs": top_k}
        return self.http.start("/v1/completions", body, lambda answer: _read_scored(answer, ids, top_k))

    def _body(self, prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
        return {"model": self.model, "prompt": [int(token) for token in prompt], "max_tokens": max_tokens}

    # --- weights (development mode) -----------------------------------------------------------------------------------

    def weight_version(self) -> str | None:
        """Fingerprint of the weights pushed since the server's start; None without a push, or where it cannot say."""
        try:
            found = str(self.http.get("/weight_info", retries=0)["weight_version"])
        except (EngineFailure, KeyError, TypeError):
            return None
        return None if found == _START_VERSION else found

    def check_takes_weights(self) -> None:
        """Raises: UsageError: the server was not started for training."""
        try:
            self.http.post("/collective_rpc", {}, retries=0)
        except RequestRefused as error:
            if error.status == 400:  # the route is there and misses a method
                return
            raise UsageError(
                f"the server at {self.http.base_url} has no route for new weights; start it with: "
                f"agentbench serve {self.model} --for training"
            ) from error

    def load_from(self, folder: str, version: int) -> str:
        """Make every worker read new weights, and forget what was computed with the old ones.

        Returns: fingerprint of the weights.
        Raises: EngineFailure: it did not; its weights are then unknown.
        """
        body = {"method": "load_from", "args": [folder, version]}
        answer = self.http.post("/collective_rpc", body, retries=0)
        try:
            loaded = [(item["version"], str(item["weights"])) for item in answer["results"]]
        except (KeyError, TypeError) as error:
            raise EngineFailure(f"{self.http.base_url}/collective_rpc answered {answer!r}") from error
        if {number for number, _ in loaded} != {version}:
            raise EngineFailure(
                f"{self.http.base_url} loaded {loaded}, not version {version} in every worker"
            )
        answer = self.http.post("/reset_prefix_cache?reset_running_requests=true", None, retries=0)
        if not (isinstance(answer, dict) and answer.get("success") is True):
            raise EngineFailure(f"{self.http.base_url} could not reset its prefix cache: {answer!r}")
        digest = loaded[0][1]
        self.http.post("/update_weight_version", {"new_version": digest}, retries=0)
        return digest


def refused(http: HttpClient, error: RequestRefused, what: str) -> str:
    """One line for a start-up check that the server refused."""
    if error.status in (401, 403):
        return f"{error}; name the environment variable that holds the key in engine_options.api_key_env"
    return f"the server at {http.base_url} does not offer {what}: {error.status} {error.reason}"


def _read_sampled(answer: Any) -> Sampled:
    choice = answer["choices"][0]
    ids, logprobs, finish = choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"]
    if len(ids) != len(logprobs) or None in logprobs:
        raise ValueError(f"{len(ids)} token ids with log-probs {logprobs}")
    if finish not in ("stop", "length", "abort"):
        raise ValueError(f"unknown finish_reason {finish!r}")
    return Sampled([int(token) for token in ids], [float(value) for value in logprobs], finish)


def _read_scored(answer: Any, ids: Sequence[int], top_k: int) -> Scored:
    places = answer["choices"][0]["prompt_logprobs"]
    if len(places) != len(ids):
        raise ValueError(f"{len(places)} places for {len(ids)} tokens")
    count = len(ids) - 1
    scored = Scored(
        np.empty(count, np.float32), np.empty((count, top_k), np.int32), np.empty((count, top_k), np.float32)
    )
    for at, (token, place) in enumerate(zip(ids[1:], places[1:], strict=True)):
        scored.logp[at] = place[str(token)]["logprob"]
        best = sorted((item["rank"], int(name), item["logprob"]) for name, item in place.items())[:top_k]
        if len(best) != top_k:
            raise ValueError(f"{len(best)} likeliest tokens, asked for {top_k}")
        for k, (_, name, logprob) in enumerate(best):
            scored.top_ids[at, k], scored.top_logp[at, k] = name, logprob
    if not np.isfinite(scored.logp).all():
        raise ValueError("a log-prob is not finite")
    return scored
