"""`env check` and `play`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..foreign import page, printable
from .output import key_values, print_json

if TYPE_CHECKING:
    from ..env import EnvSpec
    from ..policy import View

_group = typer.Typer(help="Work on environments.")
_Options = Annotated[
    list[str] | None, typer.Option("--env-option", help="key=value for the env; repeatable.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_group, name="env")
    app.command()(play)


@_group.callback()
def _env() -> None:
    """Work on environments."""


@_group.command()
def check(
    name: Annotated[str, typer.Argument(help="Env plug-in, package.module:SPEC or file.py:SPEC.")],
    task: Annotated[str | None, typer.Option(help="Task to play.", show_default=False)] = None,
    seed: int = 0,
    steps: Annotated[int, typer.Option(help="Length of episodes that need not end.")] = 30,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of each split that are looked at.")] = 3,
    env_option: _Options = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Play an environment and check every promise of the contract."""
    from ..registry import env_spec
    from ..testing.conformance import check_env

    options = key_values(env_option or [], "--env-option")
    report = check_env(
        env_spec(name),
        task=task,
        seed=seed,
        steps=steps,
        options=options,
        tasks=tasks,
        name=name,
        progress=_running,
    )
    if json:
        print_json(report)
        return
    for check_name in report.passed:
        print(f"passed   {check_name}")
    for check_name, reason in report.skipped.items():
        print(f"skipped  {check_name}: {reason}")
    for figure, value in report.figures.items():
        print(f"{figure} = {value:.4g}")


def _running(check_name: str) -> None:
    """Name the check that runs now, on a terminal: one that hangs is known by it."""
    import sys

    if sys.stderr.isatty():
        print(f"checking {check_name}", file=sys.stderr, flush=True)


def play(
    env: Annotated[str, typer.Argument(help="Env plug-in.")],
    task: Annotated[
        str | None, typer.Option(help="Task id; the first of the split.", show_default=False)
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split; the env's first.", show_default=False)] = None,
    seed: int = 0,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Show the whole prompt, as a model gets it.")
    ] = False,
    env_option: _Options = None,
) -> int:
    """Play by hand: type commands, see what the agent sees. "?" lists commands, an empty line leaves."""
    from ..errors import UsageError, unknown_name
    from ..registry import env_spec

    options = key_values(env_option or [], "--env-option")
    spec = env_spec(env).under(options)
    split = split or spec.splits[0]
    if split not in spec.splits:
        raise unknown_name(f"split of {spec.id}", split, spec.splits)
    tasks = [task] if task else list(spec.tasks(split)[:1])
    if not tasks:
        raise UsageError(f"split {split!r} of env {spec.id!r} has no tasks")
    view = _start(spec, tasks[0], seed, options)
    over = False
    while not over:
        print(page(_shown(view, prompt)))
        command = _ask(view)
        if not command:
            return 1
        over = _step(view, command)
    print(page(view.observation))
    print(f"success {view.info['success']}, score {view.info['score']:g}, {len(view.turns)} turns")
    return 0


def _start(spec: EnvSpec, task: str, seed: int, options: dict[str, Any]) -> View:
    from ..policy import View

    made = spec.make(**options)
    observation, info = made.reset(seed=seed, options={"task": task})
    return View("play", spec, made, task, seed, 0, observation, info)


def _shown(view: View, prompt: bool) -> str:
    if not prompt:
        return view.observation
    from ..dialogue.prompt import load_prompt
    from ..dialogue.render import Renderer
    from ..engines.scripted import ByteTokenizer

    tokenizer, spec = ByteTokenizer(), view.spec
    renderer = Renderer(tokenizer, load_prompt(spec.prompt), history=spec.history, max_turns=spec.max_turns)
    return tokenizer.decode(renderer.render(view).prompt_ids)


def _ask(view: View) -> str:
    while True:
        try:
            command = input("> ").strip()
        except EOFError:
            return ""
        if command != "?":
            return command
        print("\n".join(map(printable, view.info["admissible"])) or "(this env lists no commands)")


def _step(view: View, command: str) -> bool:
    from ..dialogue.parse import get_parser
    from ..types import Action, Turn

    observation, reward, terminated, truncated, info = view.env.step(command)
    said = Action(get_parser(view.spec.parser).format(command), author="human")
    view.turns.append(Turn(len(view.turns), view.observation, said, command, float(reward)))
    view.observation, view.info = observation, info
    return terminated or truncated or len(view.turns) >= view.spec.max_turns
