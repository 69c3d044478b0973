"""Builds the policy that a configuration names. Leaves out what policies do (`policy`) and running them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson
from pydantic import Field

from ..config import Section, StopStrings, parse_yaml
from ..dialogue.parse import get_parser
from ..dialogue.prompt import Prompt, load_prompt
from ..dialogue.render import Renderer
from ..engine import Engine, TextEngine
from ..env import EnvSpec
from ..errors import ConfigError, CorruptData, MissingData, UsageError, unknown_name
from ..foreign import printable, shortened
from ..policy import Policy
from ..registry import load, open_engine
from ..runs.episodes import encode_episode, read_episodes
from ..types import Guided, SamplingParams
from .chat import ChatPolicy
from .model import ModelPolicy
from .ready import ExpertPolicy, ExplorerPolicy, NullPolicy, RandomPolicy, ReplayPolicy, ScriptedPolicy

POLICIES: dict[str, str] = {
    "expert": "the env's own expert",
    "explorer": "the env's expert that knows only the text",
    "random": "an admissible command at random",
    "null": "the same useless words every turn; must score 0",
    "replay:FILE": "the commands of a recorded run (folder or episodes.jsonl)",
    "scripted:FILE": "lines of a text file, or a YAML/JSON list, or a mapping from task id to list",
    "model": "a language model behind an engine",
}
"""Policy names, as `agentbench eval --policy` takes them; "package.module:Name" works too."""

_NAMES_ONLY = ("scripted", "openai")
"""Engines whose model is no folder of ours."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


class PolicyConfig(Section):
    """Who acts.

    Attributes:
        policy: see `POLICIES`; the other keys are for "model" alone.
        model_name_or_path: local folder or hub id.
        engine: engine plug-in, with its own keyword options in `engine_options`.
        prompt: name, reference or file of a prompt, or the prompt itself; None takes the env's own.
        parser: reads commands out of replies; None takes the prompt's or the env's own.
        template_options: keyword options of the chat template, such as enable_thinking; `today` is the date it writes.
        history: observation-action pairs in a prompt; None takes the env's own.
        guided: sample only among admissible commands: true token by token, "whole" by the mean log-prob of a command's
            tokens.
        stop: texts that end a reply, see `SamplingParams`; None takes the prompt's.
    """

    policy: str
    model_name_or_path: str | None = None
    engine: str = "hf"
    engine_options: dict[str, Any] = Field(default_factory=dict)
    prompt: str | dict[str, Any] | None = None
    parser: str | None = None
    template_options: dict[str, Any] = Field(default_factory=dict)
    history: int | None = Field(default=None, ge=0)
    guided: Guided = False
    temperature: float = Field(default=0.4, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=512, ge=1)
    stop: StopStrings | None = None


def build_policy(
    config: PolicyConfig,
    spec: EnvSpec,
    max_turns: int | None = None,
    *,
    engine: Engine | TextEngine | None = None,
) -> Policy:
    """Build the policy that a configuration names; `max_turns` None shows the env's own in prompts.

    Args:
        config: names it.
        spec: env it will play.
        max_turns: shown in prompts.
        engine: opened already with the model that the configuration names; None opens one.
    Raises: UnknownName: no such policy or engine. ConfigError: a key that this policy would ignore.
    """
    kind, colon, argument = config.policy.partition(":")
    if config.policy == "model":
        return _model_policy(config, spec, max_turns or spec.max_turns, engine)
    _refuse_ignored(config)
    simple: dict[str, Callable[[], Policy]] = {
        "expert": ExpertPolicy,
        "explorer": ExplorerPolicy,
        "random": RandomPolicy,
        "null": NullPolicy,
    }
    if config.policy in simple:
        if config.policy == "expert" and spec.expert is None:
            raise UsageError(f"env {spec.id!r} has no expert; use random, null, replay:FILE or model")
        return simple[config.policy]()
    if kind == "replay" and argument:
        return _ReplayFile(Path(argument))
    if kind == "scripted" and argument:
        return _ScriptedFile(Path(argument))
    if colon and kind not in ("replay", "scripted"):
        return own_policy(config.policy)
    raise unknown_name("policy", config.policy, POLICIES, "package.module:Name works too.")


def own_policy(name: str) -> Policy:
    """Make the policy of a "package.module:Name" or "file.py:Name".

    Raises: UsageError: what is there makes no policy.
    """
    found = load("policies", name)
    if not callable(found):
        raise UsageError(
            f"policy {name!r} is {shortened(found)}; name a class or function that makes a policy"
        )
    try:
        policy: Policy = found()
    except TypeError as error:
        raise UsageError(
            f"policy {name!r} cannot be made without arguments: {printable(str(error), 300)}"
        ) from error
    lacks = [member for member in ("info", "submit", "poll", "forget") if not hasattr(policy, member)]
    if lacks:
        raise UsageError(
            f"policy {name!r} gives {shortened(policy)}, which has no {lacks[0]!r}: that is no policy; derive it from "
            "agentbench.policy.InstantPolicy"
        )
    return policy


def _refuse_ignored(config: PolicyConfig) -> None:
    for key, field in PolicyConfig.model_fields.items():
        value = getattr(config, key)
        if key != "policy" and value != field.get_default(call_default_factory=True):
            raise ConfigError(
                f"{key} = {shortened(value)} would be ignored: policy {config.policy!r} uses no model; "
                "leave it out, or use --policy model"
            )


def _model_policy(
    config: PolicyConfig, spec: EnvSpec, max_turns: int, opened: Engine | TextEngine | None
) -> Policy:
    name = config.model_name_or_path
    if name is None and config.engine in ("hf", "vllm"):
        raise ConfigError("policy 'model' needs --model, a local folder or a hub id")
    if name is not None and config.engine not in _NAMES_ONLY and "tokenizer" not in config.engine_options:
        _check_model_folder(name)
    prompt = load_prompt(config.prompt or spec.prompt)
    history = spec.history if config.history is None else config.history
    sampling = sampling_of(config, prompt)
    parser = get_parser(config.parser or prompt.parser or spec.parser)
    engine = opened or open_engine(config.engine, name, config.engine_options)  # last: it may take minutes
    if isinstance(engine, TextEngine):
        if config.guided:
            raise ConfigError(f"guided choice needs token ids, which engine {config.engine!r} has none of")
        if config.template_options:
            raise ConfigError(
                f"template_options = {config.template_options!r} would be ignored: engine {config.engine!r} sends "
                "messages, and the server writes the prompt; servers that take it want "
                "engine_options.extra_body: {chat_template_kwargs: {...}}"
            )
        return ChatPolicy(engine, prompt, parser, sampling, history=history, max_turns=max_turns)
    renderer = Renderer(
        engine.tokenizer,
        prompt,
        history=history,
        max_turns=max_turns,
        template_options=config.template_options,
    )
    return ModelPolicy(engine, renderer, parser, sampling, guided=config.guided)


class Decoding(Protocol):
    """The part of a configuration that says how a model samples."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    stop: list[str] | None


def sampling_of(config: Decoding, prompt: Prompt) -> SamplingParams:
    """How a model samples: as configured; a reply ends at the prompt's stop strings where no others are given."""
    return SamplingParams(
        config.temperature,
        config.top_p,
        config.top_k,
        config.max_new_tokens,
        stop=prompt.stop if config.stop is None else tuple(config.stop),
    )


def _check_model_folder(name: str) -> None:
    """Refuse a broken model folder at once, before anything heavy is imported."""
    folder = Path(name).expanduser()
    if not folder.exists() and name.startswith(("/", "./", "../", "~")):
        raise MissingData(
            f"no model folder {name}; give an existing folder or a hub id such as Qwen/Qwen3-0.6B"
        )
    if folder.is_dir() and not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise MissingData(
            f"model folder {name} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}); save it there: "
            "tokenizer.save_pretrained(folder)"
        )


class _ReplayFile(ReplayPolicy):
    """Recorded episodes from a file; their digest goes into the records."""

    def __init__(self, path: Path) -> None:
        episodes = read_episodes(path)
        lines = sorted(map(encode_episode, episodes))
        self._digest = hashlib.sha256(b"\n".join(lines)).hexdigest()
        super().__init__(episodes)

    @property
    def info(self) -> dict[str, Any]:
        """Name the policy and the digest of what it repeats."""
        return {"policy": self.name, "sha256": self._digest}


class _ScriptedFile(ScriptedPolicy):
    """Lines from a file; its digest goes into the records."""

    def __init__(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
            told = getattr(error, "strerror", None) or error
            raise MissingData(f"cannot read the script {printable(str(path), 300)}: {told}") from error
        self._digest = hashlib.sha256(data).hexdigest()
        super().__init__(_script_lines(path, data))

    @property
    def info(self) -> dict[str, Any]:
        """Name the policy and the digest of its script."""
        return {"policy": self.name, "sha256": self._digest}


def _script_lines(path: Path, data: bytes) -> Sequence[str] | Mapping[str, Sequence[str]]:
    try:
        text = data.decode()
        if path.suffix not in (".json", ".yaml", ".yml"):
            return text.splitlines()
        found = (
            orjson.loads(data) if path.suffix == ".json" else parse_yaml(text, f"script {path}", CorruptData)
        )
    except ValueError as error:
        if isinstance(error, CorruptData):
            raise
        raise CorruptData(f"script {path}: {printable(str(error), 300)}") from error
    lists = list(found.values()) if isinstance(found, dict) else [found]
    if not all(isinstance(lines, list) and all(isinstance(line, str) for line in lines) for lines in lists):
        raise CorruptData(f"script {path} must hold a list of commands, or a list for each task id")
    lines: Sequence[str] | Mapping[str, Sequence[str]] = found
    return lines
