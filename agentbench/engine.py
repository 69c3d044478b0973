"""The engine contract: token ids in, sampled ids and log-probs out. Leaves out prompts and parsing.

Scoring given tokens is a teacher's work (`agentbench.trainers.teachers`); an engine that is also a `Scorer` scores a
short probe, so that training can tell whether it answers with the weights it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .errors import EngineFailure, UsageError
from .models.vocabulary import Vocabulary
from .types import Action, SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """One continuation to sample.

    Attributes:
        key: echoed with the answer; requests of one conversation share their `slot`.
        token_ids: the whole prompt [P].
        sampling: temperature and limits.
        seed: all randomness of this request. Its ids do not depend on batch mates or their number; its log-probs agree
            up to the rounding of batched products, 1e-5 nats, and are never promised to the bit.
        slot: conversation id; engines may keep its KV cache and reuse the longest common prefix of ids.
        choices: guided choice: the reply must be one of these id sequences (each ends with an end token); log-probs
            are then of the distribution restricted to them. None = free.
        whole: choices are weighed as wholes and not token by token: each by the mean log-prob of its tokens under the
            model, over which temperature then samples. For engines that say `weighs_choices`.
        end_ids: tokens that end the reply, beside those that the engine knows of; a chat template may have its own.
    """

    key: str
    token_ids: Sequence[int]
    sampling: SamplingParams
    seed: int
    slot: str = ""
    choices: tuple[tuple[int, ...], ...] | None = None
    whole: bool = False
    end_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or the failure that took its place; exactly one of `action` and `failure` is set.

    Attributes:
        content: what a growing conversation repeats of the reply, where that is not all of `action.text`: an endpoint
            may have sent the thought apart. None takes the text.
    """

    key: str
    action: Action | None = None
    failure: EngineFailure | None = None
    content: str | None = None


@runtime_checkable
class Engine(Protocol):
    """Samples continuations. `submit` queues, `poll` works until at least one request is done.

    Engines derive from it: `usage`, `close` and `outlives_runs` then have the defaults below.

    Attributes:
        tokenizer: a Hugging Face tokenizer whose ids the engine speaks.
        max_context: prompt plus reply may not exceed this many tokens.
        policy_version: number of weight updates seen; stamped on every Action.
        info: name, model, dtype, revision ... for the run's records.
        weighs_choices: it answers requests whose choices are weighed as wholes.
        outlives_runs: it may hold the weights of another run (a server), so training pushes before its first step.
    """

    tokenizer: Any
    max_context: int
    policy_version: int
    weighs_choices: bool = False
    outlives_runs: bool = False

    @property
    def info(self) -> dict[str, Any]:
        """Say which model answers, for the records."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; returns at once."""
        ...

    def poll(self) -> list[Completion]:
        """Work until at least one queued request is finished; [] when none is queued."""
        ...

    def release(self, slot: str) -> None:
        """Forget the cache of a finished conversation; unknown slots are ignored."""
        ...

    def load_weights(self, named_tensors: Iterable[tuple[str, Any]]) -> int:
        """Replace the weights, drop every cache, return the new policy version."""
        ...

    @property
    def usage(self) -> dict[str, float]:
        """Requests, tokens, seconds and cost so far; plain numbers that may be added. {} where nothing is counted."""
        return {}

    def close(self) -> None:
        """Give back connections, processes and memory; the engine is not used afterwards."""
        return


@runtime_checkable
class Scorer(Protocol):
    """An engine that can also score given tokens."""

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob in nats, at temperature 1, of each token but the first, given those before it.

        Raises: EngineFailure: it could not be computed.
        """
        ...


Message = Mapping[str, str]
"""One message of a chat: "role" and "content"."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One reply to sample from an engine that takes messages; `key`, `sampling` and `seed` are as in `Request`."""

    key: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    seed: int


@runtime_checkable
class TextEngine(Protocol):
    """Messages in, text out: no token ids, so nothing to train on. Otherwise as `Engine`, whose defaults it shares."""

    @property
    def info(self) -> dict[str, Any]:
        """Say which model answers, for the records."""
        ...

    @property
    def usage(self) -> dict[str, float]:
        """Requests, tokens, seconds and cost so far; plain numbers that may be added. {} where nothing is counted."""
        return {}

    def close(self) -> None:
        """Give back connections, processes and memory; the engine is not used afterwards."""
        return

    def ask(self, requests: Sequence[TextRequest]) -> None:
        """Queue requests; returns at once."""
        ...

    def poll(self) -> list[Completion]:
        """Wait until at least one queued request is finished; [] when none is queued."""
        ...


@runtime_checkable
class Checked(Protocol):
    """An engine that can try whether requests like those to come will be answered."""

    def check(self, sampling: SamplingParams) -> None:
        """Raises: UsageError: they will not."""
        ...


def check_request(request: Request, vocabulary: Vocabulary | None = None) -> None:
    """Refuse what no engine can sample.

    Args:
        request: to be checked.
        vocabulary: ids that exist; None does not know.
    Raises: UsageError: names the request and what is wrong with it.
    """
    sampling, prompt, choices = request.sampling, np.asarray(request.token_ids, np.int64), request.choices
    problem = ""
    if not prompt.size:
        problem = "its prompt is empty"
    elif prompt.min() < 0:
        problem = f"its prompt has id {prompt.min()}"
    elif vocabulary is not None and not vocabulary.has(prompt).all():
        problem = f"its prompt has id {_stranger(prompt, vocabulary)} {_outside(vocabulary)}"
    elif sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
        problem = f"temperature and top_k must not be negative and top_p must be in (0, 1]: {sampling}"
    elif sampling.max_new_tokens < 1:
        problem = f"max_new_tokens must be at least 1, got {sampling.max_new_tokens}"
    elif choices is not None and (not choices or not all(choices)):
        problem = "guided choice needs at least one choice, and none may be empty"
    elif choices is not None and max(map(len, choices)) > sampling.max_new_tokens:
        longest = max(map(len, choices))
        problem = f"a choice of {longest} tokens exceeds max_new_tokens {sampling.max_new_tokens}"
    elif request.whole and (choices is None or sampling.top_p < 1 or sampling.top_k > 0):
        problem = "choices are weighed as wholes where there are some, top_p is 1 and top_k is 0"
    elif choices is not None and vocabulary is not None:
        said = np.concatenate([np.asarray(choice, np.int64) for choice in choices])
        if not vocabulary.has(said).all():
            problem = f"a choice has id {_stranger(said, vocabulary)} {_outside(vocabulary)}"
    if problem:
        raise UsageError(f"request {request.key!r} cannot be answered: {problem}")


def _stranger(ids: npt.NDArray[np.int64], vocabulary: Vocabulary) -> int:
    return int(ids[~vocabulary.has(ids)][0])


def _outside(vocabulary: Vocabulary) -> str:
    return (
        f"outside the vocabulary of {vocabulary.count} (ids up to {vocabulary.width - 1} that the tokenizer has a "
        "token and the model a row for)"
    )


def check_keys(requests: Sequence[Request], in_flight: Iterable[str]) -> None:
    """Refuse a key that is in flight already, or twice among new requests.

    Raises: UsageError: names the key.
    """
    seen = set(in_flight)
    for request in requests:
        if request.key in seen:
            raise UsageError(f"two requests with the key {request.key!r} are in flight; keys must differ")
        seen.add(request.key)


def sample(engine: Engine, requests: Sequence[Request]) -> list[Action]:
    """Answer all requests and return the actions in their order.

    Raises: EngineFailure: any request failed.
    """
    engine.submit(requests)
    done: dict[str, Action] = {}
    while len(done) < len(requests):
        for completion in engine.poll():
            if completion.failure is not None:
                raise completion.failure
            assert completion.action is not None
            done[completion.key] = completion.action
    return [done[request.key] for request in requests]
