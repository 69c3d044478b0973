"""The protocol that a checkpoint carries: how its agent was prompted and decoded, so that others play it the same way.

`agentbench.json` lies beside the weights. An evaluation follows it where the user said nothing, and names what differs
where the user said something else: the same weights under another prompt are another number. Leaves out weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..config import Section, validate
from ..dialogue.prompt import load_prompt
from ..env import EnvSpec
from ..errors import CorruptData, MissingData, UnknownName, UsageError
from ..runs.files import encode_json, read_json, write_whole
from ..types import Guided

if TYPE_CHECKING:
    from .evaluate import EvalConfig

PROTOCOL = "agentbench.json"

_OF_THE_ENV = ("prompt", "parser", "history", "max_turns")
_DECODING = (
    *("template_options", "guided", "temperature", "top_p", "top_k"),
    *("max_new_tokens", "max_episode_tokens", "stop"),
)

_MADE = ("algorithm", "run", "step", "origins")


class Protocol(Section):
    """How a checkpoint's agent is played.

    Attributes:
        env: environment it was trained in; another environment has prompts of its own.
        prompt: reference of its prompt; `prompt_digest` and `prompt_text` tell whether that still says the same.
        parser: reads commands out of its replies.
        template_options: of its chat template.
        history: observation-action pairs in a prompt; `max_turns` of an episode.
        temperature: of evaluation, as `top_p`, `top_k`, `guided`, `stop` and the token limits are.
        panel: what it was evaluated on while training, if anything.
        env_options: options that the env was played with in training; panels fix their own, so they are named only.
        algorithm: how it was trained; `step` of the run in the folder `run`.
        origins: fingerprint of every model that the run started from, student and teachers, by name.
    """

    env: str
    prompt: str
    prompt_digest: str
    prompt_text: dict[str, Any]
    parser: str
    history: int
    max_turns: int
    template_options: dict[str, Any] = Field(default_factory=dict)
    guided: Guided = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    max_episode_tokens: int | None = None
    stop: list[str] | None = None
    panel: str | None = None
    env_options: dict[str, Any] = Field(default_factory=dict)
    algorithm: str = ""
    step: int = 0
    run: str = ""
    origins: dict[str, str] = Field(default_factory=dict)
    schema_: int = Field(default=1, alias="schema")


def protocol_of(
    config: EvalConfig,
    spec: EnvSpec,
    *,
    algorithm: str,
    step: int,
    run: str,
    origins: Mapping[str, str] | None = None,
) -> Protocol:
    """Write down how an evaluation plays a model, for the checkpoint that is saved."""
    prompt = load_prompt(config.prompt or spec.prompt)
    return Protocol(
        env=spec.id,
        prompt=prompt.name,
        prompt_digest=prompt.digest,
        prompt_text=prompt.source,
        parser=config.parser or prompt.parser or spec.parser,
        history=spec.history if config.history is None else config.history,
        max_turns=config.max_turns or spec.max_turns,
        panel=config.panel,
        algorithm=algorithm,
        step=step,
        run=run,
        env_options=config.env_options,
        origins=dict(origins or {}),
        **{key: getattr(config, key) for key in _DECODING},
    )


def write_protocol(folder: Path, protocol: Protocol) -> None:
    """Put it beside the weights."""
    write_whole(folder / PROTOCOL, encode_json(protocol.model_dump(mode="json", by_alias=True)))


def read_protocol(model: str | None) -> Protocol | None:
    """Read the protocol of a model folder; None where it carries none, or is no folder.

    Raises: CorruptData: the file is there and is none.
    """
    if model is None:
        return None
    file = Path(model).expanduser() / PROTOCOL
    if not file.is_file():
        return None
    try:
        return validate(Protocol, read_json(file), f"{file}: ")
    except (MissingData, UsageError) as error:
        raise CorruptData(f"{error}; remove the file to play the model as any other") from error


def follow(
    config: EvalConfig, spec: EnvSpec, options: Mapping[str, Any] | None = None
) -> tuple[EvalConfig, list[str]]:
    """Fill in what the user left open from the checkpoint's protocol, and name what they chose otherwise.

    Args:
        config: its `model_fields_set` are the user's choices.
        spec: of the env that is played.
        options: that it is played with; those of training are not taken over, a panel fixes its own.
    Returns: the evaluation to play, and a line for each difference.
    """
    protocol = read_protocol(config.model_name_or_path) if config.policy == "model" else None
    if protocol is None:
        return config, []
    same_env = protocol.env == spec.id
    notes = []
    if not same_env:
        notes.append(
            f"the checkpoint was trained in {protocol.env!r} and plays {spec.id!r}, with that env's own prompt"
        )
    wanted = {key: getattr(protocol, key) for key in (*(_OF_THE_ENV if same_env else ()), *_DECODING)}
    if same_env and not _still_says(protocol):
        wanted["prompt"] = protocol.prompt_text
    chosen = config.model_fields_set
    changes = {key: value for key, value in wanted.items() if key not in chosen}
    for key in sorted(wanted.keys() & chosen):
        mine = getattr(config, key)
        if key == "prompt" and mine is not None and load_prompt(mine).digest == protocol.prompt_digest:
            continue
        if mine != wanted[key]:
            shown = protocol.prompt if key == "prompt" else wanted[key]
            notes.append(f"the checkpoint was trained with {key} {shown!r}, this run plays {mine!r}")
    for key, value in protocol.env_options.items() if same_env else ():
        if (options or {}).get(key) != value:
            notes.append(
                f"the checkpoint was trained with env option {key} {value!r}, this run plays "
                f"{(options or {}).get(key, 'the default')!r}"
            )
    return config.model_copy(update=changes), notes


def training_of(model: str | None) -> dict[str, Any]:
    """How a checkpoint was made, for the records of an evaluation; {} where it carries no protocol."""
    protocol = read_protocol(model)
    return {} if protocol is None else {key: getattr(protocol, key) for key in _MADE}


def untold(config: EvalConfig, spec: EnvSpec) -> str:
    """What to say when a model meets a prompt that never says what to do, and nothing shows that it has learnt it."""
    if config.policy != "model" or config.engine == "scripted" or read_protocol(config.model_name_or_path):
        return ""
    name = load_prompt(config.prompt or spec.prompt).name
    told = name.removesuffix("transcript") + "instruct"
    if not name.endswith("/transcript"):
        return ""
    try:
        load_prompt(told)
    except UnknownName:
        return ""
    return (
        f"prompt {name} never says what to do: it is for models trained on it, which this one does not say of itself; "
        f"a pretrained model wants --prompt {told}"
    )


def _still_says(protocol: Protocol) -> bool:
    """Whether the prompt's name leads to the text that the checkpoint was trained with."""
    try:
        return load_prompt(protocol.prompt).digest == protocol.prompt_digest
    except UsageError:
        return False
