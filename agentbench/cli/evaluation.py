"""`eval`, `report` and `compare`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..foreign import printable
from .output import episode_progress, key_values, note, print_json, print_table

if TYPE_CHECKING:
    from ..runs.compare import Difference, GroupComparison

_WHO, _WHAT, _LIMITS = "Who acts", "What is played", "Limits"


class _Option(NamedTuple):
    """One option of `eval`: the EvalConfig key it sets, its type, names, panel of the help page, and help."""

    key: str
    kind: Any
    names: tuple[str, ...]
    panel: str
    text: str


# As a table, because a function with one annotated parameter for each of these would be a page long.
_OPTIONS = (
    _Option("panel", str, ("--panel",), _WHAT, "Panel id or file, see agentbench list panels."),
    _Option("env", str, ("--env",), _WHAT, "Env plug-in or file.py:SPEC, instead of a panel; with --split."),
    _Option("split", str, ("--split",), _WHAT, "Split of --env, as it is on this machine."),
    _Option("limit", int, ("--limit",), _WHAT, "Only the first tasks."),
    _Option("repeats", int, ("--repeats",), _WHAT, "Episodes per task; default 1."),
    _Option("seed", int, ("--seed",), _WHAT, "Seed of the run; default 0."),
    _Option("env_options", list[str], ("--env-option",), _WHAT, "key=value for the env; repeatable."),
    _Option("allow_missing", bool, ("--allow-missing",), _WHAT, "Go on without absent or corrupt tasks."),
    _Option("concurrency", int, ("--concurrency",), _WHAT, "Episodes at once; moves no result; default 16."),
    _Option("output_dir", str, ("--output", "-o"), _WHAT, "Run folder; without one nothing is kept."),
    _Option(
        "policy",
        str,
        ("--policy",),
        _WHO,
        "expert, explorer, random, null, replay:FILE, scripted:FILE, model, or module:Name.",
    ),
    _Option("model_name_or_path", str, ("--model",), _WHO, "Model folder or hub id."),
    _Option("engine", str, ("--engine",), _WHO, "Engine plug-in; default hf."),
    _Option("engine_options", list[str], ("--engine-option",), _WHO, "key=value for the engine; repeatable."),
    _Option("prompt", str, ("--prompt",), _WHO, "Prompt reference or file; the env's own when left out."),
    _Option("parser", str, ("--parser",), _WHO, "tags:N, lenient or plain; the prompt's own when left out."),
    _Option("template_options", list[str], ("--template-option",), _WHO, "key=value for the chat template."),
    _Option("history", int, ("--history",), _WHO, "Observation-action pairs in a prompt."),
    _Option("guided", bool, ("--guided",), _WHO, "Sample among admissible commands only."),
    _Option("temperature", float, ("--temperature",), _WHO, "0 is greedy; default 0.4."),
    _Option("top_p", float, ("--top-p",), _WHO, "Nucleus; default 1.0."),
    _Option("top_k", int, ("--top-k",), _WHO, "0 is off; default 0."),
    _Option("max_new_tokens", int, ("--max-new-tokens",), _WHO, "Tokens per reply; default 512."),
    _Option(
        "stop",
        list[str],
        ("--stop",),
        _WHO,
        "Text that ends a reply; repeatable; the prompt's own when left out.",
    ),
    _Option("max_turns", int, ("--max-turns",), _LIMITS, "Turns per episode; the env's own when left out."),
    _Option("max_episode_tokens", int, ("--max-episode-tokens",), _LIMITS, "Sampled tokens per episode."),
    _Option("step_seconds", float, ("--step-seconds",), _LIMITS, "Wall time of one env step."),
    _Option("episode_seconds", float, ("--episode-seconds",), _LIMITS, "Wall time of one episode."),
    _Option("retries", int, ("--retries",), _LIMITS, "Tries again after infrastructure failures; default 1."),
    _Option(
        "give_up_after",
        int,
        ("--give-up-after",),
        _LIMITS,
        "Stop after so many unanswered in a row; default 10.",
    ),
    _Option("max_error_rate", float, ("--max-error-rate",), _LIMITS, "No headline above it; default 0.01."),
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("eval")(_with_options(eval_))
    app.command()(report)
    app.command()(compare)


def _with_options(function: Any) -> Any:
    """Give a function with `**options` the parameters of `_OPTIONS`, which is where typer looks."""
    own = [
        item
        for item in inspect.signature(function, eval_str=True).parameters.values()
        if item.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    added = [
        inspect.Parameter(
            item.key,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                item.kind | None,
                typer.Option(*item.names, rich_help_panel=item.panel, help=item.text, show_default=False),
            ],
        )
        for item in _OPTIONS
    ]
    function.__signature__ = inspect.Signature([own[0], *added, *own[1:]])
    return function


def eval_(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.yaml", help="Configuration; options win.", show_default=False),
    ] = None,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="... and play its errors again.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    **options: Any,
) -> int:
    """Play a panel with a policy and report honest numbers."""
    from ..config import read_mapping, validate
    from ..errors import ConfigError
    from ..evaluation.evaluate import EvalConfig, evaluate
    from ..runs.report import render

    values = read_mapping(config, "the configuration") if config else {}
    for item in _OPTIONS:
        given = options[item.key]
        if item.key == "stop":
            given = given or None
        elif item.kind == list[str]:
            given = {**values.get(item.key, {}), **key_values(given, item.names[0])} if given else None
        if given is not None:
            values[item.key] = given
    if values.get("panel") is None and values.get("env") is None:
        raise ConfigError("--panel is missing (or --env with --split); see agentbench list panels")
    if values.get("policy") is None:
        raise ConfigError("--policy is missing; see agentbench eval --help")
    if retry_errors and not resume:
        raise ConfigError("--retry-errors plays recorded errors again, so it needs --resume")
    if resume and values.get("output_dir") is None:
        raise ConfigError("--resume goes on with recorded episodes, so it needs --output")
    checked = validate(EvalConfig, values)
    with episode_progress() as progress:
        summary = evaluate(checked, resume=resume, retry_errors=retry_errors, progress=progress, say=note)
    if json:
        print_json(summary.model_dump())
    else:
        print(render(summary), end="")
    return 1 if summary.fell_short else 0


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether its pages are up to date.")
    ] = False,
    max_error_rate: Annotated[
        float | None, typer.Option(help="Give a headline up to this share of errors.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> int:
    """Compute the numbers of a run again from its records, and rewrite its pages."""
    from ..errors import MissingData
    from ..runs.files import write_whole
    from ..runs.report import REPORT, pages, stale_pages
    from ..runs.summary import SUMMARY, Summary

    if not run.is_dir():
        raise MissingData(f"no run folder {run}")
    if check:
        stale = stale_pages(run)
        print(
            f"{run}: "
            + (f"stale: {', '.join(stale)}; run agentbench report {run}" if stale else "up to date")
        )
        return 1 if stale else 0
    written = pages(run, max_error_rate)
    for name, data in written.items():
        write_whole(run / name, data)
    print(written[SUMMARY if json else REPORT].decode(), end="")
    return 1 if Summary.model_validate_json(written[SUMMARY]).fell_short else 0


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN_A RUN_B ...", help="Run folders of one panel.", show_default=False),
    ] = None,
    a: Annotated[
        list[str] | None, typer.Option("--a", help="Runs of one method, a glob; repeatable.")
    ] = None,
    b: Annotated[list[str] | None, typer.Option("--b", help="Runs of the other; each run is a seed.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> int:
    """Compare runs of one panel, task by task against the first, or two groups of seeds (--a, --b)."""
    from ..errors import UsageError
    from ..runs.compare import compare_groups, compare_runs

    if a or b:
        if runs or not (a and b):
            raise UsageError("groups need both --a and --b, and no single runs beside them")
        return _show_groups(compare_groups(_folders(a), _folders(b)), json)
    if not runs or len(runs) < 2:
        raise UsageError("name two runs or more, or two groups: --a 'opd-*' --b 'atod-*'")
    first, *others = runs
    found = {str(other): compare_runs(first, other) for other in others}
    if json:
        print_json(found if len(found) > 1 else next(iter(found.values())))
        return 0
    for other, item in found.items():
        print(f"A  {printable(str(first))}\nB  {printable(str(other))}")
        print(f"{item.pairs} pairs of {item.panel} ({item.excluded} left out: an error on either side)")
        figures = (("success", item.success), ("score", item.score))
        rows = [
            _row(name, row) for name, row in figures if row and (name == "success" or row != item.success)
        ]
        print_table(("%", "A", "B", "B - A", "95 % interval", "only A / only B", "p", "test"), rows)
        _show_words(item.settings, item.verdict)
    return 0


def _folders(patterns: list[str]) -> list[Path]:
    from glob import glob

    from ..errors import MissingData

    found = []
    for pattern in patterns:
        matches = sorted(Path(name) for name in glob(pattern) if Path(name).is_dir())
        if not matches:
            raise MissingData(f"no run folder matches {pattern!r}")
        found += matches
    return found


def _show_groups(found: GroupComparison, json: bool) -> int:
    if json:
        print_json(found)
        return 0
    print(f"runs of {found.panel}, each one seed; Student's t test over runs")
    for name, means in (("A", found.means_a), ("B", found.means_b)):
        each = ", ".join(f"{100 * mean:.1f}" for mean in means)
        print(f"{name}  mean {100 * sum(means) / len(means):.1f} %   n = {len(means)}   each: {each}")
    low, high = 100 * found.difference.low, 100 * found.difference.high
    print(
        f"B - A  {100 * found.difference.value:+.1f} points   95 % {low:+.1f} – {high:+.1f}   p = {found.p:.3g}"
    )
    _show_words(found.settings, found.verdict)
    return 0


def _show_words(settings: Sequence[str], verdict: str) -> None:
    for line in settings:
        print(f"differs  {line}")
    print(f"{verdict}\n")


def _row(name: str, row: Difference) -> tuple[str, ...]:
    low, high = 100 * row.difference.low, 100 * row.difference.high
    return (
        name,
        f"{100 * row.mean_a:.1f}",
        f"{100 * row.mean_b:.1f}",
        f"{100 * row.difference.value:+.1f}",
        f"{low:+.1f} – {high:+.1f}",
        f"{row.only_a} / {row.only_b}",
        f"{row.p:.4f}",
        row.test,
    )
