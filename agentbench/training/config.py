"""The configuration of a training run. Leaves out how files and overrides are read (`agentbench.config`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..config import MOST_SECONDS, Section, StopStrings, apply_override, read_mapping, validate
from ..errors import ConfigError
from ..foreign import shortened
from ..registry import trainer_spec

MOST_TEMPERATURE = 100.0


class EnvConfig(Section):
    """What is played.

    Attributes:
        name: environment plug-in.
        split: tasks to train on.
        options: keyword options of the env's factory.
        prompt: name, reference or file of a prompt, or the prompt itself; None takes the env's own.
        parser: reads commands out of replies; None takes the prompt's or the env's own.
        history: observation-action pairs in a fresh prompt; None takes the env's own.
        max_turns: turn limit; None takes the env's own.
        num_tasks: use just the first tasks of the split; None uses all.
    """

    name: str
    split: str
    options: dict[str, Any] = Field(default_factory=dict)
    prompt: str | dict[str, Any] | None = None
    parser: str | None = None
    history: int | None = Field(default=None, ge=0)
    max_turns: int | None = Field(default=None, ge=1)
    num_tasks: int | None = Field(default=None, ge=1)


class RolloutConfig(Section):
    """How episodes are sampled.

    Attributes:
        engine: engine plug-in; `engine_options` are its own keyword options.
        concurrency: episodes under way at once.
        tasks_per_step: groups of a step; `group_size` is the number of trajectories in each.
        guided: sample only among admissible commands.
        template_options: keyword options of the chat template, such as enable_thinking; `today` is the date it writes.
        max_new_tokens: limit of one reply, in tokens.
        stop: texts that end a reply, see `SamplingParams`; None takes the prompt's.
        max_episode_tokens: limit of sampled tokens in one episode; None is unlimited.
        step_seconds: limit of one env step; `episode_seconds` of one episode. Over them is an error, not a failure.
        retries: how often an episode that its infrastructure broke is run again.
        publish_tolerance: after every update of the engine's weights, engine and trainer score a few replies; how far
            they may come apart on top of twice their distance before the first update, in nats a token; null does not
            look.
        demonstrator: who plays the author "expert", gives labels, and is the expert of mixed behaviour: the env's
            all-knowing "expert", its "explorer" that knows only the text, or a policy of one's own that answers at
            once ("file.py:Name", "package.module:Name").
        recordings: run folder or episodes file (`agentbench eval` writes one) that the author "replay" says again; of
            several tries of a task the best one. Belongs to algorithms that replay.
        behaviours: shares of the mixed-behaviour author: random, half_random, other_goal, expert, impossible.
    """

    engine: str = "hf"
    engine_options: dict[str, Any] = Field(default_factory=dict)
    concurrency: int = Field(default=64, ge=1)
    tasks_per_step: int = Field(default=16, ge=1)
    group_size: int = Field(default=8, ge=1)
    guided: bool = False
    template_options: dict[str, Any] = Field(default_factory=dict)
    temperature: float = Field(default=1.0, gt=0, le=MOST_TEMPERATURE)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=512, ge=1)
    stop: StopStrings | None = None
    max_episode_tokens: int | None = Field(default=None, ge=1)
    step_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS)
    episode_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS)
    retries: int = Field(default=1, ge=0)
    publish_tolerance: float | None = Field(default=0.05, gt=0)
    demonstrator: str = "expert"
    recordings: str | None = None
    behaviours: dict[str, float] = Field(default_factory=dict)


class SpeakerConfig(Section):
    """How a teacher says something of its own, such as its part of a debate.

    Attributes:
        engine: engine plug-in that speaks; `engine_options` are its own keyword options. "hf" speaks with the very
            weights of a teacher of backend "hf", unless the options say how to load others (dtype, device ...).
        model_name_or_path: the model that speaks; None takes the teacher's own.
        format: "chat" sends one user message through the model's chat template; "raw" sends the text as it is, to be
            continued.
        template_options: keyword options of that template; thinking is off unless told otherwise.
        max_new_tokens: limit of one message, in tokens.
        stop: texts that end a message, see `SamplingParams`.
    """

    engine: str = "hf"
    engine_options: dict[str, Any] = Field(default_factory=dict)
    model_name_or_path: str | None = None
    format: Literal["chat", "raw"] = "chat"
    template_options: dict[str, Any] = Field(default_factory=dict)
    temperature: float = Field(default=0.7, ge=0, le=MOST_TEMPERATURE)
    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = Field(default=20, ge=0)
    max_new_tokens: int = Field(default=4096, ge=1)
    stop: StopStrings = Field(default_factory=list)


class TeacherConfig(Section):
    """A model that scores the student's tokens.

    Attributes:
        model_name_or_path: a local folder or a hub id; for "server" the name under which it is served. Belongs to the
            frozen models: "student" and "ema" have no other model than the run's.
        backend: frozen models: "hf" beside the student, "vllm" in an engine of this process, "server" behind
            `base_url`. The student's own: "student" as it stands, "ema" a moving average of it. These two know more
            than the student only where the algorithm gives its teacher more to read.
        device: where an "hf" teacher lives, such as cpu or cuda:1; None takes the student's device. Its distributions
            are compared on the student's, which gets a copy of its head where an algorithm needs whole ones.
        rate: weight of the newest student in "ema", after every step; None takes 0.05.
        base_url: of a vLLM server, such as http://localhost:8000; belongs to "server".
        engine_options: keyword options of "vllm" and "server".
        extra_tokens: what becomes of ids that the teacher has and the student lacks: "refuse" such a teacher, or
            "ignore" them, which leaves them out of its distribution (it is normalised over the student's ids).
        speaker: how it speaks, for algorithms in which teachers do; None is every default of `SpeakerConfig`.
    """

    model_name_or_path: str = ""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    backend: Literal["hf", "vllm", "server", "student", "ema"] = "hf"
    device: str | None = None
    rate: float | None = Field(default=None, gt=0, le=1)
    base_url: str | None = None
    engine_options: dict[str, Any] = Field(default_factory=dict)
    extra_tokens: Literal["refuse", "ignore"] = "refuse"
    speaker: SpeakerConfig | None = None

    @model_validator(mode="after")
    def _used(self) -> TeacherConfig:
        """Refuse keys that the backend would ignore, and want those that it needs."""
        own = self.backend in ("student", "ema")
        if not own and not self.model_name_or_path:
            raise ValueError(f"backend {self.backend!r} needs model_name_or_path, a local folder or a hub id")
        for key in (
            ("model_name_or_path", "revision", "dtype", "engine_options", "extra_tokens") if own else ()
        ):
            if getattr(self, key) not in ("", None, "auto", {}, "refuse"):
                raise ValueError(f"backend {self.backend!r} is the run's own student; remove {key}")
        if self.device is not None and self.backend != "hf":
            raise ValueError("'device' is used by backend 'hf' only; remove it")
        if self.rate is not None and self.backend != "ema":
            raise ValueError("'rate' is used by backend 'ema' only; remove it")
        if (self.backend == "server") != (self.base_url is not None):
            raise ValueError("backend 'server' needs base_url, and no other backend uses it")
        if self.backend == "hf" and self.engine_options:
            raise ValueError("backend 'hf' uses no engine_options; remove them")
        if self.backend == "server" and self.extra_tokens == "ignore":
            raise ValueError(
                "a teacher behind a server cannot leave tokens out of its distribution; use backend 'hf' or 'vllm'"
            )
        return self


class LoraSettings(Section):
    """Low-rank adapters through peft; only they are trained."""

    r: int = Field(default=32, ge=1)
    alpha: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class EvalDuringTraining(Section):
    """A panel played every `every` steps with the current weights, and at the end.

    Attributes:
        panel: panel id or file.
        limit: play only the first tasks; None plays all.
        temperature: of evaluation; 0 is greedy.
        repeats: episodes per task.
        teachers: play it with every teacher by itself too, once, so that the run's card has the teachers' own scores;
            for teachers of backend "hf". None does not.
    """

    panel: str
    every: int = Field(default=10, ge=1)
    limit: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.4, ge=0, le=MOST_TEMPERATURE)
    repeats: int = Field(default=1, ge=1)
    teachers: bool | None = None


class TrainConfig(Section):
    """One training run. `trainer` holds the algorithm's own keys, see docs/algorithms.

    Attributes:
        algorithm: trainer plug-in.
        preset: a named set of values of the algorithm, such as "paper" or "released"; keys that are set win.
        model_name_or_path: student, a local folder or a hub id.
        teachers: models that score the student's tokens, for algorithms that need them.
        max_steps: number of updates of the loop (each collects new episodes).
        learning_rate: peak; `lr_scheduler_type` and `warmup_steps` shape it over `max_steps`.
        tokens_per_micro_batch: rows are packed into micro-batches of at most this many tokens, padding included.
        updates_per_step: optimizer steps made from each batch of episodes; rows are split evenly among them.
        rows_per_update: instead, rows of an optimizer step (turns, where every turn has a prompt of its own), as many
            steps as that makes; None cuts by `updates_per_step`.
        save_steps: a checkpoint every so many steps; `save_total_limit` keeps the newest (and the best).
        metric_for_best_model: evaluation figure by which `best` is chosen; of turns and errors the smallest is.
        num_processes: processes that were asked for; a launch with another number stops.
        report_to: trackers of accelerate: tensorboard, wandb, trackio, mlflow.
    """

    algorithm: str
    preset: str | None = None
    output_dir: str
    model_name_or_path: str
    env: EnvConfig
    rollout: RolloutConfig = RolloutConfig()
    teachers: tuple[TeacherConfig, ...] = ()
    trainer: dict[str, Any] = Field(default_factory=dict)
    eval: EvalDuringTraining | None = None
    seed: int = 0
    max_steps: int = Field(default=150, ge=1)
    learning_rate: float = Field(default=1e-6, gt=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    tokens_per_micro_batch: int = Field(default=16384, ge=1)
    updates_per_step: int = Field(default=1, ge=1)
    rows_per_update: int | None = Field(default=None, ge=1)
    bf16: bool = False
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    save_steps: int = Field(default=50, ge=1)
    save_total_limit: int | None = Field(default=2, ge=1)
    metric_for_best_model: str = "success"
    num_processes: int = Field(default=1, ge=1)
    fsdp: bool = False
    report_to: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """Put the preset's values under those that are set."""
        if not isinstance(values, Mapping) or not isinstance(values.get("preset"), str):
            return values
        if not isinstance(values.get("algorithm"), str):
            return values  # refused below
        return under(preset_of(values["algorithm"], values["preset"]), values)

    @model_validator(mode="after")
    def _cut_one_way(self) -> TrainConfig:
        if self.rows_per_update is not None and self.updates_per_step != 1:
            raise ValueError(
                f"updates_per_step ({self.updates_per_step}) and rows_per_update ({self.rows_per_update}) both cut a "
                "step into updates; set one of them, and rows_per_update: null where a preset sets it"
            )
        return self


def preset_of(algorithm: str, preset: str) -> Mapping[str, Any]:
    """Values of an algorithm's preset, nested as in the file. Raises: ConfigError: it has none of that name."""
    presets = trainer_spec(algorithm).presets
    if preset not in presets:
        raise ConfigError(
            f"algorithm {algorithm!r} has no preset {shortened(preset)}; it has: {', '.join(sorted(presets)) or 'none'}"
        )
    return presets[preset]


def preset_lines(config: TrainConfig) -> list[str]:
    """Each value of the run's preset by its dotted key, or that the file's own stands instead."""
    if config.preset is None:
        return []
    lines, held = [], config.model_dump()
    for key, value in preset_of(config.algorithm, config.preset).items():
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]
        for name, wanted in parts:
            found = held[key] if name is None else held[key].get(name)
            dotted = key if name is None else f"{key}.{name}"
            lines.append(f"{dotted} = {wanted}" if found == wanted else f"{dotted} = {found} (not {wanted})")
    return lines


def under(preset: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over a preset's: keys of the same section stand side by side, and a key that is set wins."""
    merged = {**preset, **values}
    for key, section in preset.items():
        if isinstance(section, Mapping) and isinstance(values.get(key), Mapping):
            merged[key] = {**section, **values[key]}
    return merged


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file, apply `key.sub=value` overrides (values are YAML), and check everything.

    Raises: ConfigError: the file is absent or not YAML, or a key or value is not allowed.
    """
    values = read_mapping(path, "the configuration")
    for override in overrides:
        apply_override(values, override)
    return validate(TrainConfig, values)
