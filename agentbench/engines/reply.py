"""What a model said, out of a usable answer of OpenAI's protocol in the shapes that servers give it.

A thought that the server sent apart is put back in front of the reply, so that parsers and records see one text, as
from an engine that samples tokens. Leaves out errors (`answers`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineFailure
from ..types import Action, Finish
from .stops import cut_text, put_back

_LENGTH = frozenset(
    {
        "length",
        "max_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "max_length",
        "model_length",
        "token_limit",
        "model_context_window_exceeded",
        "incomplete",
    }
)
_STOP = frozenset(
    {
        "stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "stop_words", "end", "finished",
        "complete", "completed", "tool_calls", "tool_use", "tool_call", "function_call", "",
    }
)  # fmt: skip
_REFUSED = frozenset(
    {
        "content_filter", "error", "abort", "aborted", "cancelled", "safety", "recitation", "blocklist", "spii",
        "prohibited_content", "guardrail_intervened", "content_filtered", "sensitive", "image_safety", "model_armor",
        "malformed_function_call", "insufficient_system_resource", "network_error", "server_error", "timeout",
        "time_limit", "user_cancel", "error_toxic", "error_limit",
    }
)  # fmt: skip
_TOOL_CALLS = frozenset({"tool_calls", "tool_use", "tool_call", "function_call"})
_THOUGHT_FIELDS = (
    "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "reasoning_text", "thinking_blocks",
    "reasoning_details",
)  # fmt: skip
_OTHER_THOUGHT = re.compile(
    r"(?i)(^|_)(reasoning|thinking|thoughts?|chain_of_thought|cot|rationale|analysis)(_(content|text|process|output))?$"
)
"""Names of such a field at servers that nobody knows."""

_THOUGHT_PART = re.compile(r"think|thought|reason")
_FINISH_PREFIX = re.compile(r"^.*(finish|stop)_?reason[._:]")
"""What enumerations of client libraries put before the word: "FinishReason.STOP", "FINISH_REASON_STOP"."""

_CUT = re.compile(r"length|truncat|max.*token|token.*limit|^(output_)?limit")
_REFUSING = re.compile(
    r"filter|safety|moderat|inspect|policy|violat|block|prohibit|refus|preempt|abort|cancel|error|fail|time_?out"
)
"""Parts of words that nobody listed: that a reply was cut, or that the provider would not go on."""

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ODD = re.compile(r"[^a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Said:
    """A reply.

    Attributes:
        action: all of it, the thought in front.
        content: what a conversation repeats of it: the reply without a thought that came apart.
        unknown_finish: a reason that is none of the known ones, "" mostly; it is taken for "stop".
    """

    action: Action
    content: str
    unknown_finish: str = ""


def first_choice(answer: Any) -> Mapping[str, Any]:
    """The first choice of an answer, which some gateways wrap.

    Raises: KeyError, TypeError, IndexError: there is none.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, Mapping):
        raise TypeError(f"the answer is {type(answer).__name__}")
    for wrapper in ("data", "result", "response"):
        inner = answer.get(wrapper)
        if "choices" not in answer and isinstance(inner, Mapping) and "choices" in inner:
            answer = inner
    choice = answer["choices"][0]
    if not isinstance(choice, Mapping):
        raise TypeError(f"choices[0] is {type(choice).__name__}")
    return choice


def read_reply(answer: Any, stop: Sequence[str] = ()) -> Said:
    """Read the first choice, as far as its first stop string.

    Raises: EngineFailure: the provider stopped the reply. KeyError, TypeError, ValueError, IndexError: there is none.
    """
    choice = first_choice(answer)
    finish, word = _finish(choice.get("finish_reason"))
    named = next((name for name in ("message", "delta") if name in choice), None)
    message = {"content": choice["text"]} if named is None else choice[named]
    if not isinstance(message, Mapping):
        raise TypeError(f"message is {type(message).__name__}")
    content, thought = _parts(message.get("content"))
    thought = _thought_beside(message, choice) or thought
    if message.get("content") is None:
        content = _text(message.get("refusal"))
        spoke = content or thought or message.get("tool_calls") or message.get("function_call")
        if not spoke and finish != "length" and word not in _TOOL_CALLS:
            raise ValueError("the reply has no content")
    content, finish = _stopped(content, choice, finish, stop)
    text = content
    if thought.strip() and "<think>" not in content:
        closed = finish == "stop" or content.strip()  # a thought that was cut never ended
        text = f"<think>{thought}</think>{content}" if closed else f"<think>{thought}"
    known = finish == "length" or word in _STOP
    return Said(Action(text, finish=finish), content, "" if known else word[:20])


def _stopped(text: str, choice: Mapping[str, Any], finish: Finish, stop: Sequence[str]) -> tuple[str, Finish]:
    """A reply as far as its first stop string, which most endpoints leave out.

    vLLM says which one it met (`stop_reason`; null for an end token), SGLang too (`matched_stop`). Others do not, so
    a closing tag is put back where its opening tag stands open.
    """
    whole = cut_text(text, stop)
    if whole is not None:  # an endpoint that includes stop strings, or goes on beyond them
        return whole, "stop"
    for field in ("stop_reason", "matched_stop"):
        if field in choice:
            met = choice[field]
            return (text + met if met in stop else text), finish
    return (put_back(text, stop) if finish == "stop" else text), finish


def _finish(reason: Any) -> tuple[Finish, str]:
    """How a reply ended, and the word for it in lower case."""
    word = reason if isinstance(reason, str) else "" if reason is None else type(reason).__name__
    word = _CAMEL.sub("_", word.strip()).lower()
    word = _ODD.sub("_", _FINISH_PREFIX.sub("", word)).strip("_")
    if word in _REFUSED or _REFUSING.search(word):  # the provider's doing, not the agent's
        raise EngineFailure(f"the endpoint ended the reply with finish_reason {word!r}")
    return ("length" if word in _LENGTH or _CUT.search(word) else "stop"), word


def _parts(content: Any) -> tuple[str, str]:
    """Text and thought of a content that may come in parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise TypeError(f"the reply is {type(content).__name__}, not text")
    said: list[str] = []
    thought: list[str] = []
    for part in content:
        if not isinstance(part, Mapping | str):
            raise TypeError(f"a part of the reply is {type(part).__name__}")
        thinks = isinstance(part, Mapping) and _THOUGHT_PART.search(str(part.get("type")))
        (thought if thinks else said).append(_text(part))
    return "".join(said), "".join(thought)


def _thought_beside(message: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """The thought in a field of its own; the same thought may stand in several."""
    more = [message.get(name) for name in ("provider_specific_fields", "model_extra", "additional_kwargs")]
    holders = [message, choice, *(item for item in more if isinstance(item, Mapping))]  # LiteLLM, LangChain
    for holder in holders:
        others = [name for name in holder if _OTHER_THOUGHT.search(str(name))]
        for name in (*_THOUGHT_FIELDS, *others):
            found = _text(holder.get(name))
            if found.strip():
                return found
    return ""


def _text(value: Any) -> str:
    """All text in a value of unknown shape: a text, a part, or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, Mapping):
        names = ("text", "content", "value", "thinking", "reasoning", "summary", "refusal")
        return next((found for name in names if (found := _text(value.get(name)))), "")
    return ""
