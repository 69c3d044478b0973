"""What an endpoint's answer means: usable, the context is full, refused for good, or worth another try.

One function (`judge`) decides about (status, body) for every status, because servers report errors with any of them,
200 included. Leaves out asking again (`http`) and what a usable answer says (`openai`, `vllm.wire`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Kind = Literal["usable", "context_full", "refused", "rate_limit", "server_error"]

CONTEXT_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Azure
        "exceed_context_size_error",  # llama.cpp
        "context_window_exceeded",
        "string_above_max_length",
        "tokens_limit_reached",  # GitHub Models
    }
)
"""Error codes and types that say the conversation is too long."""

CONTEXT_WORDS: tuple[tuple[str, str], ...] = (
    (
        "OpenAI, vLLM, DeepSeek, SGLang, xAI",
        r"max(imum)? (\w+ )?(context|prompt|sequence|token|input) length|model's context length",
    ),
    ("vLLM", r"longer than the maximum model length|max_model_len|max_tokens must be at least 1, got (-|0)"),
    (
        "llama.cpp",
        r"exceeds? the available context size|context shift is disabled|context size has been exceeded",
    ),
    ("TGI", r"`?inputs`? tokens \+ `?max_new_tokens`? must be <=|`inputs` must have less than \d+ tokens"),
    ("Anthropic", r"exceed context limit|input length and `?max_tokens`? exceed"),
    (
        "Gemini, Vertex",
        r"input token count .{0,20}(exceeds the maximum number of tokens|but .{0,20}supports)",
    ),
    ("Mistral", r"too large for model with \d+ maximum context"),
    ("LM Studio", r"context (the )?overflows|loaded with context length of only"),
    (
        "Cohere, Together, Fireworks",
        r"too many (input )?tokens|(prompt|input) (length|tokens?) .{0,40}exceeds?",
    ),
    ("Bedrock", r"too many total text bytes"),
    ("Moonshot", r"exceed\w* (the )?(model'?s? )?(max\w* )?token limit"),
    ("DashScope, Baidu", r"range of input length|max(imum)? input (length|characters|tokens)"),
    ("TabbyAPI, SiliconFlow, TensorRT-LLM", r"max_(seq_len|num_tokens|input_len)"),
    (
        "Zhipu and others in Chinese",
        r"[超过太]长|超过.{0,16}(长度|上下文|token)|(长度|上下文|token).{0,16}(超过|超出)",
    ),
    (
        "servers in Japanese and Korean",
        r"長すぎ|トークン.{0,16}超|(최대|토큰|길이).{0,20}초과",
    ),
    (
        "others",
        r"\b(prompts?|inputs?|messages?|conversation|request)\b.{0,30}\b((is|are) )?(too long|exceeds? max)",
    ),
    (
        "others",
        r"context[ _]?(length|window|size|limit)( of [\w.:/-]+)? .{0,40}exceed|exceed\w* .{0,60}context",
    ),
    ("others", r"context[ _]?(length|window)|context size"),
)
"""(server, its words): any of these means that the conversation is too long."""

_CONTEXT = re.compile("|".join(words for _, words in CONTEXT_WORDS), re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"request too large|too many tokens|reduce|max size: \d+ tokens|exceeds the max", re.I
)  # Groq's, GitHub's 413
_OTHER_TROUBLE = re.compile(
    r"out of memory|(unknown|unrecogni[sz]ed|unsupported|unexpected|invalid) (request )?(argument|parameter|field)s?"
    r"( supplied)?: ?\W?context|throttl|please wait before",
    re.IGNORECASE,
)
"""Words by which an error that also speaks of a context, or of tokens, is about something else."""

_TOO_LONG = re.compile(
    r"\b(prompt|input|message|conversation|sequence|token|text)\w*\b.{0,80}?"
    r"\b(exceed\w*|surpass\w*|(long|larg|great|high)er than|more than|too (long|large|many))\b"
    r"|\b(exceed\w*|too (long|large|many))\b.{0,60}?\b(prompt|input|conversation|sequence|token)\w*",
    re.IGNORECASE,
)
"""What any server says in its own words: a text, or its tokens, and that there is too much of it."""

_NOT_LENGTH = re.compile(
    r"quota|billing|credit|subscription|your plan|budget|per.?(second|minute|hour|day|month)|\b(rpm|tpm|rpd|tpd)\b|"
    r"daily|weekly|monthly|rate.?limit|too many requests|overload|images?\b|tool|function|schema|grammar|api.?key|"
    r"\bstop\b|logprobs|expire|access.?token|auth",
    re.IGNORECASE,
)
"""Words by which an error that speaks of too much is about something else than the conversation."""

_THROTTLED = re.compile(r"throttl|rate.?limit|too many requests", re.IGNORECASE)
_AGAIN = frozenset({408, 409, 423, 425, 498, 499})
"""Statuses below 500 that may pass: too slow, locked, too early, no capacity (Groq's 498), a proxy's own 499."""
_NOT_CONTEXT = frozenset({401, 402, 403, 404, 429})
_QUOTA = re.compile(
    r"insufficient_quota|billing|exceeded your current quota|insufficient.{0,12}(credits?|balance|funds)|credit balance"
    r"|arrear|overdue|recharge|top.?up|余额|欠费|充值",
    re.I,
)
_CODE_WORDS: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (status, re.compile(words, re.IGNORECASE))
    for status, words in (
        (429, r"throttl"),
        (401, r"auth|api.?key|credential"),
        (402, r"quota|billing|credit|insufficient|balance"),
        (403, r"permission|forbidden"),
        (404, r"not.?found|does not exist"),
        (429, r"rate.?limit|too many requests"),
        (400, r"invalid.?request|bad.?request|validation|unsupported"),
        (400, r"inspection|content.?(filter|policy)|moderation|sensitive|safety"),
    )
)
_MESSAGE_WORDS: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (status, re.compile(words, re.IGNORECASE))
    for status, words in (
        (429, r"rate.?limit|too many requests|request limit|throttl"),
        (
            401,
            r"unauthori[sz]ed|authentication|login fail|(api.?key|token) .{0,20}invalid|"
            r"invalid.{0,12}(api.?key|token|auth)",
        ),
        (404, r"model .{0,40}(not found|not exist)|^not found$"),
    )
)
"""(status, words): what an error's code, or its message, says where no number does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means.

    Attributes:
        kind: "usable" goes on to be read; "rate_limit" and "server_error" may be asked again; the rest may not.
        status: of the HTTP answer, or the one that an error inside a 200 speaks of.
        code: the error's own code or type, "" when it has none.
        message: the server's words.
    """

    kind: Kind
    status: int = 200
    code: str = ""
    message: str = ""


_COMMENTS = re.compile(r"\A\ufeff?(\s*:[^\n]*\n)*\s*")
"""What gateways send so that nobody hangs up while a model thinks, and marks of an encoding."""

_STREAM = re.compile(r"(data|event|id|retry):")


def parse(raw: bytes) -> Any:
    """Read a body; half characters become the replacement character, and a stream that nobody asked for is joined.

    Raises: ValueError: it is no JSON.
    """
    if not raw.strip():
        return None
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        text = _COMMENTS.sub("", raw.decode(json.detect_encoding(raw), errors="replace"))
        if _STREAM.match(text):
            return _joined(text)
        try:
            return _whole(
                json.loads(text)
            )  # which takes what orjson does not: the half of a pair of surrogates
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return value


def _joined(text: str) -> dict[str, Any]:
    """One answer from the pieces of a stream.

    Raises: ValueError: it breaks off; half a reply must not be taken for one.
    """
    found: dict[str, Any] = {}
    said: dict[str, Any] = {}
    finish, whole = None, False
    for line in text.splitlines():
        field, _, data = line.partition(":")
        data = data.strip()
        if field != "data" or not data:
            continue  # a comment, or the name of an event
        if data == "[DONE]":
            whole = True
            continue
        piece = json.loads(data)
        if not isinstance(piece, dict):
            raise ValueError(f"a piece of the stream is {type(piece).__name__}")
        for choice in piece.get("choices") or []:
            if choice.get("index") in (0, None):
                _add(said, choice)
                finish = choice.get("finish_reason") or finish
        found |= {name: value for name, value in piece.items() if value and name != "choices"}
    if not (whole or finish or found.get("error")):
        raise ValueError("the stream breaks off")
    return found | {"choices": [{"message": said, "finish_reason": finish}]}


def _add(said: dict[str, Any], choice: Mapping[str, Any]) -> None:
    """Add a piece of a choice to what was said before."""
    piece = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
    for name, value in piece.items():
        old = said.get(name)
        grows = name != "role" and type(old) is type(value) and isinstance(value, str | list)
        if grows:
            said[name] = old + value
        elif value is not None or name not in said:
            said[name] = value


def judge(status: int, body: Any, text: str = "", context_words: Sequence[str] = ()) -> Verdict:
    """Decide what an answer means.

    Args:
        status: of HTTP.
        body: parsed JSON; None where it is none.
        text: the body as text, for errors that are no JSON.
        context_words: regular expressions beside `CONTEXT_WORDS`.
    """
    error = _error_in(status, body)
    if error is None and status < 300:
        return Verdict("usable", status)
    codes, message, more = _said(error if error is not None else text)
    code = codes[0] if codes else ""
    if status < 300:
        status = _status_of(codes, message)
    words = f"{message} {more}"
    if status == 400 and any(_THROTTLED.search(code) for code in codes):  # AWS
        status = 429
    full = bool(CONTEXT_CODES & set(codes)) or (
        status not in _NOT_CONTEXT
        and _OTHER_TROUBLE.search(words) is None
        and (
            _CONTEXT.search(words) is not None
            or any(re.search(own, words, re.I) for own in context_words)
            or (status < 503 and _TOO_LONG.search(words) is not None and _NOT_LENGTH.search(words) is None)
        )
    )
    if full or (status == 413 and isinstance(error, Mapping) and _TOO_LARGE.search(words)):
        return Verdict("context_full", status, code, message)
    kind: Kind = "refused"
    if status == 429 and not _QUOTA.search(f"{' '.join(codes)} {message}"):
        kind = "rate_limit"
    elif status >= 500 or status in _AGAIN:
        kind = "server_error"
    return Verdict(kind, status, code, message)


def _error_in(status: int, body: Any) -> Any:
    """The error that a body speaks of, in the shapes that servers use; None without one."""
    if isinstance(body, list) and len(body) == 1:  # Gemini
        body = body[0]
    if not isinstance(body, Mapping):
        return body if status >= 300 else None
    error = body.get("error")
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not error and isinstance(first, Mapping):
        error = first.get("error")
        if not error and first.get("finish_reason") == "error":  # OpenRouter
            error = {"message": "the reply ended with finish_reason 'error'", "code": 502}
    if isinstance(error, Mapping) and not any(error.values()):  # a form that is always there, mostly empty
        error = None
    if not error and (status >= 300 or body.get("object") == "error" or body.get("type") == "error"):
        error = body
    if not error and not choices:
        error = _without_the_word(body)
    if isinstance(error, str) and isinstance(body.get("error_type"), str):  # TGI
        return {"message": error, "type": body["error_type"]}
    return error or None


def _without_the_word(body: Mapping[str, Any]) -> Any:
    """The error in a body of status 200 that has no "error": the shapes of some gateways."""
    base = body.get("base_resp")
    if isinstance(base, Mapping) and base.get("status_code"):  # MiniMax
        return {"code": base["status_code"], "message": base.get("status_msg")}
    if body.get("error_code"):  # Baidu
        return {"code": body["error_code"], "message": body.get("error_msg")}
    errors = body.get("errors")
    if isinstance(errors, list) and errors:  # Cloudflare
        return errors[0]
    coded = body.get("code") and (body.get("message") or body.get("msg"))  # DashScope, SiliconFlow
    # alone it is the answer of a route that can say no
    failed = len(body) > 1 and (body.get("success") is False or body.get("ok") is False)
    status, said = body.get("status"), str(body.get("message") or body.get("msg") or "")
    bad = _number(status) is not None or status in ("error", "fail", "failed", "failure")
    named = any(words.search(said) for _, words in _MESSAGE_WORDS)
    return body if coded or failed or bad or named or body.keys() == {"detail"} else None


def _number(code: Any) -> int | None:
    """The HTTP status of a failure that a code is, in whatever form; None where it is none."""
    try:
        number = float(str(code))
    except ValueError:
        return None
    return int(number) if 300 <= number < 600 else None


def _said(error: Any) -> tuple[list[str], str, str]:
    """Codes, message, and further words of an error."""
    if not isinstance(error, Mapping):
        return [], error if isinstance(error, str) else str(error), ""
    inner = error.get("error")
    if isinstance(inner, Mapping):  # an error inside an error
        error = {**error, **inner}
    codes = [str(error[name]) for name in ("code", "type", "status", "__type") if error.get(name)]
    message = error.get("message") or error.get("detail") or error.get("msg")
    if isinstance(message, list) and message and isinstance(message[0], Mapping):  # FastAPI
        place = message[0].get("loc")
        within = [str(name) for name in place[1:]] if isinstance(place, list) else []
        message = ": ".join([*([".".join(within)] if within else []), str(message[0].get("msg") or message)])
    parameter = error.get("param")
    if isinstance(parameter, str) and isinstance(message, str) and parameter not in message:
        message = f"{message} (parameter {parameter!r})"
    metadata = error.get("metadata")  # OpenRouter keeps the provider's own words there
    return codes, str(message or dict(error)), str(metadata or "")


def _status_of(codes: Sequence[str], message: str) -> int:
    """The status that an error inside a 200 speaks of; 500, which may be asked again, where it does not say."""
    for code in codes:
        if (number := _number(code)) is not None:
            return number
    for status, words in _CODE_WORDS:
        if any(words.search(code) for code in codes):
            return status
    return next((status for status, words in _MESSAGE_WORDS if words.search(message)), 500)
