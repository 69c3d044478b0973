"""Runs episodes: many at a time, each one depending on nothing but its own seed.

Continuous scheduling: a finished episode is replaced at once, an env that is done is never stepped, and a slow
episode delays nobody. This is the one place that turns exceptions of an env or engine into recorded failures.
Leaves out which episodes to run (`evaluate`, `collect`) and what is learnt from them (`trainers`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from ..env import EnvSpec, Info, StepReturn, TextEnv
from ..errors import ContextFull, ContractError, CorruptData, EngineDown, UsageError
from ..policy import Decision, InstantPolicy, Policy, View, poll_policy
from ..types import End, Failure, Trajectory, Turn, author_of, authors_in
from .episode import Episode, Limits, engine_down, replay
from .record import broken, check_flags, check_moment, make_turn, opening_of, scored
from .workers import EnvThreads, Overdue

_GLANCE = 0.05  # seconds between two looks at steps in threads


@dataclass(slots=True)
class _Running:
    episode: Episode
    env: TextEnv
    view: View
    max_turns: int
    started: float
    opening: Info
    tokens: int = 0
    decision: Decision | None = None
    label: Decision | None = None
    step_started: float = 0.0


@dataclass(slots=True)
class _Rollout:
    """State of one call of `run_episodes`."""

    policies: Mapping[str, Policy]
    limits: Limits
    env_options: Mapping[str, Any]
    tolerate_corrupt: bool
    threads: EnvThreads
    labeller: InstantPolicy | None = None
    running: dict[str, _Running] = field(default_factory=dict)
    waiting: list[_Running] = field(default_factory=list)
    asked: dict[str, str] = field(default_factory=dict)  # episode -> author of the answer it waits for
    steps: dict[Future[StepReturn], str] = field(default_factory=dict)
    idle_envs: list[tuple[EnvSpec, TextEnv]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    forks: dict[tuple[str, int], Any] = field(default_factory=dict)
    finished: list[Trajectory] = field(default_factory=list)
    began: dict[str, float] = field(default_factory=dict)
    silent: list[Trajectory] = field(
        default_factory=list
    )  # broken by the engine since its last usable answer
    down: EngineDown | None = None

    # --- beginning ---------------------------------------------------------------------------------------------

    def begin(self, episode: Episode) -> None:
        """Reset an env for the episode and queue its first decision."""
        started = self.began.setdefault(episode.key, time.monotonic())  # playing it again starts no new clock
        env: TextEnv | None = None
        try:
            env = self.threads.call(self._take_env, episode.spec, until=self.limits.until(started))
            observation, info, turns = self.threads.call(
                self._reset, env, episode, until=self.limits.until(started)
            )
            check_moment(observation, info)
        except Overdue:
            self._excuse(started)
            self.threads.close(env, hung=True)
            self._fail(episode, started, [], self.limits.episode_timeout("env"))
            return
        except UsageError as error:
            self.threads.close(env)
            if not (self.tolerate_corrupt and isinstance(error, CorruptData)):
                raise
            self.attempts[episode.key] = self.limits.retries + 1
            self._fail(episode, started, [], Failure.of(error, "env"))
            return
        except Exception as error:
            self.threads.close(env)
            if isinstance(error, ContractError):
                raise
            self._fail(episode, started, [], Failure.of(error, "env"))
            return
        seed = episode.seed if episode.sampling_seed is None else episode.sampling_seed
        view = View(
            episode.key, episode.spec, env, episode.task, seed, episode.repeat, observation, info, turns
        )
        max_turns = self.limits.turns_of(episode)
        run = _Running(episode, env, view, max_turns, started, opening=opening_of(info))
        self.running[episode.key] = run
        self.waiting.append(run)

    def _take_env(self, spec: EnvSpec) -> TextEnv:
        # used again, since `reset` makes an env as new and making one may load a catalogue
        for position, (owner, env) in enumerate(self.idle_envs):
            if owner is spec:
                del self.idle_envs[position]
                return env
        return spec.make(**self.env_options)

    def _reset(self, env: TextEnv, episode: Episode) -> tuple[str, Info, list[Turn]]:
        observation, info = env.reset(seed=episode.seed, options={"task": episode.task})
        if episode.start is None:
            return observation, info, []
        start = episode.start
        turns = list(start.trajectory.turns[: start.turn])
        fork = (start.trajectory.id, start.turn)
        # every branch of a fork starts from one snapshot; replaying its turns for each would cost their number
        if env.can_snapshot and fork in self.forks:
            observation, info = env.restore(self.forks[fork])
            return observation, info, turns
        observation, info = replay(env, observation, info, start)
        if env.can_snapshot:
            self.forks[fork] = env.snapshot()
        return observation, info, turns

    # --- acting ------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Hand every waiting episode to the author of its next turn."""
        # all at once: an engine that sees the whole batch shares prompts that begin alike
        by_author: dict[str, list[View]] = {}
        for run in self.waiting:
            author = author_of(run.episode.authors, len(run.view.turns), run.view.seed)
            by_author.setdefault(author, []).append(run.view)
        if self.labeller is not None and self.waiting:
            self.labeller.submit([run.view for run in self.waiting])
            for key, decision in self.labeller.poll():
                self.running[key].label = decision
        self.waiting = []
        for author, views in by_author.items():
            if author not in self.policies:
                known = ", ".join(sorted(self.policies))
                raise ContractError(f"no policy for author {author!r}; the rollout was given: {known}")
            self.policies[author].submit(views)
            self.asked |= {view.key: author for view in views}

    def listen(self) -> None:
        """Take the decisions that are ready and send their commands to the envs."""
        for author in dict.fromkeys(self.asked.values()):
            for key, decision in poll_policy(self.policies[author], self._patience()):
                if self.asked.pop(key, None) is None:
                    continue  # of an episode that was given up
                if self.silent and decision.end != "error":  # somebody is there: single episodes broke
                    self.finished += self.silent
                    self.silent = []
                self._act(self.running[key], decision)
        if self.limits.episode_seconds is None:
            return
        for key in [key for key in self.asked if self._late(self.running[key])]:
            del self.asked[key]
            self._drop(self.running[key], self.limits.episode_timeout("engine"))

    def _patience(self) -> float | None:
        """How long to wait for an author: until a step may be done, or an episode's time is over."""
        if self.steps:
            return _GLANCE
        seconds = self.limits.episode_seconds
        if seconds is None:
            return None
        oldest = min(self.running[key].started for key in self.asked)
        return max(_GLANCE, oldest + seconds - time.monotonic())

    def _act(self, run: _Running, decision: Decision) -> None:
        if decision.end == "error":
            assert decision.failure is not None
            self._drop(run, decision.failure)
            return
        if decision.end and run.view.turns:
            self._end(run, "context_full")
            return
        if decision.end:
            # Nobody has spoken yet: that is no failure of the agent, and trying again would not help.
            self.attempts[run.episode.key] = self.limits.retries + 1
            message = "the first prompt does not fit the context"
            self._drop(run, decision.failure or Failure(ContextFull.__name__, message, "engine"))
            return
        run.decision = decision
        run.step_started = time.monotonic()
        command = decision.env_action or ""
        if run.episode.spec.blocking:
            self.steps[self.threads.start(run.env.step, command)] = run.episode.key
            return
        try:
            until = self.limits.until(run.started, step=True) if self.threads.timed else None
            result = self.threads.call(run.env.step, command, until=until)
        except Overdue:
            failure = self._timeout(run)
            self._excuse(run.step_started)
            self._drop(run, failure, hung=True)
            return
        except Exception as error:
            self._drop(run, Failure.of(error, "env"))
            return
        self._answer(run, result)

    def gather(self) -> None:
        """Take the env steps that threads have finished; give up on those over their limit."""
        if not self.steps:
            return
        idle = not self.waiting and not self.asked
        done, _ = wait(self.steps, timeout=_GLANCE if idle else 0, return_when=FIRST_COMPLETED)
        for future in list(self.steps):
            run = self.running.get(self.steps[future])
            if future in done:
                del self.steps[future]
                if run is None:
                    continue
                error = future.exception()
                if error is not None:
                    self._drop(run, Failure.of(error, "env"))
                else:
                    self._answer(run, future.result())
            elif run is not None and (self._overdue(run) or self._late(run)):
                del self.steps[future]
                self._drop(run, self._timeout(run), hung=True)

    def _overdue(self, run: _Running) -> bool:
        limit = self.limits.step_seconds
        return limit is not None and time.monotonic() - run.step_started > limit

    def _late(self, run: _Running) -> bool:
        if self.limits.episode_seconds is None:
            return False
        return time.monotonic() > (self.limits.until(run.started) or math.inf)

    def _excuse(self, since: float) -> None:
        """Stop everybody's clock for the time that a call has kept the whole schedule waiting."""
        for run in self.running.values():
            run.started += time.monotonic() - since
            self.began[run.episode.key] = run.started

    def _timeout(self, run: _Running) -> Failure:
        return self.limits.episode_timeout("env") if self._late(run) else self.limits.step_timeout()

    def _answer(self, run: _Running, result: StepReturn) -> None:
        """Record the turn and decide whether the episode goes on."""
        if self.limits.step_seconds is not None and self._overdue(run):
            self._drop(run, self.limits.step_timeout())
            return
        decision, view = run.decision, run.view
        assert decision is not None
        label = run.label.action if run.label is not None else None
        try:
            observation, reward, terminated, truncated, info = result
            check_moment(observation, info)
            check_flags(terminated, truncated)
            view.turns.append(make_turn(view, decision, label, reward, info, run.opening))
        except Exception as error:
            self._drop(run, Failure.of(error, "env"))
            return
        view.observation, view.info = observation, info
        run.tokens += len(decision.action.token_ids)
        limit = self.limits.max_tokens
        if terminated:
            self._end(run, "terminated")
        elif truncated or len(view.turns) >= run.max_turns:
            self._end(run, "max_turns")
        elif limit is not None and run.tokens >= limit:
            self._end(run, "max_tokens")
        elif self.limits.episode_seconds is not None and self._late(run):
            self._drop(run, self.limits.episode_timeout("env"))
        else:
            self.waiting.append(run)

    # --- ending ------------------------------------------------------------------------------------------------

    def _end(self, run: _Running, end: End) -> None:
        view, seconds = run.view, time.monotonic() - run.started
        try:
            finished = scored(run.episode, view.turns, end, view.observation, view.info, seconds)
        except Exception as error:  # one value that cannot be written costs this episode, not the run
            self._drop(run, Failure.of(error, "env"))
            return
        self._close(run)
        self.idle_envs.append((run.episode.spec, run.env))
        self.finished.append(finished)

    def _drop(self, run: _Running, failure: Failure, *, hung: bool = False) -> None:
        """Retry or record an episode that its infrastructure broke; its env is closed and not used again."""
        self._close(run)  # before anything can fail: the author may hold memory for it
        self.threads.close(run.env, hung=hung)
        self._fail(run.episode, run.started, run.view.turns, failure, str(run.view.info.get("task_type", "")))

    def _close(self, run: _Running) -> None:
        del self.running[run.episode.key]
        for name in authors_in(run.episode.authors):
            if name in self.policies:
                self.policies[name].forget(run.episode.key)

    def _fail(
        self, episode: Episode, started: float, turns: list[Turn], failure: Failure, task_type: str = ""
    ) -> None:
        self.attempts[episode.key] += 1
        again = self.attempts[episode.key] <= self.limits.retries
        if again and failure.type != "EpisodeTimeout":  # its time is over, all tries together
            self.begin(episode)
            return
        lost = broken(episode, turns, failure, task_type, time.monotonic() - started)
        if self.limits.give_up_after is None or failure.where != "engine":
            self.finished.append(lost)
            return
        self.silent.append(lost)
        if len(self.silent) == self.limits.give_up_after:  # others that break meanwhile change no message
            self.down = engine_down(self.silent)


def run_episodes(
    episodes: Iterable[Episode],
    policy: Policy | Mapping[str, Policy],
    *,
    concurrency: int = 16,
    limits: Limits | None = None,
    env_options: Mapping[str, Any] | None = None,
    tolerate_corrupt: bool = False,
    labeller: InstantPolicy | None = None,
) -> Iterator[Trajectory]:
    """Run episodes and yield each trajectory as it ends, in any order.

    Args:
        episodes: consumed lazily; keys must be unique.
        policy: the acting policy, or author name -> policy.
        concurrency: episodes under way at once; does not change any trajectory.
        limits: what an episode may use.
        env_options: keyword arguments of the env factory.
        tolerate_corrupt: record a task whose data is corrupt as a failed episode instead of stopping.
        labeller: asked on every turn what it would do; kept in `Turn.label`.
    Raises:
        EngineDown: `limits.give_up_after` episodes in a row got no usable answer.
        UsageError: the caller can fix it (missing data, corrupt data, a policy that cannot play this env).
        ContractError: a plug-in broke its protocol, for instance an env that is not deterministic on replay.
    """
    if concurrency < 1:
        raise UsageError(f"concurrency must be at least 1, got {concurrency}")
    policies = policy if isinstance(policy, Mapping) else {"student": policy}
    limits = limits or Limits()
    threads = EnvThreads(timed=limits.step_seconds is not None or limits.episode_seconds is not None)
    state = _Rollout(policies, limits, env_options or {}, tolerate_corrupt, threads, labeller)
    queue = iter(episodes)
    more = True
    try:
        while more or state.running:
            while more and len(state.running) < concurrency:
                episode = next(queue, None)
                if episode is None:
                    more = False
                else:
                    state.begin(episode)
            state.ask()
            state.listen()
            state.gather()
            finished, state.finished = state.finished, []
            yield from finished
            if state.down is not None:
                raise state.down
        yield from state.silent
    finally:
        left = [(run.env, key in state.steps.values()) for key, run in state.running.items()]
        threads.shut([(env, False) for _, env in state.idle_envs] + left)
