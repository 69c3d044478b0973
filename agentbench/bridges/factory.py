"""Environments in the shape of TRL's `environment_factory`: an object whose public methods are tools for the model.

TRL calls the factory without arguments, keeps the objects and resets them with a row of the dataset; `act` is the one
tool, and `get_reward` scores a finished rollout. Needs nothing of TRL itself. Leaves out prompts and datasets.

Source: TRL 1.16, GRPOTrainer(environment_factory=...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..env import EnvSpec
from ..registry import env_spec
from .episode import Seat, Seen, Terms


class ToolEnvironment:
    """One rollout's environment; made by `environment_factory`, which gives each benchmark a class of its own."""

    _terms: Terms
    _list_commands: bool

    def __init__(self) -> None:
        """Make the env; TRL makes one to look at its methods, and may never reset it."""
        self._seat = Seat(self._terms)
        self._earned = 0.0

    def reset(
        self,
        task: str | None = None,
        split: str | None = None,
        index: int | None = None,
        seed: int | None = None,
        **row: Any,
    ) -> str:
        """Begin the task that a row of the dataset names, and forget everything of the last one.

        Args:
            task: task id.
            split: with `index`, another way to name a task; alone, where to draw from.
            index: place in the split.
            seed: of the env, and of the draw where no task is named.
            row: the row's other columns, which are not the env's.
        Returns: what the model reads; TRL puts it at the end of the last user message.
        Raises: UsageError: no such task, or its files are absent.
        """
        self._earned = 0.0
        return self._shown(self._seat.reset(task=task, split=split, index=index, seed=seed))

    def act(self, command: str) -> str:
        """Carry out one command in the environment and read what happens.

        Args:
            command: The command, exactly as it is listed.

        Returns:
            What happens, and the commands that can be given next.
        """
        moment = self._seat.step(str(command))
        self._earned += moment.reward or 0.0
        return self._shown(moment)

    def get_reward(self) -> float:
        """Return what the episode has earned so far, as a share of what success pays."""
        return self._earned

    def _shown(self, moment: Seen) -> str:
        lines = [moment.text]
        instruction = moment.info.get("instruction")
        if isinstance(instruction, str) and moment.turn == 0:
            lines.insert(0, instruction)
        if moment.done:
            lines.append("The episode is over.")
        elif self._list_commands and moment.info.get("admissible"):
            lines.append("Commands: " + ", ".join(moment.info["admissible"]))
        return "\n".join(lines)


def environment_factory(
    env: str | EnvSpec,
    *,
    split: str = "",
    options: Mapping[str, Any] | None = None,
    max_turns: int | None = None,
    list_commands: bool = True,
) -> Callable[[], ToolEnvironment]:
    """Return what GRPOTrainer takes as `environment_factory`.

    Args:
        env: plug-in name, "package.module:SPEC", "file.py:SPEC", or the spec itself.
        split: tasks that are drawn from where a row names none; "" is the env's first.
        options: keyword options of the env.
        max_turns: commands of an episode; None takes the benchmark's own limit. TRL has no signal for an end: after
            it, each command is answered with an error.
        list_commands: name the admissible commands in every answer; they count towards `max_completion_length`.
    Raises: UnknownName: no such env or split. MissingData: its files are absent.
    """
    spec = env if isinstance(env, EnvSpec) else env_spec(env)
    terms = Terms(spec, split, options or {}, max_turns)
    # TRL names the reward's column after the class, and tells environments apart by it
    name = "".join(part.title() for part in spec.id.replace("-", "_").split("_")) + "Environment"
    return type(name, (ToolEnvironment,), {"_terms": terms, "_list_commands": list_commands})
