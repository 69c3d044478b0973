"""Everything about a training run that can be refused before a model is loaded."""

from __future__ import annotations

from typing import Any

from ..config import validate
from ..env import EnvSpec
from ..errors import ConfigError
from ..registry import env_spec, trainer_spec
from ..trainer import TrainerSpec
from .config import TrainConfig


def check(config: TrainConfig) -> tuple[TrainerSpec, Any, EnvSpec]:
    """Check everything that can be checked before a model is loaded.

    Returns: the algorithm, its settings, the environment.
    Raises: ConfigError, UnknownName, MissingData: each names the key and the next step.
    """
    spec = trainer_spec(config.algorithm)
    settings = validate(spec.config, config.trainer, "trainer.")
    env = env_spec(config.env.name).under(config.env.options)
    if "teacher" in spec.needs and not config.teachers:
        raise ConfigError(
            f"algorithm {spec.id!r} needs a teacher; set teachers: [{{model_name_or_path: ...}}]"
        )
    if "teacher" not in spec.needs and config.teachers:
        raise ConfigError(f"algorithm {spec.id!r} uses no teacher; remove the key 'teachers'")
    for key in sorted(spec.ignores):
        value, default = _lookup(config, key), _lookup(_defaults(config), key)
        if value != default:
            raise ConfigError(f"algorithm {spec.id!r} ignores the key {key!r} (set to {value!r}); remove it")
    if config.env.split not in env.splits:
        raise ConfigError(
            f"env.split = {config.env.split!r} is not a split of {env.id}: {', '.join(env.splits)}"
        )
    return spec, settings, env


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
