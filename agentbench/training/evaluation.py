"""Evaluation during training: the configuration that plays a panel as the run plays its episodes.

Leaves out playing (`agentbench.evaluation`) and when it is due (`loop`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluation.evaluate import EvalConfig
from ..evaluation.panels import load_panel
from ..runs.sides import TEACHERS
from .config import TrainConfig

_OWN = frozenset(
    {
        *("policy", "model_name_or_path", "output_dir", "env", "split"),
        *("env_options", "allow_missing", "max_error_rate", "give_up_after"),
    }
)
"""Keys of an evaluation that no section of a training run holds under the same name."""


def evaluation_of(config: TrainConfig, *, model: str, output_dir: str) -> EvalConfig:
    """Build the evaluation that a training run asks for.

    A key that the evaluation shares by name with `eval`, `rollout`, `env` or the run itself is taken from the first of
    them that has it, so that a key added to both is never forgotten; a test holds that all are accounted for.

    Args:
        config: of the run; without an `eval` section the split it trains on stands for the panel.
        model: name of the weights that play, for the records.
        output_dir: run folder of the evaluation.
    """
    played = config.eval
    sections = (*(() if played is None else (played,)), config.rollout, config.env, config)
    values: dict[str, Any] = {}
    for key in EvalConfig.model_fields.keys() - _OWN:
        holder = next((section for section in sections if key in type(section).model_fields), None)
        if holder is not None:
            values[key] = getattr(holder, key)
    if played is None:
        values |= {"env": config.env.name, "split": config.env.split}
    same_env = played is None or load_panel(played.panel).env == config.env.name
    return EvalConfig(
        policy="model",
        model_name_or_path=model,
        output_dir=output_dir,
        env_options=config.env.options if same_env else {},
        **values,
    )


def teacher_evaluations(config: TrainConfig) -> list[EvalConfig]:
    """Build the evaluation of every teacher by itself: the run's panel, played as the student plays it."""
    found = []
    for number, teacher in enumerate(config.teachers):
        folder = str(Path(config.output_dir) / TEACHERS / str(number))
        played = evaluation_of(config, model=teacher.model_name_or_path, output_dir=folder)
        options = {} if teacher.revision is None else {"revision": teacher.revision}
        options |= {} if teacher.dtype == "auto" else {"dtype": teacher.dtype}
        found.append(played.model_copy(update={"engine": "hf", "engine_options": options}))
    return found
