"""The pages of a run, summary.json and report.md: rendered from its numbers, and checked for staleness.

Leaves out how the numbers come about (`summary`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingData
from ..foreign import cell, printable
from .episodes import EPISODES
from .files import encode_json, write_whole
from .shortfalls import remarks
from .stats import Estimate
from .summary import SUMMARY, Rates, Summary, load_summary, summarise_run

REPORT = "report.md"
_WORTH_A_WORD = 0.05


def render(summary: Summary) -> str:
    """Write the page of a run as Markdown."""
    plan = summary.plan
    lines = [f"# {cell(plan.id)}", "", *_banners(summary)]
    played = f"Env: {cell(plan.env)}, rules {cell(plan.rules)}, split {cell(plan.split)}."
    lines += [f"Policy: {_policy_name(summary.policy)}. {played}"]
    lines += [f"Episodes: {summary.recorded} of {summary.planned} ({plan.tasks} tasks × {plan.repeats}).", ""]
    if plan.repeats > 1:
        lines += [
            "n counts episodes; the intervals are over tasks, since repeats of one task are much alike.",
            "",
        ]
    if summary.overall is not None:
        lines += _rates_table({"all": summary.overall, **summary.task_types})
        lines += _own_table(summary)
    if summary.pass_at_k:
        lines += ["", "| k | pass@k |", "|---|---|"]
        lines += [f"| {k} | {_percent(value)} |" for k, value in summary.pass_at_k.items()]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _facts(summary)]
    return "\n".join(lines) + "\n"


def _banners(summary: Summary) -> list[str]:
    found = list(remarks(summary))
    full = summary.ends.get("context_full", 0)
    if full > _WORTH_A_WORD * summary.recorded:
        found.append(
            f"{full} of {summary.recorded} episodes ended because the conversation no longer fitted the context; they "
            "count as failures. Lower max_new_tokens or history, or serve a longer context"
        )
    turns, refused = summary.turns_total, summary.refused or 0
    if 2 * summary.unread > turns:
        found.append(
            f"{summary.unread} of {turns} replies held no command ({_listed(summary.invalid)}), the first of them: "
            f"{cell(summary.unread_reply)!r}. Is this the prompt that the model knows? Another one: --prompt "
            "(agentbench list prompts), another reading: --parser"
        )
    if summary.cut > _WORTH_A_WORD * turns:
        found.append(
            f"{summary.cut} of {turns} replies were cut at max_new_tokens: what they would have said is not known; "
            "raise --max-new-tokens, or turn thinking off"
            + (f". The first of them ends: {cell(summary.cut_reply)!r}" if summary.cut_reply else "")
        )
    if 2 * refused > summary.commands:
        found.append(
            f"{refused} of {summary.commands} commands did nothing, the env does not know them here: look at what the "
            "prompt says of their form, or sample among those on offer (--guided)"
        )
    return [line for text in found for line in (f"> **{printable(text)}**", "")]


def _rates_table(rows: Mapping[str, Rates]) -> list[str]:
    lines = [
        "| tasks | n | success | 95 % interval | score | 95 % interval | turns | turns when won |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        success, interval = ("–", "–") if row.success is None else _value_and_interval(row.success)
        won = "–" if row.turns_won is None else f"{row.turns_won:.1f}"
        cells = [
            cell(name) or "(none)",
            str(row.n),
            success,
            interval,
            *_value_and_interval(row.score),
            f"{row.turns:.1f}",
        ]
        lines.append("| " + " | ".join([*cells, won]) + " |")
    return lines


def _own_table(summary: Summary) -> list[str]:
    """The env's own numbers by task type, and the means over the types; [] where it has none."""
    names = summary.plan.figures
    if not names or summary.overall is None:
        return []
    lines = ["", f"| tasks | n | success | 95 % interval | {' | '.join(names)} | sampled tokens |"]
    lines.append("|---" * (len(names) + 5) + "|")
    for name, row in {"all": summary.overall, **summary.task_types}.items():
        tokens = "–" if row.sampled_tokens is None else f"{row.sampled_tokens:.1f}"
        lines.append(_own_row(name, str(row.n), row.success, row.figures, tokens))
    for name, mean in summary.means.items():
        count = str(sum(row.n for row in summary.task_types.values()))
        lines.append(_own_row(f"mean, {name}", count, mean.success, mean.figures, "–"))
    return lines


def _own_row(name: str, n: str, success: Estimate | None, figures: Mapping[str, float], tokens: str) -> str:
    rate, interval = ("–", "–") if success is None else _value_and_interval(success)
    cells = [
        cell(name) or "(none)",
        n,
        rate,
        interval,
        *(f"{value:.3f}" for value in figures.values()),
        tokens,
    ]
    return "| " + " | ".join(cells) + " |"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    facts = [("errors (not scored)", _listed(summary.errors)), ("ends", _listed(summary.ends))]
    facts.append((f"parse failures in {summary.turns_total} turns", _listed(summary.invalid)))
    facts.append(("replies cut at max_new_tokens", f"{summary.cut} of {summary.turns_total}"))
    if summary.refused is not None:
        facts.append(("commands not admissible", f"{summary.refused} of {summary.commands}"))
    facts.extend((cell(text), str(count)) for text, count in summary.counted.items())
    broken, overall = sum(summary.errors.values()), summary.overall
    if broken and overall is not None and overall.success is not None:
        won, n = overall.success.value * overall.n, overall.n + broken
        bounds = f"{_percent(won / n)} to {_percent((won + broken) / n)}"
        facts.append((f"success if the {broken} errors were failures, or successes", bounds))
    if summary.sampled_tokens is not None:
        facts.append(("sampled tokens per episode", f"{summary.sampled_tokens:.1f}"))
    if summary.prompt_tokens is not None:
        facts.append(("prompt tokens per episode", f"{summary.prompt_tokens:.1f}"))
    if summary.seconds is not None:
        facts.append(("wall seconds", f"{summary.seconds:.1f}"))
    if summary.episode_seconds is not None:
        facts.append(("wall seconds per episode (they overlap)", f"{summary.episode_seconds:.2f}"))
    facts += [
        (f"engine: {cell(name.replace('_', ' '))}", f"{value:,.10g}") for name, value in summary.usage.items()
    ]
    return facts


def _policy_name(policy: Mapping[str, Any]) -> str:
    engine = policy.get("engine")
    model = f", {engine.get('model', engine.get('name', '?'))}" if isinstance(engine, Mapping) else ""
    return cell(f"{policy.get('policy', '?')}{model}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{cell(name)} {count}" for name, count in counts.items()) or "none"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _value_and_interval(item: Estimate) -> tuple[str, str]:
    return _percent(item.value), f"{100 * item.low:.1f} – {100 * item.high:.1f}"


def pages(run: Path, max_error_rate: float | None = None) -> dict[str, bytes]:
    """Write what summary.json and report.md of a run should hold; without records the summary is taken as it is.

    Raises: MissingData: neither records nor a summary are there.
    """
    if (run / EPISODES).exists():
        summary = summarise_run(run, max_error_rate)
    elif (run / SUMMARY).exists():
        summary = load_summary(run)
    else:
        raise MissingData(f"{run} is no run folder: it has neither {EPISODES} nor {SUMMARY}")
    return {SUMMARY: encode_json(summary.model_dump()), REPORT: render(summary).encode()}


def write_pages(run: Path, summary: Summary) -> None:
    """Write summary.json and report.md into a run folder."""
    write_whole(run / SUMMARY, encode_json(summary.model_dump()))
    write_whole(run / REPORT, render(summary).encode())


def stale_pages(run: Path) -> list[str]:
    """Name the pages of a run that do not follow from its records."""
    return [
        name
        for name, data in pages(run, _written_limit(run)).items()
        if not (run / name).is_file() or (run / name).read_bytes() != data
    ]


def _written_limit(run: Path) -> float | None:
    return load_summary(run).max_error_rate if (run / SUMMARY).exists() else None
