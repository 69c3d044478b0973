"""Who may act in a training run, and where: the policies by author, from the configuration.

"student", "expert" (`rollout.demonstrator`) and "random" are always there, "mixture" and "replay" where the
configuration names behaviours and recordings. The table is open: an algorithm adds its own through
`TrainerSpec.authors`, which gets the run's `Voice`. Leaves out carrying plans out (`collect`) and the loop (`loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..dialogue.parse import Parser, get_parser
from ..dialogue.prompt import load_prompt
from ..dialogue.render import Renderer
from ..engine import Engine
from ..env import EnvSpec
from ..errors import ConfigError, unknown_name
from ..policies.build import own_policy, sampling_of
from ..policies.demonstrations import MixturePolicy, RecordedPolicy, TokenisedPolicy
from ..policies.model import ModelPolicy
from ..policies.ready import ExpertPolicy, ExplorerPolicy, RandomPolicy
from ..policy import InstantPolicy, Policy
from ..rollout.collect import Stage
from ..rollout.episode import Limits
from ..runs.recordings import check_ids, read_recordings
from ..trainer import Trainer
from ..types import REPLAY, SamplingParams, Trajectory
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


@dataclass(frozen=True)
class Voice:
    """How authors of this run read and speak, so that an episode which several of them share is one conversation.

    Attributes:
        spec: the environment.
        renderer: the run's prompt in the student's tokens.
        parser: reads commands out of replies, and writes the clean reply that carries one.
        sampling: how the student samples.
        guided: whether models choose among the admissible commands.
    """

    spec: EnvSpec
    renderer: Renderer
    parser: Parser
    sampling: SamplingParams
    guided: bool = False

    def spoken(self, policy: InstantPolicy, author: str | None = None) -> TokenisedPolicy:
        """Let a policy that knows its command at once speak in the student's tokens; None keeps its own name."""
        return TokenisedPolicy(policy, self.renderer, self.parser, author)

    def model(self, engine: Engine, author: str) -> ModelPolicy:
        """Let another model with the student's tokenizer act, in the student's prompt."""
        return ModelPolicy(
            engine, self.renderer, self.parser, self.sampling, author=author, guided=self.guided
        )


def demonstrator(name: str) -> InstantPolicy:
    """Make the policy that `rollout.demonstrator` names.

    Raises: UsageError: no such policy, or one that does not answer at once.
    """
    ready: dict[str, type[InstantPolicy]] = {"expert": ExpertPolicy, "explorer": ExplorerPolicy}
    if name in ready:
        return ready[name]()
    if ":" not in name:
        raise unknown_name(
            "rollout.demonstrator", name, ready, "package.module:Name and file.py:Name work too."
        )
    policy = own_policy(name)
    if not isinstance(policy, InstantPolicy):
        raise ConfigError(
            f"rollout.demonstrator = {name!r} is a {type(policy).__name__}; it must answer at once: derive it from "
            "agentbench.policy.InstantPolicy"
        )
    return policy


def build_stage(
    config: TrainConfig,
    spec: EnvSpec,
    trainer: Trainer,
    engine: Engine,
    more: Callable[[Any, Any], Mapping[str, Policy]] | None = None,
) -> Stage:
    """Put together every author that a plan may ask for.

    Args:
        config: of the run.
        spec: the environment.
        trainer: gives the tokenizer.
        engine: of the student.
        more: makes the algorithm's own authors, see `TrainerSpec.authors`.
    """
    rollout = config.rollout
    voice = Voice(
        spec,
        student_renderer(config, spec, trainer),
        student_parser(config, spec),
        sampling_of(rollout, load_prompt(config.env.prompt or spec.prompt)),
        rollout.guided,
    )
    policies: dict[str, Policy] = {
        "student": voice.model(engine, "student"),
        "expert": voice.spoken(demonstrator(rollout.demonstrator), "expert"),
        "random": voice.spoken(RandomPolicy()),
    }
    if rollout.behaviours:
        mixture = MixturePolicy(rollout.behaviours, demonstrator(rollout.demonstrator))
        policies["mixture"] = voice.spoken(mixture)
    recordings: dict[str, Trajectory] = {}
    if rollout.recordings is not None:
        recordings = read_recordings(rollout.recordings, spec.id)
        for episode in recordings.values():
            check_ids(episode, len(trainer.tokenizer), rollout.recordings)
        policies[REPLAY] = RecordedPolicy(recordings, voice.renderer, voice.parser, rollout.recordings)
    for name, policy in (more(trainer, voice) if more else {}).items():
        if name in policies:
            raise ConfigError(f"algorithm {config.algorithm!r} adds an author {name!r}, which exists already")
        policies[name] = policy
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
        labeller=voice.spoken(demonstrator(rollout.demonstrator), "expert"),
        recordings=recordings,
    )
