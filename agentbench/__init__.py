"""Benchmarks for language-model agents, and on-policy distillation and RL to train them.

The names below are the project's public interface; each is loaded when it is first used, and none needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Section as Section
    from .dialogue.prompt import load_prompt as load_prompt
    from .dialogue.segment import segment as segment
    from .engine import Completion as Completion
    from .engine import Engine as Engine
    from .engine import Request as Request
    from .env import EnvSpec as EnvSpec
    from .env import Expert as Expert
    from .env import Explorer as Explorer
    from .env import TextEnv as TextEnv
    from .env import register_gymnasium as register_gymnasium
    from .errors import AgentBenchError as AgentBenchError
    from .errors import ContractError as ContractError
    from .errors import UsageError as UsageError
    from .evaluation.evaluate import EvalConfig as EvalConfig
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.panels import load_panel as load_panel
    from .policy import Decision as Decision
    from .policy import InstantPolicy as InstantPolicy
    from .policy import Policy as Policy
    from .policy import View as View
    from .registry import env_spec as env_spec
    from .registry import open_engine as open_engine
    from .registry import trainer_spec as trainer_spec
    from .rollout.collect import collect as collect
    from .rollout.schedule import run_episodes as run_episodes
    from .runs.compare import compare_runs as compare_runs
    from .runs.episodes import read_episodes as read_episodes
    from .runs.summary import summarise_run as summarise_run
    from .testing.conformance import check_env as check_env
    from .trainer import Trainer as Trainer
    from .trainer import TrainerSpec as TrainerSpec
    from .trainer import Update as Update
    from .training.config import TrainConfig as TrainConfig
    from .training.loop import train as train
    from .types import Action as Action
    from .types import Group as Group
    from .types import RolloutPlan as RolloutPlan
    from .types import SamplingParams as SamplingParams
    from .types import Trajectory as Trajectory
    from .types import Turn as Turn

__version__ = "0.1.0"

_HOMES = {
    "config": ("Section",),
    "dialogue.prompt": ("load_prompt",),
    "dialogue.segment": ("segment",),
    "engine": ("Completion", "Engine", "Request"),
    "env": ("EnvSpec", "Expert", "Explorer", "TextEnv", "register_gymnasium"),
    "errors": ("AgentBenchError", "ContractError", "UsageError"),
    "evaluation.evaluate": ("EvalConfig", "evaluate"),
    "evaluation.panels": ("load_panel",),
    "policy": ("Decision", "InstantPolicy", "Policy", "View"),
    "registry": ("env_spec", "open_engine", "trainer_spec"),
    "rollout.collect": ("collect",),
    "rollout.schedule": ("run_episodes",),
    "runs.compare": ("compare_runs",),
    "runs.episodes": ("read_episodes",),
    "runs.summary": ("summarise_run",),
    "testing.conformance": ("check_env",),
    "trainer": ("Trainer", "TrainerSpec", "Update"),
    "training.config": ("TrainConfig",),
    "training.loop": ("train",),
    "types": ("Action", "Group", "RolloutPlan", "SamplingParams", "Trajectory", "Turn"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'agentbench' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
