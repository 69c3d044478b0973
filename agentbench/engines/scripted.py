"""An engine that says what it is told: for tests, docs and smoke runs, with no model and no optional package.

Token ids and log-probs are real enough for everything downstream: ids decode to the reply's text and log-probs are a
fixed function of seed, position and id. Leaves out any thought about the prompt (give a function as the script).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine import Completion, Engine, Request
from ..errors import EngineFailure, UsageError
from ..models.chatml import CHATML_TEMPLATE, END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, START_OF_TURN
from ..types import Action, Finish, derive_seed
from .stops import StopFinder


class ByteTokenizer:
    """One token per UTF-8 byte plus the ChatML markers; the part of a Hugging Face tokenizer this project uses."""

    name_or_path = "bytes"
    chat_template = CHATML_TEMPLATE
    eos_token, pad_token = END_OF_TURN, END_OF_TEXT
    all_special_tokens: Sequence[str] = (END_OF_TURN, END_OF_TEXT, START_OF_TURN)

    def __init__(self) -> None:
        """Number the special tokens after the 256 bytes."""
        self._special = {token: 256 + index for index, token in enumerate(SPECIAL_TOKENS)}
        self._markers = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")
        self.eos_token_id = self._special[END_OF_TURN]
        self.pad_token_id = self._special[END_OF_TEXT]
        self.all_special_ids = [self._special[token] for token in self.all_special_tokens]

    def __len__(self) -> int:
        return 256 + len(self._special)

    @property
    def vocab_size(self) -> int:
        """Number of tokens that are not special."""
        return 256

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Id of a special token; None when it is not one."""
        return self._special.get(token)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Turn text into ids; special tokens written out in the text become their ids."""
        ids: list[int] = []
        for part in self._markers.split(text):
            ids.extend([self._special[part]] if part in self._special else part.encode())
        return ids

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """Turn ids back into text; invalid UTF-8 becomes the replacement character, unknown ids nothing."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        shown = (
            {} if skip_special_tokens else {index: token.encode() for token, index in self._special.items()}
        )
        return b"".join(bytes([i]) if i < 256 else shown.get(i, b"") for i in ids).decode(errors="replace")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str | list[int]:
        """Write messages in ChatML; options that the template does not know are ignored, as everywhere."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            self.chat_template
        )
        text = template.render(messages=messages, add_generation_prompt=add_generation_prompt, **options)
        return self.encode(text) if tokenize else text


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted reply, where a plain string is not enough.

    Attributes:
        text: what is said.
        delay: it becomes ready this many polls after the first poll that could return it.
        finish: "stop" adds the end token; "length" and "abort" leave the reply open.
        failure: when not empty, the request fails with this message instead.
    """

    text: str = ""
    delay: int = 0
    finish: Finish = "stop"
    failure: str = ""


Line = str | Reply
Script = Sequence[Line] | Mapping[str, Sequence[Line]] | Callable[[Request], Line]


@dataclass(slots=True)
class _Waiting:
    ready_at: int
    order: int
    request: Request
    reply: Reply = field(default_factory=Reply)


class ScriptedEngine(Engine):
    """Answers from a script.

    Attributes:
        requests: every request seen, in order.
        released: every slot released, in order.
    """

    def __init__(
        self,
        replies: Script,
        tokenizer: Any = None,
        *,
        cycle: bool = False,
        max_context: int = 8192,
        per_poll: int | None = None,
        lifo: bool = False,
    ) -> None:
        """Take the script.

        Args:
            replies: a list is the script of every conversation; a mapping has one list per slot; a function answers
                each request. Conversations are told apart by `slot` (by `key` where that is empty), and a released
                slot starts anew.
            tokenizer: whose ids to speak; None takes `ByteTokenizer`.
            cycle: start over when a script ends, instead of failing.
            max_context: prompt plus reply; longer replies are cut, longer prompts fail.
            per_poll: most completions one poll returns; None for all that are ready.
            lifo: among replies that are ready, return the last submitted first.
        """
        self.tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        self.max_context = max_context
        self.policy_version = 0
        self.requests: list[Request] = []
        self.released: list[str] = []
        self._replies = replies
        self._cycle = cycle
        self._per_poll = per_poll
        self._lifo = lifo
        self._spoken: dict[str, int] = {}
        self._waiting: list[_Waiting] = []
        self._clock = 0

    @property
    def info(self) -> dict[str, Any]:
        """Say that this is a script."""
        return {"name": "scripted", "model": "script", "policy_version": self.policy_version}

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; the script is read in this order."""
        for request in requests:
            reply = self._next_reply(request)
            self._waiting.append(_Waiting(self._clock + reply.delay, len(self.requests), request, reply))
            self.requests.append(request)

    def poll(self) -> list[Completion]:
        """Return what is ready; when nothing is, time jumps to the next reply."""
        if not self._waiting:
            return []
        self._clock = max(self._clock, min(waiting.ready_at for waiting in self._waiting))
        ready = [waiting for waiting in self._waiting if waiting.ready_at <= self._clock]
        ready = sorted(ready, key=lambda waiting: waiting.order, reverse=self._lifo)[: self._per_poll]
        self._waiting = [waiting for waiting in self._waiting if waiting not in ready]
        self._clock += 1
        return [self._complete(waiting.request, waiting.reply) for waiting in ready]

    def release(self, slot: str) -> None:
        """Start the slot's script anew."""
        self.released.append(slot)
        self._spoken.pop(slot, None)

    def load_weights(self, named_tensors: Iterable[tuple[str, Any]]) -> int:
        """Count one weight update; the tensors are read and dropped."""
        for _ in named_tensors:
            pass
        self.policy_version += 1
        return self.policy_version

    def _next_reply(self, request: Request) -> Reply:
        if callable(self._replies):
            line = self._replies(request)
        else:
            slot = request.slot or request.key
            script = self._replies.get(slot, ()) if isinstance(self._replies, Mapping) else self._replies
            turn = self._spoken.get(slot, 0)
            self._spoken[slot] = turn + 1
            if not script or (turn >= len(script) and not self._cycle):
                raise UsageError(
                    f"the script of slot {slot!r} has {len(script)} replies and was asked for number {turn + 1}; "
                    "add replies or pass cycle=True"
                )
            line = script[turn % len(script)]
        return Reply(line) if isinstance(line, str) else line

    def _complete(self, request: Request, reply: Reply) -> Completion:
        room = min(request.sampling.max_new_tokens, self.max_context - len(request.token_ids))
        if reply.failure or room <= 0:
            message = reply.failure or (
                f"the prompt has {len(request.token_ids)} tokens and max_context is {self.max_context}"
            )
            return Completion(request.key, failure=EngineFailure(message))
        ids = self.tokenizer.encode(reply.text, add_special_tokens=False)
        if reply.finish == "stop":
            ids = [*ids, request.end_ids[0] if request.end_ids else self.tokenizer.eos_token_id]
        if request.choices is not None and tuple(ids) not in request.choices:
            message = f"the script says {reply.text!r}, which is none of the {len(request.choices)} choices"
            return Completion(request.key, failure=EngineFailure(message))
        finish = reply.finish if len(ids) <= room else "length"
        ids = ids[:room]
        sampling = request.sampling
        if request.choices is None:
            length = StopFinder(self.tokenizer).length(ids, sampling.stop, sampling.min_new_tokens)
            if length is not None:
                ids, finish = ids[:length], "stop"
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        logprobs = [_logprob(request.seed, position, token) for position, token in enumerate(ids)]
        return Completion(request.key, Action(text, ids, logprobs, finish, self.policy_version))


def _logprob(seed: int, position: int, token: int) -> float:
    """Pretend a log-prob: a multiple of 1/64 in (-4, 0), fixed by its arguments."""
    return -(derive_seed(seed, position, token) % 255 + 1) / 64


def build(
    model: str = "look",
    *,
    tokenizer: Any = None,
    cycle: bool = True,
    max_context: int = 8192,
    per_poll: int | None = None,
    lifo: bool = False,
) -> ScriptedEngine:
    """Build the engine by name: it says `model` over and over ("|" separates several replies).

    Args:
        model: the script, such as "look|go north".
        tokenizer: see `ScriptedEngine`; so are the others.
    """
    return ScriptedEngine(
        model.split("|"), tokenizer, cycle=cycle, max_context=max_context, per_poll=per_poll, lifo=lifo
    )
