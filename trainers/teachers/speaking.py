"""Teachers that speak: any engine writes what a teacher says of its own, with its own sampling and limits.

What is said follows from the run's seed, the speaker and the prompt alone. So equal prompts get equal answers in any
order, in any number of processes and after a resume, and an answer that is known is not asked for again. An engine's
fault is counted, and what it should have said is missing: nothing is ever filled in.
Leaves out what is asked (`debate`) and what becomes of the answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agentbench.dialogue.control import ControlTokens
from agentbench.dialogue.template import ChatTemplate
from agentbench.engine import Checked, Completion, Engine, Request, TextEngine, TextRequest
from agentbench.errors import UsageError
from agentbench.registry import open_engine
from agentbench.training.config import SpeakerConfig, TeacherConfig
from agentbench.types import SamplingParams, derive_seed

from .contract import Teacher
from .local import LocalTeacher

K = TypeVar("K", bound=Hashable)

_LOADING = {"dtype", "device", "trust_remote_code", "revision", "attn_implementation"}
"""Options of engine "hf" with which it loads weights of its own."""

_KEPT = 8192
"""Answers that are remembered; the oldest are forgotten, and would be the same again."""


@dataclass(frozen=True)
class Spoken:
    """One message.

    Attributes:
        text: without special tokens.
        cut: it ran into the limit of tokens.
        tokens: sampled for it; 0 where an engine gives text alone.
        logp: mean log-prob of these tokens in nats, under the distribution they were sampled from; None without tokens.
    """

    text: str
    cut: bool
    tokens: int
    logp: float | None


class Speaker:
    """One teacher's voice.

    Attributes:
        faults: requests that were not answered, by the name of what went wrong; "ContextFull" is a prompt that leaves
            no room for a message.
        recalled: answers that were known already.
        tokens: sampled so far.
    """

    def __init__(self, engine: Engine | TextEngine, config: SpeakerConfig, seed: int) -> None:
        """Bind an engine.

        Args:
            engine: speaks.
            config: how.
            seed: of the run and the speaker.
        Raises: UsageError: the engine takes no bare text or not this sampling, or its tokenizer has no chat template.
        """
        self.engine, self.seed = engine, seed
        self.sampling = SamplingParams(
            config.temperature, config.top_p, config.top_k, config.max_new_tokens, stop=tuple(config.stop)
        )
        self.faults: Counter[str] = Counter()
        self.recalled = self.tokens = 0
        self._known: OrderedDict[str, Spoken] = OrderedDict()
        self._asked: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._template: ChatTemplate | None = None
        if isinstance(engine, TextEngine):
            if config.format == "raw":
                raise UsageError(
                    f"teachers.speaker.format: raw needs an engine that takes tokens, and {config.engine!r} takes "
                    "messages; use format: chat (engine 'openai' sends a text with the option api: completions)"
                )
            if config.template_options:
                raise UsageError(
                    f"teachers.speaker.template_options would be ignored: {config.engine!r} takes messages, and writes "
                    "no template itself; set them in teachers.speaker.engine_options, where the engine has them"
                )
            if isinstance(engine, Checked):
                engine.check(self.sampling)
        elif config.format == "chat":
            self._template = ChatTemplate(engine.tokenizer, config.template_options)
            self._template.check(system=False, growing=False)
            self._control = self._template.control
        else:
            self._control = ControlTokens(engine.tokenizer, "")

    def ask(self, prompts: Mapping[K, str]) -> None:
        """Queue prompts; returns at once. `answers` gives what is said to them."""
        fresh = sorted(set(prompts.values()))
        self._asked = {self._name(prompt): prompt for prompt in fresh}
        new = [name for name in self._asked if name not in self._known]
        self.recalled += len(prompts) - len(new)
        self._waiting = set(new)
        if not new:
            return
        if isinstance(self.engine, TextEngine):
            self.engine.ask([self._text_request(name) for name in new])
            return
        requests = [self._request(name) for name in new]
        room = self.engine.max_context - self.sampling.max_new_tokens
        fitting = [request for request in requests if len(request.token_ids) <= room]
        if len(fitting) < len(requests):
            self.faults["ContextFull"] += len(requests) - len(fitting)
        self._waiting = {request.key for request in fitting}
        self.engine.submit(fitting)

    def answers(self, prompts: Mapping[K, str]) -> dict[K, Spoken]:
        """Wait for the answers to what was asked; a prompt that was not answered is absent."""
        found = {name: self._known[name] for name in self._asked if name in self._known}
        while self._waiting:
            for completion in self.engine.poll():
                self._waiting.remove(completion.key)
                if isinstance(self.engine, Engine):
                    self.engine.release(completion.key)
                said = self._read(completion)
                if said is not None:
                    found[completion.key] = self._known[completion.key] = said
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        names = {key: self._name(prompt) for key, prompt in prompts.items()}
        return {key: found[name] for key, name in names.items() if name in found}

    def _read(self, completion: Completion) -> Spoken | None:
        action = completion.action
        if action is None or action.finish == "abort":
            self.faults[type(completion.failure).__name__ if action is None else "abort"] += 1
            return None
        count = len(action.token_ids)
        self.tokens += count
        return Spoken(
            action.text.strip(),
            action.finish == "length",
            count,
            sum(action.logprobs) / count if count else None,
        )

    def _name(self, prompt: str) -> str:
        return hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=16).hexdigest()

    def _seed(self, name: str) -> int:
        return derive_seed(self.seed, "speaker", name)

    def _text_request(self, name: str) -> TextRequest:
        message = {"role": "user", "content": self._asked[name]}
        return TextRequest(name, (message,), self.sampling, self._seed(name))

    def _request(self, name: str) -> Request:
        prompt, template = self._control.hide(self._asked[name]), self._template
        ends: tuple[int, ...] = ()
        if template is not None:
            ids = self._control.encode(template.text([{"role": "user", "content": prompt}]))
            ends = (template.border.end,)
        else:
            ids = [*_first_ids(self.engine.tokenizer), *self._control.encode(prompt)]  # type: ignore[union-attr]
        return Request(name, ids, self.sampling, self._seed(name), slot=name, end_ids=ends)


def _first_ids(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before every text, such as Llama's begin-of-text."""
    begin = getattr(tokenizer, "bos_token_id", None)
    return [begin] if begin is not None and begin in tokenizer.encode("") else []


def speak(asked: Sequence[tuple[Speaker, Mapping[K, str]]]) -> list[dict[K, Spoken]]:
    """Ask several speakers at once, each its own prompts, and wait for all of them."""
    for speaker, prompts in asked:
        speaker.ask(prompts)
    return [speaker.answers(prompts) for speaker, prompts in asked]


def open_speaker(config: TeacherConfig, teacher: Teacher, seed: int) -> Speaker:
    """Open the voice that a teacher's configuration names.

    Args:
        config: of the teacher.
        teacher: opened from it; a local one lends its weights to engine "hf" where nothing says how to load others.
        seed: of the run and the speaker.
    Raises: UsageError: the engine cannot be opened, or cannot speak so.
    """
    chosen = config.speaker or SpeakerConfig()
    model = chosen.model_name_or_path or config.model_name_or_path
    own = (
        chosen.engine == "hf"
        and model == config.model_name_or_path
        and not _LOADING & set(chosen.engine_options)
    )
    if own and isinstance(teacher, LocalTeacher):
        return Speaker(_shared(teacher, model, chosen.engine_options), chosen, seed)
    return Speaker(open_engine(chosen.engine, model, chosen.engine_options), chosen, seed)


def _shared(teacher: LocalTeacher, name: str, options: Mapping[str, Any]) -> Engine:
    """An engine on the very weights that score."""
    from agentbench.engines.hf.engine import HFEngine

    return HFEngine(teacher.net.plain, teacher.tokenizer, name=name, **options)
