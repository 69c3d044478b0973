"""Conformance kit for environments: `check_env` plays an env hard and names the first promise it breaks.

Stricter than Gymnasium's `check_env`, which is one of the checks. Run by `agentbench env check NAME` and by the tests
of every env, ours and a stranger's alike. Latency and memory growth are reported, never judged. Leaves out whether a
benchmark is a faithful one: that takes its original beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..env import EnvSpec
from ..errors import ContractError, MissingData, MissingDependency
from ..foreign import message_of
from .checks import CHECKS
from .player import Broken, EnvPlayer, Skip


@dataclass(frozen=True)
class EnvReport:
    """What `check_env` found: every check passed.

    Attributes:
        env: plug-in name.
        task: task that most checks were played on.
        passed: names of the checks, in the order they ran.
        skipped: check -> why it does not apply.
        figures: medians "make_ms", "reset_ms", "step_ms"; "leak_bytes", kept for good by each episode after the
            second.
    """

    env: str
    task: str
    passed: Sequence[str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


def check_env(
    spec: EnvSpec,
    *,
    task: str | None = None,
    seed: int = 0,
    steps: int = 30,
    options: Mapping[str, Any] | None = None,
    skip: Sequence[str] = (),
    tasks: int = 3,
    name: str = "",
    progress: Callable[[str], None] | None = None,
) -> EnvReport:
    """Play an environment and check every promise of the contract.

    Args:
        spec: the plug-in.
        task: task to play; None takes the first task of the first split that has its files.
        seed: of the random commands the kit gives.
        steps: length of the episodes that need not end.
        options: keyword options of `spec.make`.
        skip: names of checks to leave out.
        tasks: tasks of every split that the checks of breadth play: 3 are the first, the middle and the last.
        name: under which another process finds the spec; "" leaves out the check that needs one.
        progress: told the name of each check before it runs.
    Raises:
        ContractError: names the check that failed and what was seen.
        MissingData: no split has its files. MissingDependency: an optional package is missing.
    """
    spec = spec.under(options or {})
    player = EnvPlayer(spec, task or "", seed=seed, steps=steps, options=dict(options or {}))
    player.name, player.tasks = name, tasks
    passed: list[str] = []
    skipped = dict.fromkeys(skip, "left out by the caller")
    figures: dict[str, float] = {}
    for name, check in CHECKS.items():
        if name in skip:
            continue
        if progress is not None:
            progress(name)
        try:
            figures |= check(player) or {}
        except Skip as reason:
            skipped[name] = str(reason)
        except (MissingData, MissingDependency, KeyboardInterrupt):
            raise
        except Broken as error:
            raise ContractError(f"env {spec.id!r} fails the check {name!r}: {error}") from None
        except BaseException as error:  # whatever a plug-in throws is a finding here, `sys.exit` too
            raise ContractError(
                f"env {spec.id!r} fails the check {name!r} with {type(error).__name__}: {message_of(error)}"
            ) from error
        else:
            passed.append(name)
    return EnvReport(spec.id, player.task, tuple(passed), skipped, figures)
