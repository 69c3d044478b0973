"""One evaluation as data: panel -> episodes minus those on record -> rollout -> records -> numbers.

Leaves out how episodes run (`rollout`), who acts in them (`policies`), what the numbers mean (`summary`) and
printing (`cli`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ..config import MOST_SECONDS
from ..engine import Engine, TextEngine
from ..env import EnvSpec, try_options
from ..errors import ConfigError, ContextFull, CorruptData, EngineDown
from ..foreign import shortened
from ..machine import versions
from ..policies.build import PolicyConfig, build_policy
from ..policies.chat import ChatPolicy
from ..policy import Policy
from ..registry import env_spec
from ..rollout.episode import Episode, Limits
from ..rollout.schedule import run_episodes
from ..runs.episodes import EPISODES, Key, read_episodes
from ..runs.folder import RunFolder, check_output, read_timings
from ..runs.own import require_ours
from ..runs.report import write_pages
from ..runs.resume import EVALUATION
from ..runs.summary import Assignment, Summary, summarise
from ..trainer import Team
from ..types import Trajectory, episode_seed
from .panels import Panel, ResolvedPanel, digest, load_panel, split_as_panel
from .protocol import follow, training_of, untold

Progress = Callable[[Trajectory | None, int, int], None]
"""`progress(episode, done, total)`, called once with None before the first episode and after each one."""


MOST_REPEATS = 100_000


class EvalConfig(PolicyConfig):
    """One evaluation. Equal configurations give equal records, whatever the concurrency.

    Attributes:
        panel: panel id or file.
        env: plays a split of this env that no panel freezes, instead of a panel; `split` says which.
        output_dir: run folder; None keeps nothing.
        limit: play only the first tasks of the panel.
        repeats: episodes per task, each with its own seed.
        max_turns: None takes the env's own.
        max_episode_tokens: sampled tokens per episode.
        step_seconds: limit of one env step; `episode_seconds` of one episode, waiting for its model and all tries
            included. Over them is an error, not a failure.
        retries: how often an episode that its infrastructure broke is run again.
        env_options: keyword options of the env, over those of the panel.
        allow_missing: go on without tasks that are absent or corrupt.
        max_error_rate: share of errors above which no headline is given.
        give_up_after: the run stops when so many episodes in a row got no usable answer of the model's engine; they are
            left unrecorded. None never stops.
    """

    panel: str | None = None
    env: str | None = None
    split: str | None = None
    output_dir: str | None = None
    limit: int | None = Field(default=None, ge=1)
    seed: int = 0
    repeats: int = Field(default=1, ge=1, le=MOST_REPEATS)
    concurrency: int = Field(default=16, ge=1)
    max_turns: int | None = Field(default=None, ge=1)
    max_episode_tokens: int | None = Field(default=None, ge=1)
    step_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS)
    episode_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS)
    retries: int = Field(default=1, ge=0)
    env_options: dict[str, Any] = Field(default_factory=dict)
    allow_missing: bool = False
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    give_up_after: int | None = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _one_thing_is_played(self) -> EvalConfig:
        if (self.panel is None) == (self.env is None):
            raise ValueError("name what is played: either panel, or env with split")
        if (self.env is None) != (self.split is None):
            raise ValueError("env and split belong together: --env NAME --split SPLIT")
        return self

    def load_panel(self) -> Panel:
        """The tasks to play.

        Raises: UsageError: there is no such panel, env or split.
        """
        if self.panel is not None:
            return load_panel(self.panel)
        assert self.env is not None
        assert self.split is not None
        return split_as_panel(self.env, self.split)


def evaluate(
    config: EvalConfig,
    *,
    resume: bool = False,
    retry_errors: bool = False,
    policy: Policy | None = None,
    progress: Progress | None = None,
    team: Team | None = None,
    say: Callable[[str], None] | None = None,
    engine: Engine | TextEngine | None = None,
) -> Summary:
    """Play a panel and return its numbers; with `output_dir` everything is recorded as it happens.

    Args:
        config: what to play, and how.
        resume: go on with the records in `output_dir`.
        retry_errors: on resume, play episodes again that ended in an infrastructure failure.
        policy: acts instead of the one that `config` names, such as a model in training.
        progress: told after each episode.
        team: processes that share the work; this is its process 0, the others call `assist`.
        say: told in one line what is worth a person's attention, such as a free setting that changed on resume.
        engine: holds the model that `config` names already; it is left open. None opens one.
    Raises: UsageError: something the caller can fix. EngineDown: the model's engine answers no more, see
        `EvalConfig.give_up_after`. Episodes finished so far are on record.
    """
    panel, spec, options = _what(config)
    config, notes = follow(config, spec, options) if policy is None else (config, [])
    if policy is None and (word := untold(config, spec)):
        (say or _mute)(word)
    if config.output_dir is not None:  # before a model is loaded for nothing
        folder = Path(config.output_dir)
        check_output(folder, config.model_dump(mode="json"), resume=resume, free=EVALUATION)
        if resume and not os.path.lexists(folder / EPISODES):  # a link that leads nowhere is refused below
            (say or _mute)(f"nothing to resume in {folder}: starting from the beginning")
    resolved = panel.resolve(spec, allow_missing=config.allow_missing)
    tasks = resolved.tasks[: config.limit]
    plan = _plan(config, resolved, spec, tasks, notes)
    actor = policy or build_policy(config, spec, config.max_turns, engine=engine)
    if config.max_episode_tokens is not None and isinstance(actor, ChatPolicy):
        raise ConfigError(f"max_episode_tokens counts token ids, which engine {config.engine!r} has none of")
    before = _since({}, actor)  # an engine in training has played other episodes already
    found: dict[Key, Trajectory] = {}
    machine = spec.facts(options) if spec.facts else {}
    with ExitStack() as stack:
        run = None
        if policy is None and engine is None:  # this function opened what it holds
            stack.callback(actor.close)
        if config.output_dir is not None:
            made = (
                training_of(config.model_name_or_path) if policy is None and config.policy == "model" else {}
            )
            facts = {"tasks": list(tasks), "options": options, "terms": _terms(config, spec)}
            facts |= {name: known for name, known in (("env", machine), ("trained", made)) if known}
            run = stack.enter_context(_open(config, plan, actor, facts, resume=resume))
            found = _on_record(run, config, plan, tasks)
            for change in run.changed:
                (say or _mute)(_changed(*change))
            if retry_errors:
                found = {key: item for key, item in found.items() if item.ok}
        items = [key for key in _keys(tasks, config.repeats) if key not in found]
        if progress:
            progress(None, len(found), len(found) + len(items))
        total = len(found) + len(items)
        mine = items[:: team.count] if team else items
        # In training the model is ours; one process of several that stopped would leave the others waiting.
        patience = config.give_up_after if policy is None else None
        played = _Played(_play(config, spec, options, actor, mine, patience))
        for item in _unless_none_fits(chain(played, _from_others(team))):
            found[item.task, item.repeat] = item
            if run:
                run.append(item, None if team else _since(before, actor))
            if progress:
                progress(item, len(found), total)
        summary = summarise(
            found.values(),
            plan,
            actor.info,
            timings=read_timings(run.path) if run else None,
            max_error_rate=config.max_error_rate,
        )
        if run:
            write_pages(run.path, summary)
        if played.down is not None:
            raise played.down
    return summary


def _on_record(
    run: RunFolder, config: EvalConfig, plan: Assignment, tasks: Sequence[str]
) -> dict[Key, Trajectory]:
    """Episodes that the run has already, all of them its own."""
    recorded = read_episodes(run.path)
    require_ours(recorded, plan, run.path / EPISODES, tasks=tasks, seed=config.seed)
    return {(item.task, item.repeat): item for item in recorded}


def _mute(text: str) -> None:
    """Say nothing."""


def _changed(key: str, was: Any, now: Any) -> str:
    return f"resumed with another {key}: it was {shortened(was)}, it is {shortened(now)}"


def _unless_none_fits(played: Iterable[Trajectory]) -> Iterator[Trajectory]:
    """Pass episodes on, unless not even the first prompt of any fits the context: then nothing is recorded.

    Raises: ConfigError: no episode had room to begin; says by how much the first one missed it.
    """
    held: list[Trajectory] = []
    begun = False
    for item in played:
        if begun or not _never_began(item):
            yield from held
            yield item
            held, begun = [], True
        else:
            held.append(item)
    if held:
        assert held[0].error is not None
        raise ConfigError(f"no episode can begin: {held[0].error.message}")


def _never_began(item: Trajectory) -> bool:
    return item.error is not None and item.error.type == ContextFull.__name__ and not item.turns


class _Played:
    """Episodes as they end; that the engine went down is kept until the others are on record."""

    def __init__(self, episodes: Iterator[Trajectory]) -> None:
        self._episodes = episodes
        self.down: EngineDown | None = None

    def __iter__(self) -> Iterator[Trajectory]:
        try:
            yield from self._episodes
        except EngineDown as error:
            self.down = EngineDown(
                f"{error}; mend the cause and go on with --resume (--give-up-after sets the number)"
            )


def assist(config: EvalConfig, policy: Policy, team: Team) -> None:
    """Play this process's share of an evaluation that process 0 of the team makes at the same time."""
    panel, spec, options = _what(config)
    tasks = panel.resolve(spec, allow_missing=config.allow_missing).tasks[: config.limit]
    mine = list(_keys(tasks, config.repeats))[team.index :: team.count]
    team.collect(list(_play(config, spec, options, policy, mine)))


def _from_others(team: Team | None) -> Iterator[Trajectory]:
    """Episodes of the team's other processes, once all have finished."""
    if team is not None:
        yield from team.collect([])


def _since(before: Mapping[str, float], actor: Policy) -> dict[str, float]:
    """What the actor's engine has used beyond `before`; {} where nothing is counted."""
    return {name: value - before.get(name, 0) for name, value in actor.usage.items()}


def _keys(tasks: Sequence[str], repeats: int) -> Iterator[Key]:
    return ((task, repeat) for repeat in range(repeats) for task in tasks)


def _what(config: EvalConfig) -> tuple[Panel, EnvSpec, dict[str, Any]]:
    """What is played: the panel, the env as it is under its options, and these, which are tried.

    Raises: UsageError: no such panel or env, or an option that it does not have.
    """
    panel = config.load_panel()
    spec, options = env_spec(panel.env), {**panel.env_options, **config.env_options}
    try_options(spec, options)
    return panel, spec.under(options), options


def _plan(
    config: EvalConfig, resolved: ResolvedPanel, spec: EnvSpec, tasks: Sequence[str], notes: Sequence[str]
) -> Assignment:
    banners = [*resolved.banners(), *notes]
    if config.panel is None:
        banners.insert(0, f"no panel: split {config.split!r} as it is on this machine, frozen by nothing")
    if len(tasks) < len(resolved.tasks):
        banners.append(f"only the first {len(tasks)} of {len(resolved.tasks)} tasks (--limit)")
    return Assignment(
        id=resolved.panel.id,
        sha256=resolved.panel.sha256,
        digest=digest(tasks),
        env=spec.id,
        rules=spec.rules,
        split=resolved.panel.split,
        tasks=len(tasks),
        repeats=config.repeats,
        banners=tuple(banners),
        counted=dict(spec.counted),
        figures=spec.figures,
        sizes=dict(spec.sizes),
    )


def _terms(config: EvalConfig, spec: EnvSpec) -> dict[str, int]:
    """What is played where the configuration leaves it to the env."""
    history = spec.history if config.history is None else config.history
    return {"history": history, "max_turns": config.max_turns or spec.max_turns}


def _open(
    config: EvalConfig,
    plan: Assignment,
    actor: Policy,
    facts: Mapping[str, Any],
    *,
    resume: bool,
) -> RunFolder:
    path = Path(config.output_dir or "")
    run = RunFolder.open(path, config.model_dump(mode="json"), resume=resume, free=EVALUATION)
    whole = {"panel": plan.model_dump(mode="json"), "policy": actor.info, **versions(), **facts}
    try:
        # Packages may change on resume and stay as first recorded; what is played and by whom may not change.
        run.fix_versions(whole, binding=("panel", "policy", "options", "terms", "tasks"))
    except BaseException:
        run.close()
        raise
    return run


def _play(
    config: EvalConfig,
    spec: EnvSpec,
    options: Mapping[str, Any],
    actor: Policy,
    items: Sequence[Key],
    give_up_after: int | None = None,
) -> Iterator[Trajectory]:
    episodes = (
        Episode(spec, task, episode_seed(config.seed, spec.id, task, repeat), repeat)
        for task, repeat in items
    )
    limits = Limits(
        max_turns=config.max_turns,
        max_tokens=config.max_episode_tokens,
        step_seconds=config.step_seconds,
        episode_seconds=config.episode_seconds,
        retries=config.retries,
        give_up_after=give_up_after,
    )
    try:
        yield from run_episodes(
            episodes,
            actor,
            concurrency=config.concurrency,
            limits=limits,
            env_options=options,
            tolerate_corrupt=config.allow_missing,
        )
    except CorruptData as error:
        raise CorruptData(
            f"{error}; finished episodes are kept. Replace the file, or go on without it: --allow-missing --resume"
        ) from error
