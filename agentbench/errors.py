"""Every exception of the project. Leaves out: how a failed episode is recorded (see `rollout`).

AgentBenchError
├─ UsageError (ValueError)          the caller can fix it; the CLI prints one line and exits 2
│  ├─ ConfigError                   a key or value of the configuration
│  ├─ UnknownName                   no plug-in, panel or task of that name
│  ├─ MissingData                   benchmark files are not there; says how to fetch or import them
│  ├─ CorruptData                   a file is there but broken; names it
│  └─ MissingDependency (ImportError)  an optional package is missing; names the extra
├─ ContractError (RuntimeError)     a plug-in broke a protocol: names plug-in, method, what came back
├─ EpisodeFailure (RuntimeError)    recorded on the trajectory; never kills its siblings
│  ├─ EnvFailure
│  └─ EngineFailure
│     └─ ContextFull                the prompt no longer fits; ends the episode as `context_full`, not as an error
├─ EngineDown (RuntimeError)        no usable answer for many episodes in a row: the run stopped
└─ TrainingError (RuntimeError)     non-finite loss, empty batch: stop, naming step and trajectories
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AgentBenchError(Exception):
    """Root of all errors raised on purpose by this project."""


class UsageError(AgentBenchError, ValueError):
    """The caller asked for something impossible and can fix it."""


class ConfigError(UsageError):
    """A configuration key is unknown, unused or has a value that is not allowed."""


class UnknownName(UsageError):
    """A name of a plug-in, panel, split or task that does not exist."""


class MissingData(UsageError):
    """Benchmark files are absent; the message says how to get them."""


class CorruptData(UsageError):
    """A data file exists but cannot be used; the message names it."""


class MissingDependency(UsageError, ImportError):
    """An optional package is not installed; the message names the pip extra."""


class ContractError(AgentBenchError, RuntimeError):
    """A plug-in broke a protocol of this project."""


class EpisodeFailure(AgentBenchError, RuntimeError):
    """An infrastructure failure inside one episode; recorded, never scored as the agent's."""


class EnvFailure(EpisodeFailure):
    """The environment broke or exceeded its time limit."""


class EngineFailure(EpisodeFailure):
    """The engine could not answer a request."""


class EngineDown(AgentBenchError, RuntimeError):
    """The engine gave no usable answer for many episodes in a row; the run stopped, what is on record is kept."""


class ContextFull(EngineFailure):
    """The conversation no longer fits the model's context, as its endpoint says."""


class TrainingError(AgentBenchError, RuntimeError):
    """Training cannot go on without harm; the last checkpoint is intact."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownName:
    """Build the error for a name that is not among `known`, suggesting the nearest one.

    Args:
        kind: what the name stands for, such as "env" or "panel".
        name: the name that was asked for.
        known: every allowed name.
        hint: the next step, appended as a sentence.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names) if names else "none"
    message = f"no {kind} {name[:100]!r}; known: {listed}."
    if close:
        message += f" Did you mean {close[0]!r}?"
    return UnknownName(f"{message} {hint}".strip())


def missing_dependency(package: str, extra: str, purpose: str) -> MissingDependency:
    """Build the error for an optional package that is not installed."""
    return MissingDependency(
        f"{purpose} needs the package {package!r}, which is not installed; "
        f"run: pip install 'agentbench-opd[{extra}]'"
    )
