"""Any endpoint that speaks OpenAI's protocol, for evaluation: messages in, text out.

There are no token ids and no log-probs, so nothing can be trained on what it says. Leaves out what the messages say
(`agentbench.policies.chat`) and retries (`engines.http`).
"""

from __future__ import annotations

import functools
import logging
import queue
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Literal

import httpx

from ..config import refuse_keys
from ..dialogue.template import ChatTemplate
from ..engine import Completion, TextEngine, TextRequest
from ..errors import ContextFull, EngineFailure, UsageError
from ..models.loading import find_tokenizer
from ..types import SamplingParams
from .http import HttpClient, RequestRefused
from .reply import Said, first_choice, read_reply
from .secret import key_of
from .settings import checked_url

Api = Literal["chat", "completions"]

_LOG = logging.getLogger(__name__)

_PROBE_TOKENS = 16
_PROBE_RETRIES = 3
_PROBE_SEED = 0
_PROBE_PATIENCE = 60.0
_SAY_AFTER = 15.0
_SEEDS = 2**31
_LARGEST_ANSWER = 64 * 2**20
_OURS = ("seed", "temperature", "top_p", "top_k", "stop")
_ROUTES = ("/chat/completions", "/completions", "/responses", "/models")


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
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check that the model answers.

        Args:
            http: the client.
            model: name of the model at that endpoint.
            api: "chat" sends messages, "completions" sends them as one text.
            tokenizer: writes that text with its chat template.
            max_tokens_field: name of the limit on the reply; newer OpenAI models want max_completion_tokens.
            extra_body: added to every request, over what is set here; a field that is null is left out.
            template_options: of `tokenizer`'s chat template.
        Raises: UsageError: nothing answers, the key or the model is wrong.
        """
        refuse_keys("engine_options.extra_body", dict(extra_body or {}))
        refuse_keys("the model's name", model)
        self.http = http
        self.model = model
        self._api, self._limit_field = api, max_tokens_field
        self._template = None if tokenizer is None else ChatTemplate(tokenizer, template_options)
        self._extra = dict(extra_body or {})
        self._running: dict[str, Future[Said]] = {}
        self._ended: queue.SimpleQueue[tuple[str, Future[Said]]] = queue.SimpleQueue()
        self._finishes: Counter[str] = Counter()
        self._probed = SamplingParams(max_new_tokens=_PROBE_TOKENS)
        self._probe(self._probed)

    def check(self, sampling: SamplingParams) -> None:
        """Try the fields that requests will have, if the first probe had others.

        Raises: UsageError: the endpoint refuses one; says how to leave it out.
        """
        if sampling != self._probed:
            self._probe(sampling)
            self._probed = sampling

    def _probe(self, sampling: SamplingParams) -> None:
        """Send a short request with every field of a real one."""
        body = self._request([{"role": "user", "content": "Say yes."}], sampling, _PROBE_SEED)
        try:
            self._wait(
                self.http.start(self._path, body, _probed, retries=_PROBE_RETRIES, patience=_PROBE_PATIENCE)
            )
        except ContextFull as error:
            raise UsageError(
                f"{error}; a reply of max_new_tokens {sampling.max_new_tokens} does not fit, lower it"
            ) from error
        except RequestRefused as error:
            raise UsageError(f"{error}{_hint(error)}") from error
        except EngineFailure as error:
            raise UsageError(f"{error}; is base_url right, and the server up?") from error

    def _wait(self, answer: Future[None]) -> None:
        """Wait for a probe; nothing else happens meanwhile, so a long wait is told."""
        try:
            answer.result(_SAY_AFTER)
        except TimeoutError:
            _LOG.warning(
                "%s has not answered the first short request for %g s; one attempt may take %g s (engine option "
                "request_timeout)",
                self.http.base_url,
                _SAY_AFTER,
                self.http.request_timeout,
            )
            answer.result()

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
        """Requests, retries, tokens, seconds and cost so far; replies that ended with an unknown word, by word."""
        unknown = {f"finish_{word}": float(count) for word, count in sorted(self._finishes.items())}
        return self.http.usage.totals() | unknown

    def ask(self, requests: Sequence[TextRequest]) -> None:
        for request in requests:
            sampling = request.sampling
            if request.key in self._running:
                raise UsageError(f"two requests with the key {request.key!r} are in flight; keys must differ")
            if sampling.min_new_tokens:
                raise UsageError("engine 'openai' has no min_new_tokens")
            body = self._request(request.messages, sampling, request.seed)
            future = self.http.start(self._path, body, functools.partial(_read, stop=sampling.stop))
            self._running[request.key] = future
            future.add_done_callback(functools.partial(self._end, request.key))

    def _end(self, key: str, future: Future[Said]) -> None:
        self._ended.put((key, future))

    def _request(
        self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams, seed: int
    ) -> dict[str, Any]:
        body = self._body(messages) | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._limit_field: sampling.max_new_tokens,
            "seed": seed % _SEEDS,  # some endpoints take 31 bits only
        }
        if sampling.top_k:  # not in OpenAI's own protocol
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        dropped = {name for name, value in self._extra.items() if value is None}
        return {name: value for name, value in (body | self._extra).items() if name not in dropped}

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        if self._api == "chat":
            return {"model": self.model, "messages": [dict(message) for message in messages]}
        assert self._template is not None
        return {"model": self.model, "prompt": self._template.text(messages)}

    def poll(self, timeout: float | None = None) -> list[Completion]:
        """Wait until something is answered, at most `timeout` seconds; [] when nothing is asked or answered."""
        ready: list[Completion] = []
        until = None if timeout is None else time.monotonic() + timeout
        while self._running and (not ready or not self._ended.empty()):
            try:
                left = None if until is None else max(0.0, until - time.monotonic())
                key, future = self._ended.get(timeout=left)
            except queue.Empty:
                break
            if self._running.get(key) is not future:
                continue  # dropped meanwhile
            del self._running[key]
            ready.append(_completion(key, future))
            if not future.cancelled() and future.exception() is None and future.result().unknown_finish:
                self._finishes[future.result().unknown_finish] += 1
        return ready

    def drop(self, keys: Iterable[str]) -> None:
        """Stop requests; nothing more is heard of them."""
        for key in keys:
            future = self._running.pop(key, None)
            if future is not None:
                future.cancel()

    def close(self) -> None:
        self.http.close()


def _probed(answer: Any) -> None:
    """Any choice will do: a model may well think for longer than a probe lasts."""
    first_choice(answer)


def _read(answer: Any, stop: Sequence[str]) -> Said:
    return read_reply(answer, stop)


def _completion(key: str, future: Future[Said]) -> Completion:
    try:
        said = future.result()
    except EngineFailure as error:
        return Completion(key, failure=error)
    except (Exception, CancelledError) as error:  # whatever it is, it belongs to this request alone
        return Completion(key, failure=EngineFailure(f"{type(error).__name__}: {error}"))
    return Completion(key, said.action, content=said.content)


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
    if re.search(r"\bstream", error.reason, re.IGNORECASE):
        return "; for an endpoint that only streams, set engine_options.extra_body: {stream: true}"
    for field in _OURS:
        if field in error.reason:
            other = "use --temperature 1, or " if field == "temperature" else ""
            return f"; {other}leave the field out with engine_options.extra_body: {{{field}: null}}"
    return ""


def build(
    model: str,
    *,
    base_url: str = "https://api.openai.com/v1",
    api: Api = "chat",
    tokenizer: str | None = None,
    api_key_env: str | None = None,
    max_tokens_field: str = "max_tokens",
    extra_body: Mapping[str, Any] | None = None,
    template_options: Mapping[str, Any] | None = None,
    context_words: Sequence[str] = (),
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
        template_options: of the chat template of `tokenizer`, such as enable_thinking.
        context_words: regular expressions by which this endpoint says that a conversation is too long, where it is
            none of the known ones.
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
    if extra_body is not None and not isinstance(extra_body, Mapping):
        raise UsageError(f"extra_body must be a mapping of fields, got {extra_body!r}")
    if api_key_env is not None and not key_of(api_key_env):
        raise UsageError(
            f"the environment variable {api_key_env!r} (api_key_env) is not set; put the key there"
        )
    if template_options and tokenizer is None:
        raise UsageError("template_options belong to api 'completions' and its tokenizer")
    address = checked_url(base_url)
    for route in _ROUTES:
        address = address.removesuffix(route)
    http = HttpClient(
        address if httpx.URL(address).path.strip("/") else address + "/v1",
        api_key_env=api_key_env or "OPENAI_API_KEY",
        request_timeout=request_timeout,
        retries=retries,
        max_in_flight=max_in_flight,
        requests_per_minute=requests_per_minute,
        prices=prices,
        max_answer_bytes=_LARGEST_ANSWER,
        context_words=context_words,
    )
    writer = None if tokenizer is None else _load_tokenizer(tokenizer)
    return OpenAIEngine(
        http,
        model,
        api=api,
        tokenizer=writer,
        max_tokens_field=max_tokens_field,
        extra_body=extra_body,
        template_options=template_options,
    )


def _load_tokenizer(name: str) -> Any:
    loaded = find_tokenizer(name, "api 'completions'")
    if not getattr(loaded, "chat_template", None):
        raise UsageError(
            f"the tokenizer {name!r} has no chat template, which api 'completions' writes prompts with"
        )
    return loaded
