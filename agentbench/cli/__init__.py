"""The command line: turns words into calls and exceptions into exit codes. Leaves out all work.

Exit codes: 0 done; 1 ran, but something fell short; 2 the caller can fix it (one line on stderr); 130 interrupted
(128 + the signal where another ended it).
Every import beyond the option parser happens inside a command, so that `--help` and `list` stay fast.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import AgentBenchError, UsageError
from ..foreign import printable
from . import (
    bridges,
    data,
    environment,
    evaluation,
    judge,
    looking,
    machine,
    model,
    objective,
    serving,
    suites,
    sweep,
    training,
)

_INTERRUPTED = 130


class _Commands(TyperGroup):
    """The commands; what ends a file too early is told apart from Ctrl-C before the parser mixes the two."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            from ..registry import blamed

            what = f"a file ends before its content does ({error or 'it is empty or cut'})"
            raise UsageError(blamed(error) or what) from error


app = typer.Typer(
    name="agentbench",
    cls=_Commands,
    help="Benchmark language-model agents, and train them on the same tasks.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluation.register(app)
suites.register(app)
looking.register(app)
training.register(app)
objective.register(app)
sweep.register(app)
environment.register(app)
data.register(app)
judge.register(app)
model.register(app)
serving.register(app)
bridges.register(app)
machine.register(app)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from importlib.metadata import version as installed_version

        print(installed_version("agentbench-opd"))
        raise typer.Exit


_ended_by: list[int] = []
"""The signal that asked this process to end, once one did."""


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    if (
        "RANK" not in os.environ
    ):  # one of several processes is ended by its launcher, which tells who died of what
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one of them
                signal.signal(number, _end)
    sys.exit(run(sys.argv[1:]))


def _end(number: int, frame: Any) -> None:
    """End as Ctrl-C does, so that files and environments are closed, with the signal's own exit code."""
    _ended_by.append(number)
    raise KeyboardInterrupt


def run(words: Sequence[str]) -> int:
    """Carry out one command line and return its exit code."""
    try:
        code = app(args=list(words) or ["--help"], standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except UsageError as error:
        return _say(str(error), 2)
    except AgentBenchError as error:
        return _say(f"{type(error).__name__}: {error}", 1)
    except BaseException as error:  # `sys.exit` in a plug-in is one too
        return _tell(error)
    if code == _INTERRUPTED and _ended_by:
        code = 128 + _ended_by[0]
    if code == _INTERRUPTED:  # the parser turns Ctrl-C into this code without a word
        return _say("interrupted; what is on record is kept, --resume goes on", code)
    if isinstance(code, int) and code - 128 in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        name = signal.Signals(code - 128).name
        return _say(f"ended by {name}; what is on record is kept, --resume goes on", code)
    return code if isinstance(code, int) else 0


def _tell(error: BaseException) -> int:
    """Say what nobody meant to raise: in one line where it is known to be none of our own faults."""
    from ..registry import blamed
    from ..runs.files import disk_refused

    # The parser's own errors have no public base class in every release of typer, but all can format themselves.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        return _say(str(format_message()), 2)
    told = blamed(error)
    if told is None and isinstance(error, SystemExit):  # the parser's, when nobody reads on: `| head`
        return error.code if isinstance(error.code, int) else 1
    if told is None and isinstance(error, OSError):
        # a full disk, a folder that may not be written, a name that is too long
        told = disk_refused(error)
    if told is not None:
        return _say(told, 2)
    traceback.print_exception(error)
    return 1


def _say(message: str, code: int) -> int:
    speaker = "agentbench"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        speaker += f" (process {os.environ.get('RANK', '?')})"
    print(f"{speaker}: {printable(message)}", file=sys.stderr)
    return code
