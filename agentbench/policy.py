"""Policies turn what an episode shows into the next action. Leaves out the loop that asks them (`rollout`).

`submit` hands over the episodes that wait for an action, `poll` returns decisions as they become ready, so one slow
answer never holds up the others. Policies that know at once derive from `InstantPolicy`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .env import EnvSpec, Info, TextEnv
from .errors import UsageError
from .types import NOTHING, Action, Failure, Turn


@dataclass(slots=True)
class View:
    """A running episode as a policy sees it; `env` is for privileged policies (experts) only.

    Attributes:
        key: id of the episode, unique among those running.
        turns: what happened so far.
        observation: the text to answer now.
        info: the env's info at this moment.
    """

    key: str
    spec: EnvSpec
    env: TextEnv
    task: str
    seed: int
    repeat: int
    observation: str
    info: Info
    turns: list[Turn] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next: the action as said, and the command for the env (None: unparseable).

    Attributes:
        invalid: name of the parse failure, "" when the reply was clean.
        shown: what the prompt was written from, see `Turn.shown`.
        end: set when the policy cannot go on: "context_full" or "error"; `failure` says why.
    """

    action: Action
    env_action: str | None
    context_ids: Sequence[int] = ()
    fresh: bool = True
    invalid: str = ""
    shown: Mapping[str, Any] = NOTHING
    end: str = ""
    failure: Failure | None = None


class Policy(Protocol):
    """Chooses actions for many episodes at a time. Policies derive from it and so get `usage` and `close`."""

    @property
    def info(self) -> dict[str, Any]:
        """Say who acts, for the records; equal info means equal behaviour given the seed."""
        ...

    def submit(self, views: Sequence[View]) -> None:
        """Ask for one decision for each episode."""
        ...

    def poll(self) -> list[tuple[str, Decision]]:
        """Return (episode key, decision) pairs that are ready; waits for at least one if any is pending.

        A policy that can wait for a time takes `timeout` (seconds) and may then return nothing.
        """
        ...

    def forget(self, key: str) -> None:
        """Drop what is kept for an episode that has ended."""
        ...

    @property
    def usage(self) -> dict[str, float]:
        """What was used so far: requests, tokens, seconds, cost. {} where nothing is counted."""
        return {}

    def close(self) -> None:
        """Give back what the policy holds, its engine included; it is not used afterwards."""
        return


def poll_policy(policy: Policy, timeout: float | None) -> list[tuple[str, Decision]]:
    """Wait for decisions, at most `timeout` seconds where the policy takes that argument."""
    if timeout is None or "timeout" not in inspect.signature(policy.poll).parameters:
        return policy.poll()
    return policy.poll(timeout=timeout)  # type: ignore[call-arg]


class InstantPolicy(Policy):
    """Base of policies that answer at once: implement `command`."""

    name = "instant"

    def __init__(self) -> None:
        self._ready: list[tuple[str, Decision]] = []

    @property
    def info(self) -> dict[str, Any]:
        return {"policy": self.name}

    def command(self, view: View) -> str:
        """Return the command for this episode."""
        raise NotImplementedError

    def reply(self, view: View) -> Decision:
        """Say the command as it is, without tokens."""
        command = self.command(view)
        return Decision(Action(command, author=self.name), env_action=command)

    def submit(self, views: Sequence[View]) -> None:
        """Decide for each episode."""
        for view in views:
            try:
                decision = self.reply(view)
                decision.action.text.encode()  # half a surrogate pair could not be put on record
            except (UsageError, KeyboardInterrupt):
                raise
            except BaseException as error:  # `sys.exit`, too: a broken expert ends its episode, not the run
                decision = Decision(Action(""), None, end="error", failure=Failure.of(error, "policy"))
            self._ready.append((view.key, decision))

    def poll(self) -> list[tuple[str, Decision]]:
        """Return everything decided since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def forget(self, key: str) -> None:
        return
