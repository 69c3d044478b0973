"""`serve-env`, `bridge check` and `bridge run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import file_progress, key_values, print_json, print_table

if TYPE_CHECKING:
    from ..bridges import SideBySide

_group = typer.Typer(help="Let other people's loops play our environments.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_group, name="bridge")
    app.command("serve-env")(serve_env)


@_group.callback()
def _bridge() -> None:
    """Let other people's loops play our environments."""


@_group.command()
def check(
    name: Annotated[str, typer.Argument(help="Bridge plug-in: alfworld, webshop.")],
    sources: Annotated[
        list[str] | None, typer.Argument(help="Your games, folders or config file; recordings for webshop.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Games or episodes to play.")] = 12,
    seed: int = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Play the original and ours side by side; print what differs, and how fast each is. Exit code 1 on differences."""
    from ..bridges import find_bridge
    from ..errors import UsageError
    from ..registry import load

    bridge = find_bridge(name)
    if bridge.check is None:
        raise UsageError(f"the bridge {name!r} has no original to be checked against")
    if limit < 1:
        raise UsageError(f"--limit must be at least 1, got {limit}")
    with file_progress() as progress:
        report = load("bridges", bridge.check)(sources or [], limit=limit, seed=seed, progress=progress)
    if json:
        print_json({"bridge": name, **vars(report)})
    else:
        _show(report)
    return int(bool(report.differences))


def _show(report: SideBySide) -> None:
    print(", ".join(f"{number} {kind}" for kind, number in report.counts.items()))
    rows = [
        (part, f"{original:.3f}", f"{ours:.4f}", f"{original / ours:.0f}x" if original and ours else "-")
        for part, (original, ours) in report.seconds.items()
    ]
    if rows:
        print_table(("part", "original s", "ours s", "faster"), rows)
    for line in (*report.notes, *report.differences):
        print(line)
    print(f"{len(report.differences)} differences")


@_group.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Bridge plug-in: alfworld, webshop.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file of the bridge's settings.", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the bridge's settings; repeatable.")
    ] = None,
) -> None:
    """Run somebody's program with a bridge on: `agentbench bridge run alfworld -- train.py ARGS`, or `-- -m MODULE`."""
    from ..bridges import find_bridge
    from ..bridges.program import run_program

    bridge = find_bridge(name)
    settings = bridge.configured(setting or [], config)
    bridge.install(settings)
    # for the processes that the program starts and that call `agentbench.bridges.from_environment`
    os.environ[bridge.variable] = str(config) if config is not None else str(int(settings.enabled))
    run_program(context.args)


def serve_env(
    env: Annotated[str, typer.Argument(help="Env plug-in, package.module:SPEC or file.py:SPEC.")],
    split: Annotated[
        str, typer.Option(help="Tasks drawn from; the env's first split.", show_default=False)
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; a key is needed beyond this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that clients must show; else $AGENTBENCH_SERVE_KEY.", show_default=False
        ),
    ] = None,
    max_sessions: Annotated[int, typer.Option(help="Sessions at once.")] = 1000,
    max_turns: Annotated[
        int | None, typer.Option(help="Steps of an episode; the env's own limit.", show_default=False)
    ] = None,
    idle_seconds: Annotated[
        float, typer.Option(help="A session that is silent for so long is closed.")
    ] = 3600.0,
    step_seconds: Annotated[float, typer.Option(help="Longest reset or step.")] = 120.0,
    replies: Annotated[
        bool, typer.Option("--replies", help="Read commands out of a model's replies with the env's parser.")
    ] = False,
    env_option: Annotated[
        list[str] | None, typer.Option("--env-option", help="key=value for the env; repeatable.")
    ] = None,
) -> int:
    """Serve ENV to OpenEnv clients and verifiers: one episode a connection, on this machine unless told otherwise."""
    from ..bridges.episode import Terms
    from ..bridges.openenv import Service
    from ..bridges.serving import serve_forever
    from ..registry import env_spec

    options = key_values(env_option or [], "--env-option")
    terms = Terms(env_spec(env), split, options, max_turns, replies)
    return serve_forever(
        Service(
            terms,
            host,
            port,
            _key(key_file),
            max_sessions=max_sessions,
            idle_seconds=idle_seconds,
            step_seconds=step_seconds,
        ),
        lambda line: print(line, file=sys.stdout, flush=True),
    )


def _key(file: Path | None) -> str:
    """Read the key; never from the command line, which other users of the machine can list."""
    from ..errors import UsageError

    if file is None:
        return os.environ.get("AGENTBENCH_SERVE_KEY", "")
    try:
        key = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"cannot read the key from {file} ({error.strerror})") from error
    if not key:
        raise UsageError(f"the key file {file} is empty; put a long random word into it")
    return key
