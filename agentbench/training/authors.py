"""Who may act in a training run, and where: the policies by author, from the configuration.

Leaves out carrying plans out (`collect`) and the loop (`loop`).
"""

from __future__ import annotations

from ..dialogue.parse import Parser, get_parser
from ..dialogue.prompt import load_prompt
from ..dialogue.render import Renderer
from ..engine import Engine
from ..env import EnvSpec
from ..policies.build import sampling_of
from ..policies.demonstrations import MixturePolicy, TokenisedPolicy
from ..policies.model import ModelPolicy
from ..policies.ready import ExpertPolicy, ExplorerPolicy, RandomPolicy
from ..policy import InstantPolicy, Policy
from ..rollout.collect import Stage
from ..rollout.episode import Limits
from ..trainer import Trainer
from .config import TrainConfig


def student_renderer(config: TrainConfig, spec: EnvSpec, trainer: Trainer) -> Renderer:
    """How the student reads: the run's prompt in its own tokens."""
    return Renderer(
        trainer.tokenizer,
        load_prompt(config.env.prompt or spec.prompt),
        history=spec.history if config.env.history is None else config.env.history,
        max_turns=config.env.max_turns or spec.max_turns,
        template_options=config.rollout.template_options,
    )


def student_parser(config: TrainConfig, spec: EnvSpec) -> Parser:
    """How commands are read out of the student's replies."""
    own = load_prompt(config.env.prompt or spec.prompt).parser or spec.parser
    return get_parser(config.env.parser or own)


def build_stage(config: TrainConfig, spec: EnvSpec, trainer: Trainer, engine: Engine) -> Stage:
    """Put together every author that a plan may ask for: student, expert, random, mixture."""
    renderer, parser = student_renderer(config, spec, trainer), student_parser(config, spec)
    rollout = config.rollout
    sampling = sampling_of(rollout, load_prompt(config.env.prompt or spec.prompt))

    demonstrator = ExplorerPolicy if rollout.demonstrator == "explorer" else ExpertPolicy

    def spoken(policy: InstantPolicy, author: str | None = None) -> TokenisedPolicy:
        return TokenisedPolicy(policy, renderer, parser, author)

    policies: dict[str, Policy] = {
        "student": ModelPolicy(engine, renderer, parser, sampling, guided=rollout.guided),
        "expert": spoken(demonstrator(), "expert"),
        "random": spoken(RandomPolicy()),
    }
    if rollout.behaviours:
        policies["mixture"] = spoken(MixturePolicy(rollout.behaviours, demonstrator()))
    return Stage(
        spec=spec,
        policies=policies,
        seed=config.seed,
        concurrency=rollout.concurrency,
        limits=Limits(
            max_turns=config.env.max_turns,
            max_tokens=rollout.max_episode_tokens,
            step_seconds=rollout.step_seconds,
            episode_seconds=rollout.episode_seconds,
            retries=rollout.retries,
        ),
        env_options=config.env.options,
        labeller=spoken(demonstrator(), "expert"),
    )
