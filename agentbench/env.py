"""The environment contract: `TextEnv` and the `EnvSpec` that describes one benchmark to the rest of the house.

Leaves out: limits, parsing and prompts (rollout and policy apply those to every env alike).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import gymnasium
import numpy as np

from .errors import ConfigError, ContractError, UsageError, unknown_name
from .foreign import message_of, printable, shortened

Info = dict[str, Any]
StepReturn = tuple[str, float, bool, bool, Info]

INFO_KEYS: dict[str, str] = {
    "task": "str: id of the task being played; on every reset and step",
    "admissible": "list[str]: commands the env would carry out now; empty when it cannot list them",
    "success": "bool: the task is solved",
    "score": "float in [0, 1]: partial credit; 1.0 exactly when solved, unless the EnvSpec says otherwise",
    "task_type": "str: stratum used in reports; '' when the benchmark has none",
}
"""Keys that every env puts into `info`; further keys are the env's own and must be JSON values."""


class AnyText(gymnasium.Space[str]):
    """All strings, whatever their characters and length (`gymnasium.spaces.Text` refuses most of Unicode)."""

    def __init__(self, examples: Sequence[str] = ("look",), seed: int | None = None) -> None:
        """Remember `examples`, the strings that `sample` draws from."""
        super().__init__(shape=None, dtype=np.str_, seed=seed)
        self.examples = tuple(examples)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw one of the examples."""
        return self.examples[int(self.np_random.integers(len(self.examples)))]

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is a string."""
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        """Compare by type: all such spaces hold the same strings."""
        return isinstance(other, AnyText)

    def __hash__(self) -> int:
        """Hash by type, as `__eq__` compares."""
        return hash(AnyText)

    def __repr__(self) -> str:
        return "AnyText()"

    @property
    def is_np_flattenable(self) -> bool:
        """Strings have no fixed size."""
        return False


def named_task(options: Any) -> str | None:
    """The task that the options of `reset` name; None where they name none.

    Raises: TypeError: the options are no mapping, hold another key than "task", or a task that is no text.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping) or any(key != "task" for key in options):
        raise TypeError(f'options must be {{"task": task id}} or None, got {shortened(options)}')
    task = options.get("task")
    if task is not None and not isinstance(task, str):
        raise TypeError(f'options["task"] must be the id of a task as text, got {shortened(task)}')
    return task


def as_text(action: Any) -> str:
    """The action itself. Raises: TypeError: it is no text; any text will do."""
    if not isinstance(action, str):
        raise TypeError(f"an action must be text, got {shortened(action)}")
    return action


class TextEnv(gymnasium.Env[str, str]):
    """A text environment.

    A bad action never raises: it is answered in the observation. Deterministic given (task, seed, actions).
    Subclasses implement `reset`, `step`, `render` and, where the state is small, `snapshot` and `restore`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    can_snapshot: ClassVar[bool] = False
    task: str = ""

    def __init__(self, examples: Sequence[str] = ("look",), *, render_mode: str | None = None) -> None:
        """Declare both spaces as arbitrary text.

        Args:
            examples: actions that `action_space.sample()` draws from.
            render_mode: "ansi" or None.
        """
        self.observation_space = AnyText()
        self.action_space = AnyText(examples)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start an episode; `options={"task": id}` names the task, else one is drawn with `seed`.

        Subclasses call this first: it seeds `np_random` and returns nothing of use.
        """
        super().reset(seed=seed)
        return "", {}

    def begin(self, tasks: Sequence[str], *, seed: int | None, options: dict[str, Any] | None) -> str:
        """Seed `np_random` and choose the task of an episode: the one that options name, else one drawn.

        Args:
            tasks: ids of all tasks of the env.
            seed: of the episode, as `reset` was given it.
            options: as `reset` was given them.
        Returns: the id, which `info` reports from now on.
        Raises: UnknownName: no such task.
        """
        super().reset(seed=seed)
        drawn = tasks[int(self.np_random.integers(len(tasks)))]
        task = named_task(options) or drawn
        if task not in tasks:
            raise unknown_name("task", str(task), tasks)
        self.task = str(task)
        return self.task

    def info(
        self,
        *,
        success: bool,
        score: float | None = None,
        admissible: Sequence[str] = (),
        task_type: str = "",
        **own: Any,
    ) -> Info:
        """Fill in the keys of `INFO_KEYS`; `own` are further ones. `score` None is 1 for success, else 0."""
        return {
            "task": self.task,
            "admissible": list(admissible),
            "success": success,
            "score": float(success) if score is None else score,
            "task_type": task_type,
            **own,
        }

    def step(self, action: str) -> StepReturn:
        """Carry out one command: (observation, reward, terminated, truncated, info)."""
        raise NotImplementedError

    def snapshot(self) -> Any:
        """Return the state of the running episode as a picklable value, in O(state)."""
        raise ContractError(f"{type(self).__name__} has no snapshot; the rollout replays its actions instead")

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        """Return to a snapshot of the same or another instance; gives the observation and info of that moment."""
        raise ContractError(f"{type(self).__name__} has no snapshot to restore")


class Expert(Protocol):
    """Knows what to do next in the env it was made for, from any state."""

    def act(self) -> str:
        """Return the command to give now."""
        ...


class Explorer(Protocol):
    """An expert that knows only what an agent can read: one per episode, made from the first observation."""

    def observe(self, observation: str) -> None:
        """Take in an observation; called for each one, the first included, in order."""
        ...

    def act(self, admissible: Sequence[str]) -> str:
        """Return the command to give now."""
        ...


@dataclass(frozen=True)
class EnvSpec:
    """One benchmark as a plug-in (entry-point group `agentbench.envs`).

    Attributes:
        id: plug-in name, lower case: "alfworld".
        gym_id: Gymnasium id, "agentbench/ALFWorld-v1"; the version rises when scores stop being comparable.
        make: builds an env; keyword options are the env's own (`--env-option key=value`).
        splits: names accepted by `tasks`, embedded ones first.
        tasks: split -> ordered task ids. Raises MissingData when the files are absent.
        prompt: "package:folder/name" of the prompt, see `agentbench.prompts`; or the prompt itself, as a mapping with
            the keys of a prompt file.
        parser: name of the action parser and its options, see `agentbench.dialogue.parse`.
        max_turns: turn limit of the benchmark's protocol.
        history: observation-action pairs shown in a fresh prompt.
        metric: headline metric, "success" or "score".
        reward_unit: what the env pays for success, in its own unit (10 for ALFWorld).
        invalid_penalty: subtracted from a turn's reward when its reply could not be parsed cleanly.
        expert: builds an expert for a running env; None when there is none.
        decoy: builds an expert that pursues another goal of the same scene, chosen by the seed; mixed behaviour for
            training data. None when there is none.
        explorer: builds, from an episode's first observation, an expert that knows only the text. Its episodes can be
            imitated, those of an all-knowing expert often cannot. None when there is none.
        extra: pip extra to name when an optional package is missing.
        counted: the env's own yes/no info keys whose turns a report counts, with what they mean.
        rules: version of everything that moves a score; part of every record.
        facts: from the env's options, what of this machine may move a score (an interpreter, a sandbox); kept in
            versions.json, and `compare` says where two runs differ in it. None when there is nothing of the kind.
        replies: what a reply is: "actions" of an agent, or whole "programs"; methods choose their divergence by it.
        blocking: steps may wait (network, subprocess), so rollout runs them in threads.
        variant: the spec as it is under options of `make`, where those change prompt, parser, turns or penalty; called
            with the spec and the options. None where they never do.
        figures: names of the env's own info values (numbers that start at 0) that reports average beside the metric.
        sizes: official size of each task type, for a mean that weights them so.
    """

    id: str
    gym_id: str
    make: Callable[..., TextEnv]
    splits: tuple[str, ...]
    tasks: Callable[[str], Sequence[str]]
    prompt: str | Mapping[str, Any]
    parser: str
    max_turns: int
    history: int = 2
    metric: str = "success"
    reward_unit: float = 1.0
    invalid_penalty: float = 0.0
    expert: Callable[[TextEnv], Expert] | None = None
    decoy: Callable[[TextEnv, int], Expert] | None = None
    explorer: Callable[[str], Explorer] | None = None
    extra: str = ""
    counted: Mapping[str, str] = field(default_factory=dict)
    rules: str = "1"
    replies: Literal["actions", "programs"] = "actions"
    facts: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    blocking: bool = False
    variant: Callable[[EnvSpec, Mapping[str, Any]], EnvSpec] | None = None
    figures: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def under(self, options: Mapping[str, Any]) -> EnvSpec:
        """The spec to go by when envs are made with these options.

        Raises: UsageError: an option is wrong.
        """
        return self if self.variant is None else self.variant(self, options)


def try_options(spec: EnvSpec, options: Mapping[str, Any]) -> None:
    """Make an env with its options and close it again, so that a wrong one is refused before anything is loaded.

    Raises: ConfigError: an option that the env does not have, or a value it cannot use; names its options.
        UsageError: what the env itself refuses: absent data, a missing package.
    """
    known = _options_of(spec.make)
    unknown = [name for name in options if known is not None and name not in known]
    names = ", ".join(sorted(known)) if known else "none"
    if unknown:
        close = difflib.get_close_matches(unknown[0], known or (), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"env {spec.id!r} has no option {shortened(unknown[0])}; its options: {names}.{hint}"
        )
    try:
        env = spec.make(**options)
    except UsageError:
        raise
    except Exception as error:
        raise ConfigError(
            f"env {spec.id!r} cannot be made with the options {shortened(dict(options))}: {type(error).__name__}: "
            f"{printable(message_of(error), 300)}; its options: {names}"
        ) from error
    env.close()


def _options_of(make: Callable[..., TextEnv]) -> list[str] | None:
    """Names of the keyword options of a factory; None where it takes any."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # pragma: no cover - a factory written in C
        return None
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        return None
    return [item.name for item in parameters if item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)]


RESERVED_KEYS = ("invalid", "penalty", "label", "label_ids")
"""Keys that an env's `info` may not use: in records of schema 1 they are facts of the rollout."""


def register_gymnasium(spec: EnvSpec, entry_point: str | None = None) -> None:
    """Make `gym.make(spec.gym_id)` work; a second call for the same id changes nothing.

    Args:
        spec: the benchmark.
        entry_point: "module:attribute" of the env factory, resolved by Gymnasium at `make`; None takes `spec.make`.
    """
    if spec.gym_id not in gymnasium.registry:
        gymnasium.register(id=spec.gym_id, entry_point=entry_point or spec.make)
