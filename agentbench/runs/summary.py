"""Numbers of a run, computed from its records alone. Plays nothing; leaves out the page that shows them (`report`).

Infrastructure failures are counted apart and never scored as the agent's. Above the allowed share of them no headline
is given. Episodes whose data is corrupt count as missing tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ..config import Section, validate
from ..errors import CorruptData, MissingData
from ..foreign import shortened, writable
from ..types import Trajectory, Turn
from .episodes import EPISODES
from .files import read_json
from .folder import VERSIONS, Timings, read_timings
from .own import read_run
from .shortfalls import error_limit, losses
from .stats import Estimate, bootstrap_mean, pass_at_k, stratified, wilson_repeated

SUMMARY = "summary.json"
_NO_COMMAND = frozenset({"no_action", "empty_action", "empty"})
"""Parse failures (`agentbench.dialogue.parse.FAILURES`) that leave no command."""


class Assignment(Section):
    """What a run set out to play; kept under "panel" in versions.json.

    Attributes:
        id: panel id.
        sha256: digest of the panel file's ids.
        digest: of the ids to play, `limit` included; equal digests mean comparable runs.
        env: plug-in name; `rules` is its version of everything that moves a score.
        tasks: number of tasks to play.
        repeats: episodes per task.
        banners: what keeps this from being the official panel.
        counted: the env's own yes/no info keys that are counted, with what they mean.
        figures: the env's own numbers that are averaged too.
        sizes: official size of each task type.
    """

    id: str
    sha256: str
    digest: str
    env: str
    rules: str
    split: str
    tasks: int
    repeats: int
    banners: tuple[str, ...] = ()
    counted: dict[str, str] = Field(default_factory=dict)
    figures: tuple[str, ...] = ()
    sizes: dict[str, int] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(write(self), "figures", "sizes")


class Rates(Section):
    """Figures of one group of episodes, errors excluded.

    Attributes:
        n: scored episodes; `tasks` are the different tasks among them.
        success: with a 95 % Wilson interval; None where the env has no yes/no outcome.
        score: mean with a 95 % bootstrap interval over tasks.
        turns: mean per episode; `turns_won` of the successful ones.
        figures: means of the env's own numbers.
        sampled_tokens: mean per episode, where the env has such numbers; None for policies without tokens.
    """

    n: int
    tasks: int
    success: Estimate | None
    score: Estimate
    turns: float
    turns_won: float | None
    figures: dict[str, float] = Field(default_factory=dict)
    sampled_tokens: float | None = None

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(write(self), "figures", "sampled_tokens")


class Mean(Section):
    """One row over the task types: the success rate with its interval, the score, the env's own numbers."""

    success: Estimate | None
    score: Estimate
    figures: dict[str, float]


class Summary(Section):
    """All numbers of a run.

    Attributes:
        plan: what was to be played, by whom in `policy`.
        recorded: episodes on record, of `planned`.
        errors: infrastructure failures by type; `error_rate` is their share of the episodes that had data.
        missing: tasks whose data is corrupt.
        withheld: the share of errors is above `max_error_rate`, so `overall` and what follows is not given.
        task_types: rates by stratum.
        means: over the task types, where the env knows their official sizes: "macro" counts each type the same, "by
            official size" as large as it officially is.
        pass_at_k: k -> estimate averaged over the tasks that have at least k scored episodes.
        sampled_tokens: mean per episode; None for policies without tokens. `prompt_tokens` are those newly read.
        invalid: parse failures by kind, of `turns_total` turns; `unread` counts those that held no command where
            it was looked for, and `unread_reply` is the first of them.
        cut: replies that ended at max_new_tokens, of `turns_total`; `cut_reply` is how the first of them ends.
        refused: commands that the env did not carry out, of `commands`, as the env's own `valid` says, or else its list
            of admissible commands; None where it has neither.
        ends: episodes by how they ended, errors included.
        seconds: wall time from the start of the run to its last episode, all sittings; None when not kept.
        episode_seconds: mean wall time of an episode, queueing for its turn included.
        usage: what a remote engine counted, all sittings: requests, retries, tokens, seconds, cost.
    """

    plan: Assignment
    policy: dict[str, Any]
    planned: int
    recorded: int
    errors: dict[str, int]
    error_rate: float
    max_error_rate: float
    missing: tuple[str, ...]
    withheld: bool
    overall: Rates | None
    task_types: dict[str, Rates]
    means: dict[str, Mean] = Field(default_factory=dict)
    pass_at_k: dict[int, float]
    sampled_tokens: float | None
    prompt_tokens: float | None
    invalid: dict[str, int]
    counted: dict[str, int] = Field(default_factory=dict)
    turns_total: int
    unread: int = 0
    unread_reply: str = ""
    cut: int = 0
    cut_reply: str = ""
    refused: int | None = None
    commands: int = 0
    ends: dict[str, int]
    seconds: float | None
    episode_seconds: float | None
    usage: dict[str, float] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(write(self), "means", "unread", "unread_reply", "cut_reply")

    @property
    def fell_short(self) -> bool:
        """Whether the run is no full, scored evaluation of what was planned."""
        return self.withheld or self.recorded < self.planned


def _without_empty(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Leave out what only some envs have, so that pages of the others stay as they were."""
    return {name: value for name, value in values.items() if value or name not in names}


def summarise(
    episodes: Iterable[Trajectory],
    plan: Assignment,
    policy: Mapping[str, Any],
    *,
    timings: Timings | None = None,
    max_error_rate: float = 0.01,
) -> Summary:
    """Compute all numbers of a run; the order of the episodes does not matter.

    Args:
        episodes: what is on record.
        plan: what was to be played.
        policy: who played, as the policy describes itself.
        timings: wall times; they are not reproducible, all else is.
        max_error_rate: share of infrastructure failures above which no headline is given.
    """
    items = sorted(episodes, key=lambda item: (item.task, item.repeat))
    scored = [item for item in items if item.ok]
    lost = losses(items)
    withheld = lost.error_rate > max_error_rate
    shown = [] if withheld else scored
    by_type: dict[str, list[Trajectory]] = {}
    for item in shown:
        by_type.setdefault(item.task_type, []).append(item)
    with_types = sorted(by_type) if set(by_type) - {""} else []
    types = {name: _rates(by_type[name], plan.figures) for name in with_types}
    cut = [turn.action.text for item in scored for turn in item.turns if turn.action.finish == "length"]
    unread = [turn.action.text for item in scored for turn in item.turns if _is_unread(turn)]
    return Summary(
        plan=plan,
        policy=dict(policy),
        planned=plan.tasks * plan.repeats,
        recorded=len(items),
        errors=_counts(item.error.type for item in lost.broken if item.error),
        error_rate=lost.error_rate,
        max_error_rate=max_error_rate,
        missing=lost.missing,
        withheld=withheld,
        overall=_rates(shown, plan.figures) if shown else None,
        task_types=types,
        means=_means(types, plan.sizes),
        pass_at_k=_pass_at_k(shown) if plan.repeats > 1 else {},
        sampled_tokens=_mean_tokens(scored, "sampled"),
        prompt_tokens=_mean_tokens(scored, "prompt"),
        invalid=_counts(turn.invalid for item in scored for turn in item.turns if turn.invalid),
        counted={
            text: sum(bool(turn.info.get(key)) for item in scored for turn in item.turns)
            for key, text in plan.counted.items()
        },
        turns_total=sum(len(item.turns) for item in scored),
        unread=len(unread),
        unread_reply=writable(unread[0], 200) if unread else "",
        cut=len(cut),
        cut_reply=writable(cut[0][-200:]) if cut else "",
        refused=_refused(scored),
        commands=sum(turn.env_action is not None for item in scored for turn in item.turns),
        ends=_counts(item.end for item in items),
        seconds=timings.wall if timings else None,
        episode_seconds=_mean(list(timings.seconds.values())) if timings and timings.seconds else None,
        usage=dict(timings.usage) if timings else {},
    )


def _is_unread(turn: Turn) -> bool:
    """Whether a reply held no command; some parsers then play its last words, as the originals do."""
    return turn.env_action is None or turn.invalid in _NO_COMMAND


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _refused(episodes: Sequence[Trajectory]) -> int | None:
    """Commands that the env did not carry out."""
    verdicts, listed = [], []
    for item in episodes:
        if not any(turn.shown or turn.info for turn in item.turns):
            continue  # nothing says what the env thought of any command
        for turn, after in zip_longest(item.turns, item.turns[1:]):
            if turn.env_action is None:
                continue
            # What is as it was at reset stands only in what the next prompt was written from.
            verdicts.append(turn.info.get("valid", after.shown.get("valid") if after is not None else None))
            offered = turn.shown.get("admissible")
            listed.append(turn.env_action in offered if offered else None)
    own = any(isinstance(verdict, bool) for verdict in verdicts)
    known = verdicts if own else listed
    return known.count(False) if any(verdict is not None for verdict in known) else None


def _by_task(episodes: Sequence[Trajectory]) -> list[list[Trajectory]]:
    tasks: dict[str, list[Trajectory]] = {}
    for item in episodes:
        tasks.setdefault(item.task, []).append(item)
    return list(tasks.values())


def _rates(episodes: Sequence[Trajectory], figures: Sequence[str]) -> Rates:
    tasks = _by_task(episodes)
    yes_no = all(item.success is not None for item in episodes)
    won = [item for item in episodes if item.success]
    return Rates(
        n=len(episodes),
        tasks=len(tasks),
        success=wilson_repeated([[bool(item.success) for item in task] for task in tasks])
        if yes_no
        else None,
        score=bootstrap_mean([sum(item.score for item in task) / len(task) for task in tasks]),
        turns=_mean([len(item.turns) for item in episodes]),
        turns_won=_mean([len(item.turns) for item in won]) if won else None,
        figures={name: _mean([_figure(item, name) for item in episodes]) for name in figures},
        sampled_tokens=_mean_tokens(episodes, "sampled") if figures else None,
    )


def _figure(episode: Trajectory, name: str) -> float:
    """An env's own number at the end of an episode; what never left its value at reset is not on record: 0."""
    return float(episode.turns[-1].info.get(name, 0.0)) if episode.turns else 0.0


def _means(types: Mapping[str, Rates], sizes: Mapping[str, int]) -> dict[str, Mean]:
    known = [name for name in types if name in sizes]
    if len(known) < 2 or len(known) < len(types):
        return {}
    weights = {"macro": [1.0] * len(known), "by official size": [float(sizes[name]) for name in known]}
    return {name: _mean_of([types[kind] for kind in known], weight) for name, weight in weights.items()}


def _mean_of(rows: Sequence[Rates], weights: Sequence[float]) -> Mean:
    rates = [row.success for row in rows if row.success is not None]
    shares = [weight / sum(weights) for weight in weights]
    return Mean(
        success=stratified(rates, weights) if len(rates) == len(rows) else None,
        score=stratified([row.score for row in rows], weights),
        figures={
            name: sum(share * row.figures[name] for share, row in zip(shares, rows, strict=True))
            for name in rows[0].figures
        },
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pass_at_k(episodes: Sequence[Trajectory]) -> dict[int, float]:
    tasks = [[bool(item.success) for item in task] for task in _by_task(episodes)]
    found = {}
    for k in range(1, max(map(len, tasks), default=0) + 1):
        enough = [task for task in tasks if len(task) >= k]
        found[k] = sum(pass_at_k(len(task), sum(task), k) for task in enough) / len(enough)
    return found


def _mean_tokens(episodes: Sequence[Trajectory], kind: str) -> float | None:
    totals = [
        sum(len(turn.action.token_ids if kind == "sampled" else turn.context_ids) for turn in item.turns)
        for item in episodes
    ]
    return _mean(totals) if any(totals) else None


def read_plan(run: Path) -> tuple[Assignment, dict[str, Any]]:
    """Read what a run set out to play, and who plays, from its versions.json."""
    if not (run / VERSIONS).exists():
        raise MissingData(
            f"{run} is no run folder: it has no {VERSIONS}; name the --output of an evaluation or the folder of a "
            "training run"
        )
    versions = read_json(run / VERSIONS)
    if "panel" not in versions:
        raise MissingData(f"{run / VERSIONS} names no panel: this is no evaluation run")
    panel, policy = versions["panel"], versions.get("policy", {})
    if not isinstance(policy, Mapping):
        raise CorruptData(f"{run / VERSIONS}: policy must be an object, found {shortened(policy)}")
    return validate(Assignment, panel, f"{run / VERSIONS}: panel."), dict(policy)


def summarise_run(run: Path, max_error_rate: float | None = None) -> Summary:
    """Compute the numbers of a run folder from its records."""
    plan, policy = read_plan(run)
    if max_error_rate is None:
        max_error_rate = error_limit(run)
    episodes = read_run(run, plan)
    return summarise(episodes, plan, policy, timings=read_timings(run), max_error_rate=max_error_rate)


def load_summary(run: Path) -> Summary:
    """Read summary.json of a run folder whose records may be elsewhere."""
    return validate(Summary, read_json(run / SUMMARY), f"{run / SUMMARY}: ")


def summary_of(run: Path) -> Summary:
    """Numbers of a run folder: from its records, or as written where these are elsewhere."""
    if not (run / EPISODES).exists():
        return load_summary(run)
    limit = load_summary(run).max_error_rate if (run / SUMMARY).exists() else None
    return summarise_run(run, limit)
