"""Any endpoint that speaks OpenAI's protocol, for evaluation: messages in, text out.

There are no token ids and no log-probs, so nothing can be trained on what it says. Leaves out what the messages say
(`agentbench.policies.chat`) and retries (`engines.http`).
"""

from __future__ import annotations

import functools
import os
import queue
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

import httpx

from ..engine import Completion, TextEngine, TextRequest
from ..errors import ContextFull, EngineFailure, UsageError
from ..models.loading import find_tokenizer
from ..types import Action, Finish
from .http import HttpClient, RequestRefused, checked_url
from .stops import cut_text, put_back

Api = Literal["chat", "completions"]

_CONTEXT_CODES = ("context_length_exceeded",)
_CONTEXT_WORDS = re.compile(
    r"context[ _](length|window|size)|maximum context|max_model_len|too many (input )?tokens|prompt is too long",
    re.I,
)
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}
_PROBE_TOKENS = 16
_PROBE_RETRIES = 3
_SEEDS = 2**31


class OpenAIEngine(TextEngine):
    """Answers messages through an endpoint."""

    def __init__(
        self,
        http: HttpClient,
        model: str,
        *,
        api: Api = "chat",
        tokenizer: Any = None,
        max_tokens_field: str = "max_tokens",
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Check that the model answers.

        Args:
            http: the client.
            model: name of the model at that endpoint.
            api: "chat" sends messages, "completions" sends them as one text.
            tokenizer: writes that text with its chat template.
            max_tokens_field: name of the limit on the reply; newer OpenAI models want max_completion_tokens.
            extra_body: added to every request, over what is set here.
        Raises: UsageError: nothing answers, the key or the model is wrong.
        """
        self.http = http
        self.model = model
        self._api, self._tokenizer, self._limit_field = api, tokenizer, max_tokens_field
        self._extra = dict(extra_body or {})
        self._running: dict[str, Future[Action]] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._probe()

    def _probe(self) -> None:
        body = self._body([{"role": "user", "content": "Say yes."}]) | {self._limit_field: _PROBE_TOKENS}
        try:
            self.http.start(self._path, body | self._extra, _choice, retries=_PROBE_RETRIES).result()
        except RequestRefused as error:
            raise UsageError(f"{error}{_hint(error)}") from error
        except EngineFailure as error:
            raise UsageError(f"{error}; is base_url right, and the server up?") from error

    @property
    def _path(self) -> str:
        return "/chat/completions" if self._api == "chat" else "/completions"

    @property
    def info(self) -> dict[str, Any]:
        """Say who answers; the endpoint's own version of the model is not known."""
        return {
            "name": "openai",
            "model": self.model,
            "base_url": self.http.base_url,
            "api": self._api,
            "extra_body": self._extra,
        }

    @property
    def usage(self) -> dict[str, float]:
        """Requests, retries, tokens, seconds and cost so far."""
        return self.http.usage.totals()

    def ask(self, requests: Sequence[TextRequest]) -> None:
        for request in requests:
            sampling = request.sampling
            if request.key in self._running:
                raise UsageError(f"two requests with the key {request.key!r} are in flight; keys must differ")
            if sampling.min_new_tokens:
                raise UsageError("engine 'openai' has no min_new_tokens")
            body = self._body(request.messages) | {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                self._limit_field: sampling.max_new_tokens,
                "seed": request.seed % _SEEDS,  # some endpoints take 31 bits only
            }
            if sampling.top_k:  # not in OpenAI's own protocol
                body["top_k"] = sampling.top_k
            if sampling.stop:
                body["stop"] = list(sampling.stop)
            read = functools.partial(_read, stop=sampling.stop)
            future = self.http.start(self._path, body | self._extra, read)
            self._running[request.key] = future
            future.add_done_callback(functools.partial(self._end, request.key))

    def _end(self, key: str, _: Future[Action]) -> None:
        self._ended.put(key)

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        if self._api == "chat":
            return {"model": self.model, "messages": [dict(message) for message in messages]}
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return {"model": self.model, "prompt": text}

    def poll(self) -> list[Completion]:
        """Wait until something is answered; [] when nothing is asked."""
        ready: list[Completion] = []
        while self._running and (not ready or not self._ended.empty()):
            key = self._ended.get()
            ready.append(_completion(key, self._running.pop(key)))
        return ready

    def close(self) -> None:
        self.http.close()


def _completion(key: str, future: Future[Action]) -> Completion:
    error = future.exception()
    if error is None:
        return Completion(key, future.result())
    if isinstance(error, RequestRefused) and _is_context_full(error):
        return Completion(key, failure=ContextFull(str(error)))
    if isinstance(error, EngineFailure):
        return Completion(key, failure=error)
    raise error


def _is_context_full(error: RequestRefused) -> bool:
    return error.status in (400, 413, 422) and (
        error.code in _CONTEXT_CODES or _CONTEXT_WORDS.search(error.reason) is not None
    )


def _hint(error: RequestRefused) -> str:
    """The next step after a refused probe."""
    if error.status in (401, 403):
        return (
            "; set the key in the environment variable that engine_options.api_key_env names (OPENAI_API_KEY)"
        )
    if error.status == 404:
        return "; check the model's name, and base_url (most end in /v1)"
    if "max_completion_tokens" in error.reason:
        return "; set engine_options.max_tokens_field: max_completion_tokens"
    return ""


def _choice(answer: Any) -> dict[str, Any]:
    choice = answer["choices"][0]
    if not isinstance(choice, dict):
        raise TypeError(f"choices[0] is {type(choice).__name__}")
    return choice


def _read(answer: Any, stop: Sequence[str] = ()) -> Action:
    choice = _choice(answer)
    if "message" in choice:
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
    else:
        text = choice["text"]
    if not isinstance(text, str):
        raise TypeError(f"the reply is {type(text).__name__}, not text")
    reason = choice.get("finish_reason") or "stop"
    if reason not in _FINISHES:  # such as content_filter: the provider's doing, not the agent's
        raise EngineFailure(f"the endpoint ended the reply with finish_reason {reason!r}")
    return _stopped(text, choice, _FINISHES[reason], stop)


def _stopped(text: str, choice: Mapping[str, Any], finish: Finish, stop: Sequence[str]) -> Action:
    """A reply as far as its first stop string, which most endpoints leave out.

    vLLM says which one it met (`stop_reason`; null for an end token), SGLang too (`matched_stop`). Others do not, so
    a closing tag is put back where its opening tag stands open.
    """
    whole = cut_text(text, stop)
    if whole is not None:  # an endpoint that includes stop strings, or goes on beyond them
        return Action(whole, finish="stop")
    for field in ("stop_reason", "matched_stop"):
        if field in choice:
            met = choice[field]
            return Action(text + met if met in stop else text, finish=finish)
    return Action(put_back(text, stop) if finish == "stop" else text, finish=finish)


def build(
    model: str,
    *,
    base_url: str = "https://api.openai.com/v1",
    api: Api = "chat",
    tokenizer: str | None = None,
    api_key_env: str | None = None,
    max_tokens_field: str = "max_tokens",
    extra_body: Mapping[str, Any] | None = None,
    request_timeout: float = 600.0,
    retries: int = 8,
    max_in_flight: int = 16,
    requests_per_minute: float | None = None,
    prices: Mapping[str, float] | None = None,
) -> OpenAIEngine:
    """Connect to an endpoint; the arguments are those of `OpenAIEngine` and `HttpClient`.

    Args:
        model: its name there.
        base_url: of the protocol's root; an address without a path gets /v1.
        api: "chat" or "completions"; the latter needs `tokenizer`, a folder or hub id with a chat template.
        tokenizer: see `api`.
        api_key_env: environment variable that holds the key; None takes OPENAI_API_KEY where it is set.
        max_tokens_field: see `OpenAIEngine`.
        extra_body: see `OpenAIEngine`.
        request_timeout: seconds for one attempt.
        retries: of one request.
        max_in_flight: requests at a time.
        requests_per_minute: most requests started in a minute.
        prices: "prompt" and "completion", per million tokens.
    """
    if api not in ("chat", "completions"):
        raise UsageError(f"api must be 'chat' or 'completions', got {api!r}")
    if (api == "completions") != (tokenizer is not None):
        raise UsageError(
            "api 'completions' needs engine_options.tokenizer to write messages as text, and api 'chat' uses none"
        )
    if api_key_env is not None and not os.environ.get(api_key_env):
        raise UsageError(
            f"the environment variable {api_key_env!r} (api_key_env) is not set; put the key there"
        )
    address = checked_url(base_url)
    http = HttpClient(
        address if httpx.URL(address).path.strip("/") else address + "/v1",
        api_key_env=api_key_env or "OPENAI_API_KEY",
        request_timeout=request_timeout,
        retries=retries,
        max_in_flight=max_in_flight,
        requests_per_minute=requests_per_minute,
        prices=prices,
    )
    writer = None if tokenizer is None else _load_tokenizer(tokenizer)
    return OpenAIEngine(
        http, model, api=api, tokenizer=writer, max_tokens_field=max_tokens_field, extra_body=extra_body
    )


def _load_tokenizer(name: str) -> Any:
    loaded = find_tokenizer(name, "api 'completions'")
    if not getattr(loaded, "chat_template", None):
        raise UsageError(
            f"the tokenizer {name!r} has no chat template, which api 'completions' writes prompts with"
        )
    return loaded
