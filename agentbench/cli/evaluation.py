"""`eval`, `report` and `compare`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from .output import episode_progress, key_values, note, print_json

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
    _Option("prompt", str, ("--prompt",), _WHO, "Prompt name (agentbench list prompts) or file."),
    _Option("parser", str, ("--parser",), _WHO, "tags:N, lenient or plain; the prompt's own when left out."),
    _Option("template_options", list[str], ("--template-option",), _WHO, "key=value for the chat template."),
    _Option("history", int, ("--history",), _WHO, "Observation-action pairs in a prompt."),
    _Option("guided", bool, ("--guided",), _WHO, "Sample among admissible commands only."),
    _Option("whole", bool, ("--whole",), _WHO, "... by whole commands, not token by token."),
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
    _Option(
        "step_seconds", float, ("--step-seconds",), _LIMITS, "Wall time of one env step, of nothing else."
    ),
    _Option(
        "episode_seconds",
        float,
        ("--episode-seconds",),
        _LIMITS,
        "Wall time of one episode: making and resetting its env, its model, all tries.",
    ),
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
        elif item.key == "whole":  # of --guided, and no key of its own
            values |= {"guided": "whole"} if given else {}
            continue
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
    runs: Annotated[
        list[Path], typer.Argument(help="A run folder; a suite's folder; or training runs, side by side.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether the written pages are up to date.")
    ] = False,
    max_error_rate: Annotated[
        float | None, typer.Option(help="Give a headline up to this share of errors.", show_default=False)
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="Training runs: write the page (.md) or the curves (.png, .svg, .pdf); repeatable.",
            show_default=False,
        ),
    ] = None,
    over: Annotated[str, typer.Option(help="Curves over steps, episodes, tokens or hours.")] = "steps",
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> int:
    """Compute the numbers of runs again from what is on record, and write their pages."""
    from ..errors import MissingData, UsageError
    from ..evaluation.suite import RECORD
    from ..runs.folder import is_training

    for run in runs:
        if not run.is_dir():
            raise MissingData(f"no run folder {run}")
    other = [run for run in runs if not is_training(run)]
    if len(other) < len(runs):
        if other:
            raise UsageError(
                f"{other[0]} is no training run; report on training runs together, on others alone"
            )
        return _report_training(runs, output or [], over, check=check, json=json)
    if len(runs) > 1:
        raise UsageError(
            "several folders are reported on together where all are training runs; else name one"
        )
    if output:
        raise UsageError("--output is for training runs; the pages of an evaluation lie in its folder")
    if (runs[0] / RECORD).is_file():
        return _report_suite(runs[0], check=check, json=json)
    return _report_evaluation(runs[0], max_error_rate, check=check, json=json)


def _report_evaluation(run: Path, max_error_rate: float | None, *, check: bool, json: bool) -> int:
    from ..runs.files import write_whole
    from ..runs.report import REPORT, pages, stale_pages
    from ..runs.summary import SUMMARY, Summary

    if check:
        return _tell_stale(run, stale_pages(run), f"agentbench report {run}")
    written = pages(run, max_error_rate)
    for name, data in written.items():
        write_whole(run / name, data)
    print(written[SUMMARY if json else REPORT].decode(), end="")
    return 1 if Summary.model_validate_json(written[SUMMARY]).fell_short else 0


def _report_suite(folder: Path, *, check: bool, json: bool) -> int:
    from ..evaluation.suite import RECORD, TABLE, suite_pages
    from ..runs.files import write_whole

    written = suite_pages(folder)
    if check:
        stale = [name for name, data in written.items() if (folder / name).read_bytes() != data]
        return _tell_stale(folder, stale, f"agentbench report {folder}")
    for name, data in written.items():
        write_whole(folder / name, data)
    print(written[RECORD if json else TABLE].decode(), end="")
    return 0


def _report_training(runs: list[Path], output: list[Path], over: str, *, check: bool, json: bool) -> int:
    from ..errors import UsageError, unknown_name
    from ..runs.curves import OVER, read_curve
    from ..runs.curves_page import draw_curves, page, record
    from ..runs.files import write_whole
    from ..runs.tables import PICTURES, check_suffix

    if over not in OVER:
        raise unknown_name("axis", over, OVER, "--over chooses it.")
    for path in output:
        check_suffix(path, (".md", *PICTURES))
    if check and not any(path.suffix == ".md" for path in output):
        raise UsageError("--check of training runs needs the page that was written of them: -o table.md")
    curves = [read_curve(run, note) for run in runs]
    text = page(curves)
    if check:
        pages = [path for path in output if path.suffix == ".md"]
        stale = [str(path) for path in pages if not path.exists() or path.read_text(encoding="utf-8") != text]
        again = " ".join(["agentbench report", *map(str, runs), "-o", str(pages[0])])
        return _tell_stale(pages[0], stale, again)
    for path in output:
        if path.suffix == ".md":
            write_whole(path, text.encode())
        else:
            draw_curves(curves, path, over)
    if json:
        print_json(record(curves))
    else:
        print(text, end="")
    return 0


def _tell_stale(what: Path, stale: list[str], again: str) -> int:
    print(f"{what}: " + (f"stale: {', '.join(stale)}; run {again}" if stale else "up to date"))
    return 1 if stale else 0


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN_A RUN_B ...",
            help="Evaluations, training runs (their last evaluation) or players of a suite.",
            show_default=False,
        ),
    ] = None,
    a: Annotated[
        list[str] | None, typer.Option("--a", help="Runs of one method, a glob; repeatable.")
    ] = None,
    b: Annotated[list[str] | None, typer.Option("--b", help="Runs of the other; each run is a seed.")] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help="Write a .md, .json, .png, .svg or .pdf; repeatable.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> int:
    """Compare runs of one panel, task by task against the first, or two groups of seeds (--a, --b)."""
    from ..errors import UsageError
    from ..runs.compare import Comparison
    from ..runs.files import encode_json, write_whole
    from ..runs.groups import GroupComparison, compare_groups
    from ..runs.sides import compare_folders, matching
    from ..runs.tables import PICTURES, check_suffix, compared, compared_groups, draw, rows_of

    for path in output or []:
        check_suffix(path, (".md", ".json", *PICTURES))
    found: list[Comparison] | list[GroupComparison]
    if a or b:
        if runs or not (a and b):
            raise UsageError("groups need both --a and --b, and no single runs beside them")
        groups = compare_groups(matching(a, note), matching(b, note), (" ".join(a), " ".join(b)))
        found, page = [groups], compared_groups(groups)
    else:
        if not runs or len(runs) < 2:
            raise UsageError("name two runs or more, or two groups: --a 'opd-*' --b 'atod-*'")
        first, *others = runs
        found = [item for other in others for item in compare_folders(first, other, note)]
        page = compared(found)
    values = encode_json(found if len(found) > 1 else found[0])
    for path in output or []:
        if path.suffix in PICTURES:
            draw(
                rows_of(found),
                path,
                f"{found[0].a} (A) and {found[0].b if len(found) == 1 else 'others'} (B)",
            )
        else:
            write_whole(path, values if path.suffix == ".json" else page.encode())
    print(values.decode() if json else page, end="")
    return 1 if any(item.shortfalls for item in found) else 0
