"""Everything about a training run that can be refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import validate
from ..dialogue.parse import get_parser
from ..dialogue.prompt import load_prompt
from ..env import EnvSpec, try_options
from ..errors import ConfigError, MissingData, unknown_name
from ..evaluation.panels import digest, load_panel
from ..foreign import shortened
from ..models.loading import check_name
from ..policies.demonstrations import MixturePolicy
from ..policies.ready import ExpertPolicy
from ..registry import check_engine, env_spec, trainer_spec
from ..runs.folder import VERSIONS, check_output, check_versions
from ..runs.recordings import digest_of, read_recordings
from ..runs.resume import TRAINING
from ..trainer import TrainerSpec
from .authors import demonstrator
from .checkpoints import checkpoints
from .config import TrainConfig
from .log import FIGURES, check_trackers


def check(config: TrainConfig) -> tuple[TrainerSpec, Any, EnvSpec]:
    """Check everything that can be checked before a model is loaded.

    Returns: the algorithm, its settings, the environment.
    Raises: ConfigError, UnknownName, MissingData: each names the key and the next step.
    """
    spec = trainer_spec(config.algorithm)
    settings = validate(spec.config, config.trainer, "trainer.")
    env = env_spec(config.env.name)
    try_options(env, config.env.options)
    env = env.under(config.env.options)
    if "teacher" in spec.needs and not config.teachers:
        raise ConfigError(
            f"algorithm {spec.id!r} needs a teacher; set teachers: [{{model_name_or_path: ...}}]"
        )
    if "teacher" not in spec.needs and config.teachers:
        raise ConfigError(f"algorithm {spec.id!r} uses no teacher; remove the key 'teachers'")
    if "speaker" not in spec.needs and any(teacher.speaker is not None for teacher in config.teachers):
        raise ConfigError(
            f"algorithm {spec.id!r} lets no teacher speak; remove the key 'speaker' from 'teachers'"
        )
    for key in sorted(spec.ignores):
        value, default = _lookup(config, key), _lookup(_defaults(config), key)
        if value != default:
            raise ConfigError(
                f"algorithm {spec.id!r} ignores the key {key!r} (set to {shortened(value)}); remove it"
            )
    if config.env.split not in env.splits:
        raise ConfigError(
            f"env.split = {config.env.split!r} is not a split of {env.id}: {', '.join(env.splits)}"
        )
    if spec.refuse is not None:
        spec.refuse(config, settings)
    _check_played(config, env)
    _check_authors(config, spec, env)
    _check_models(config)
    _check_figures(config, env)
    return spec, settings, env


def _check_played(config: TrainConfig, env: EnvSpec) -> None:
    """The tasks, the prompt and its parser."""
    if not env.tasks(config.env.split)[: config.env.num_tasks]:
        raise MissingData(f"split {config.env.split!r} of env {env.id!r} has no tasks")
    get_parser(load_prompt(config.env.prompt or env.prompt).parser or env.parser)


def _check_authors(config: TrainConfig, spec: TrainerSpec, env: EnvSpec) -> None:
    """Whoever may be asked to act beside the student."""
    rollout = config.rollout
    if rollout.recordings is not None and not spec.replays:
        raise ConfigError(f"algorithm {spec.id!r} replays no episodes; remove rollout.recordings")
    if rollout.recordings is not None:
        read_recordings(rollout.recordings, env.id)
    if rollout.demonstrator == "explorer" and env.explorer is None:
        raise ConfigError(f"rollout.demonstrator = 'explorer' is not allowed: env {env.id!r} has no explorer")
    if rollout.demonstrator not in ("expert", "explorer"):
        demonstrator(rollout.demonstrator)
    needed = "expert" in spec.needs or rollout.behaviours.get("expert", 0) > 0
    if needed and rollout.demonstrator == "expert" and env.expert is None:
        raise ConfigError(f"algorithm {spec.id!r} is asked for an expert, and env {env.id!r} has none")
    if rollout.behaviours:
        MixturePolicy(rollout.behaviours, ExpertPolicy())
        if rollout.behaviours.get("other_goal", 0) > 0 and env.decoy is None:
            raise ConfigError(f"rollout.behaviours.other_goal: env {env.id!r} has no expert of other goals")


def _check_models(config: TrainConfig) -> None:
    """Student, teachers and engine, as far as names and options tell."""
    check_name(config.model_name_or_path)
    for teacher in config.teachers:
        if teacher.backend in ("hf", "vllm"):
            check_name(teacher.model_name_or_path)
        elif teacher.backend in ("student", "ema") and config.fsdp:
            raise ConfigError(
                f"teachers.backend {teacher.backend!r} reads the student's own weights, which fsdp keeps in shards; "
                "set fsdp: false"
            )
        if teacher.speaker is not None:
            speaker = teacher.speaker
            model = speaker.model_name_or_path or teacher.model_name_or_path or None
            check_engine(speaker.engine, model, speaker.engine_options)
    check_engine(config.rollout.engine, config.model_name_or_path, config.rollout.engine_options)


def _check_figures(config: TrainConfig, env: EnvSpec) -> None:
    """The panel that is played on the way, the figure that picks the best step, and who is told."""
    if config.eval is not None:
        panel = load_panel(config.eval.panel)
        if env_spec(panel.env).id != env.id:
            raise ConfigError(
                f"eval.panel {panel.id!r} is of env {panel.env!r}, the run trains on {env.id!r}"
            )
        panel.resolve(env)
        if config.eval.teachers and {teacher.backend for teacher in config.teachers} != {"hf"}:
            seen = sorted({teacher.backend for teacher in config.teachers})
            raise ConfigError(
                f"eval.teachers plays teachers of backend 'hf', and this run has {', '.join(seen) or 'no teacher'}; "
                "remove the key"
            )
        if config.metric_for_best_model not in FIGURES:
            raise unknown_name("metric_for_best_model", config.metric_for_best_model, FIGURES)
    check_trackers(config.report_to)


def check_resume(config: TrainConfig, *, resume: bool) -> list[tuple[str, Any, Any]]:
    """Refuse an output folder that the run cannot use; see `agentbench.runs.resume` for what is pinned.

    Returns: the free keys that differ from the run on record, with both values.
    Raises: UsageError: the folder is in use, was made with another configuration or of other tasks, words or panels, or
        has more steps than are asked for.
    """
    folder = Path(config.output_dir)
    free = TRAINING if config.lr_scheduler_type != "constant" else (*TRAINING, "max_steps")
    if not config.output_dir:
        raise ConfigError("output_dir is empty; name a folder for the run")
    changed = check_output(folder, config.model_dump(mode="json"), resume=resume, free=free)
    if (folder / VERSIONS).exists():  # here and not only when it is written, after the models were loaded
        env = env_spec(config.env.name).under(config.env.options)
        check_versions(folder, {"played": played(config, env)}, binding=("played",))
    found = checkpoints(folder)
    if found and found[-1][0] > config.max_steps:
        raise ConfigError(
            f"max_steps = {config.max_steps} is not allowed: {found[-1][1].name} has more steps; raise it, or remove "
            "the checkpoints after that step"
        )
    return changed


def played(config: TrainConfig, env: EnvSpec) -> dict[str, Any]:
    """What the run's numbers stand on, by digest: a file that changes between two sittings is refused."""
    tasks = env.tasks(config.env.split)[: config.env.num_tasks]
    recorded = config.rollout.recordings
    panel = load_panel(config.eval.panel) if config.eval else None
    return {
        "env": env.id,
        "rules": env.rules,
        "tasks": digest(tasks),
        "prompt": load_prompt(config.env.prompt or env.prompt).digest,
        "panel": panel.sha256 if panel else None,
        "panel_options": panel.env_options if panel else {},
        **({"recordings": digest_of(recorded)} if recorded is not None else {}),
    }


def _defaults(config: TrainConfig) -> TrainConfig:
    return TrainConfig(
        algorithm=config.algorithm,
        output_dir="",
        model_name_or_path=config.model_name_or_path,
        env=config.env,
    )


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config
