"""The records every part exchanges: Action, Turn, Trajectory, Group, RolloutPlan.

Frozen dataclasses of plain Python values with a JSON round trip; compared with `==`. Leaves out tensors (see
`agentbench.trainers.batch.tables`) and anything that acts. Frozen is shallow: never mutate a list held by a record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .errors import ContractError, UsageError
from .foreign import message_of, writable

Finish = Literal["stop", "length", "abort"]
End = Literal["terminated", "max_turns", "max_tokens", "context_full", "error"]
Mode = Literal["episode", "step"]
Place = Literal["env", "engine", "policy"]
Odds = tuple[tuple[str, float], ...]
Authors = tuple[tuple[int, str | Odds], ...]
"""Hand-overs (first turn, who acts from there on); who is an author, or ((author, weight), ...) drawn on every turn."""

REPLAY = "replay"
"""The author that says a task's recorded episode again."""

FINISHES: tuple[str, ...] = get_args(Finish)
ENDS: tuple[str, ...] = get_args(End)
PLACES: tuple[str, ...] = get_args(Place)


class _Nothing(dict[str, Any]):
    """The mapping of a record that has nothing to say there; one for all of them, and so read-only."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # so that it may be a default

    def _refuse(self, *args: Any, **named: Any) -> Any:
        raise TypeError("records are read-only; dataclasses.replace makes one that says something else")

    __setitem__ = setdefault = update = __ior__ = _refuse


NOTHING: Mapping[str, Any] = _Nothing()
"""An empty mapping. Making one for each field of each turn costs more than all else that a turn is made of."""


@dataclass(frozen=True, slots=True)
class Action:
    """What an author said in one turn.

    Attributes:
        text: the reply as text, special tokens left out.
        token_ids: the sampled ids [A], end-of-turn token included when it was sampled; empty for text-only authors.
        logprobs: nats [A], under the distribution the ids were sampled from (after temperature, top-k and top-p).
        finish: "stop" (end token or stop string), "length" (token limit) or "abort" (cancelled).
        policy_version: number of weight updates the sampling model had seen.
        author: "student", "teacher", "expert" ...
    """

    text: str
    token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    finish: Finish = "stop"
    policy_version: int = 0
    author: str = "student"

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ContractError(
                f"an Action needs one log-prob per token id; got {len(self.token_ids)} ids and "
                f"{len(self.logprobs)} log-probs from author {self.author!r}"
            )


@dataclass(frozen=True, slots=True)
class Turn:
    """One observation, the reply to it, and what came of it.

    Attributes:
        index: position in the episode, 0 first.
        observation: the env's text shown before acting.
        context_ids: only the token ids that are new since the last turn's reply [C]; the whole prompt when `fresh`.
        fresh: the prompt restarts here, it does not extend the tokens on record.
        action: the reply.
        env_action: what was sent to the env; None when nothing could be parsed (the env was told so).
        reward: of this step, in the env's own unit.
        invalid: name of the parse failure; "" when the reply was clean.
        penalty: already taken off the reward for an invalid reply.
        label: what another author would have done here, when the plan asked for it.
        shown: what the prompt was written from beside the turns before: "admissible" and the env's own info of that
            moment. With it a teacher's prompt for the same turn can be written again.
        info: the env's own info values after the step that differ from those at reset; never read by trainers.
        annotations: numbers added later by trainers: weight, advantage, disagreement, uncertainty ...
        notes: texts that a teacher read for this turn and the student did not (a debate, a skill, a peer's attempt),
            and how sure several teachers were.
    """

    index: int
    observation: str
    action: Action
    env_action: str | None
    reward: float
    context_ids: Sequence[int] = ()
    fresh: bool = True
    invalid: str = ""
    penalty: float = 0.0
    label: Action | None = None
    shown: Mapping[str, Any] = NOTHING
    info: Mapping[str, Any] = NOTHING
    annotations: Mapping[str, float] = NOTHING
    notes: Mapping[str, str] = NOTHING


@dataclass(frozen=True, slots=True)
class Failure:
    """An infrastructure failure: what broke, where, with which message."""

    type: str
    message: str
    where: Place

    @classmethod
    def of(cls, error: BaseException, where: Place) -> Failure:
        """Describe an exception for the records; its message may hold anything, and may itself fail to be made."""
        return cls(writable(type(error).__name__), writable(message_of(error)), where)


@dataclass(frozen=True, slots=True)
class Parent:
    """Where a forked trajectory left its parent: at the start of turn `turn`."""

    trajectory: str
    turn: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode.

    Attributes:
        id: unique within a run.
        env: plug-in name of the environment.
        task: task id.
        task_type: stratum of the task used in reports; "" when the benchmark has none.
        seed: the episode's own seed; everything random in the episode follows from it.
        repeat: 0 for the first run of the task, 1 for the second ...
        turns: [N] in order.
        success: the headline yes/no; None where the env has none or the episode broke.
        score: in [0, 1].
        end: why it stopped.
        error: set exactly when `end == "error"`.
        final_observation: the env's last text, which no turn answers.
        parent: set when the episode was forked from another.
        seconds: wall time; not part of the saved record, so that records are reproducible to the byte.
        line: its line of episodes.jsonl, from a rollout that has seen that it can be written; None once it is on file
            and in copies (`dataclasses.replace`), which may say something else.
    """

    id: str
    env: str
    task: str
    seed: int
    turns: Sequence[Turn]
    success: bool | None
    score: float
    end: End
    repeat: int = 0
    task_type: str = ""
    error: Failure | None = None
    final_observation: str = ""
    parent: Parent | None = None
    seconds: float = field(default=0.0, compare=False)
    line: bytes | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the episode is free of infrastructure failures and may be scored."""
        return self.end != "error"

    @property
    def reward(self) -> float:
        """Sum of the turn rewards, in the env's own unit."""
        return float(sum(turn.reward for turn in self.turns))


@dataclass(frozen=True, slots=True)
class Group:
    """Trajectories that are compared with each other.

    Attributes:
        key: task id, or task id and state.
        anchor: first turn in which members may differ; 0 for whole episodes.
        members: [S].
    """

    key: str
    anchor: int
    members: Sequence[Trajectory]


Guided = bool | Literal["whole"]
"""Guided choice: off, token by token, or by whole commands."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How an engine samples: temperature 0 is greedy; log-probs are of the distribution sampled from.

    Attributes:
        stop: texts that end a reply, besides its end token: with the token that completes one of them the reply is
            over, finish "stop". That token is kept whole. Guided choices end by themselves and do not look.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError(f"stop must be a list of texts, none of them empty, got {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))

    @property
    def info(self) -> dict[str, Any]:
        """Names and values, for the records; without `stop` where there is none."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "stop"}
        return {**found, "stop": list(self.stop)} if self.stop else found


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What an algorithm asks of the rollout, as data.

    Attributes:
        groups: number of tasks (episode mode) or anchors (step mode).
        members: trajectories per group.
        mode: "episode" runs whole episodes; "step" forks every member at an anchor (trajectory, turn).
        anchors: name of the anchor sampler, see `agentbench.rollout.anchors` (step mode only).
        authors: hand-over schedules, dealt to the episodes in turn; one schedule is ((first turn, author), ...), and an
            author acts from that turn on until the next hand-over. In place of an author may stand odds,
            ((author, weight), ...): who acts is then drawn anew on every turn, with the episode's seed.
        tasks: hand-over schedules of single tasks, which go before `authors`; episodes that "replay" acts in take the
            env seed of the task's recording (episode mode only).
        labels: author who is also asked, on every turn, what it would do; kept in `Turn.label`.
        max_turns: turn limit; None takes the env's own.
        sampling: how the student samples.
        roots: hand-over schedules of the episodes from which anchors are drawn; None takes `authors` (step mode only).
        anchors_per_root: anchors drawn for each root, on average (step mode only).
        most_per_root: anchors of one root at most; None sets no limit (step mode only).
        steps_per_member: turns each member plays after its anchor; None plays to the end (step mode only).
    """

    groups: int
    members: int
    mode: Mode = "episode"
    anchors: str = "uniform"
    authors: tuple[Authors, ...] = (((0, "student"),),)
    tasks: Mapping[str, Authors] = field(default_factory=dict)
    labels: str | None = None
    max_turns: int | None = None
    sampling: SamplingParams = SamplingParams()
    steps_per_member: int | None = None
    roots: tuple[Authors, ...] | None = None
    anchors_per_root: int = 1
    most_per_root: int | None = None


def author_of(authors: Authors, turn: int, seed: int = 0) -> str:
    """Name of the author who acts on turn `turn`; odds are drawn with the episode's seed, each turn apart."""
    who = [who for first, who in authors if first <= turn][-1]
    if isinstance(who, str):
        return who
    names, weights = zip(*who, strict=True)
    return str(random.Random(derive_seed(seed, "author", turn)).choices(names, weights)[0])


def authors_in(authors: Authors) -> set[str]:
    """Everybody who may act under a hand-over schedule."""
    return {name for _, who in authors for name in ([who] if isinstance(who, str) else dict(who))}


def derive_seed(*parts: object) -> int:
    """Hash any printable parts to a 63-bit seed; equal parts give equal seeds on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def episode_seed(seed: int, env: str, task: str, repeat: int) -> int:
    """Seed of one episode of an evaluation: it follows from the run's seed and from what is played."""
    return derive_seed(seed, env, task, repeat)


def to_dict(record: Any) -> dict[str, Any]:
    """Turn a record into plain dicts and lists; what of a `Trajectory` is not its record is left out."""
    data = dataclasses.asdict(record)
    if isinstance(record, Trajectory):
        del data["seconds"], data["line"]
    return data


def trajectory_from_dict(data: Mapping[str, Any]) -> Trajectory:
    """Rebuild a trajectory from `to_dict`'s output; sequences come back as tuples."""
    values = dict(data)
    values["turns"] = tuple(_turn_from_dict(turn) for turn in data["turns"])
    values["error"] = Failure(**data["error"]) if data.get("error") else None
    values["parent"] = Parent(**data["parent"]) if data.get("parent") else None
    return Trajectory(**values)


def _turn_from_dict(data: Mapping[str, Any]) -> Turn:
    values = dict(data)
    values["action"] = _action_from_dict(data["action"])
    values["label"] = _action_from_dict(data["label"]) if data.get("label") else None
    values["context_ids"] = tuple(data["context_ids"])
    return Turn(**values)


def _action_from_dict(data: Mapping[str, Any]) -> Action:
    values = dict(data)
    values["token_ids"] = tuple(data["token_ids"])
    values["logprobs"] = tuple(data["logprobs"])
    return Action(**values)
