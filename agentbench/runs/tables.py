"""Comparisons as pages: Markdown, and a picture of the differences. Leaves out what is compared and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError, missing_dependency
from ..foreign import cell, printable
from .compare import Comparison, Difference
from .groups import Contrast, GroupComparison
from .significance import holm
from .stats import Estimate

PICTURES = (".png", ".svg", ".pdf")

_COLUMNS = ("%", "A", "B", "B - A", "95 % interval", "only A / only B", "p", "p (Holm)", "test")


def compared(found: Sequence[Comparison]) -> str:
    """Write comparisons of players as Markdown; where there are several, with what stays of them after Holm."""
    return "\n".join([*map(_page, found), *_together(found, [item.head.p for item in found])])


def compared_groups(found: GroupComparison) -> str:
    """Write a comparison of two groups of seeds as Markdown."""
    head = found.head
    lines = [f"# {cell(found.panel)}: two groups of seeds", "", f"**{printable(found.verdict)}**", ""]
    lines += _shortfalls(found.shortfalls)
    for side, name, means in (("A", found.a, head.means_a), ("B", found.b, head.means_b)):
        each = ", ".join(f"{100 * mean:.1f}" for mean in means)
        lines.append(
            f"- {side}: {cell(name)}: mean {_points(sum(means) / len(means))} %, n = {len(means)}, each: {each}"
        )
    lines += [
        f"- seeds of one method differ by {_points(found.spread)} points (sd); the luck of so many episodes alone "
        f"would make at most {_points(found.luck)}",
        "",
    ]
    rows = {"all": head, **found.task_types}
    columns = ("%", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "shown in 4 of 5")
    lines += markdown_table(columns, [_contrast(name, row) for name, row in rows.items()])
    lines += [
        "",
        "Student's t test over runs; the last column is the difference that so many seeds would show.",
        "",
    ]
    return "\n".join([*lines, *_settings(found.settings)])


def draw(rows: Sequence[tuple[str, Estimate]], path: Path, title: str) -> None:
    """Draw differences with their 95 % intervals, one below the other, 0 as a line.

    Args:
        rows: name and difference, as a share.
        path: ends in .png, .svg or .pdf.
        title: above the picture.
    Raises: MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing_dependency("matplotlib", "stats", "a picture") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    for place, (_, item) in enumerate(reversed(rows)):
        axes.plot([100 * item.low, 100 * item.high], [place, place], color="C0")
        axes.plot(100 * item.value, place, "o", color="C0")
    axes.axvline(0, color="#888", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [printable(name, 80) for name, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set(xlabel="B - A, points, with 95 % interval", title=printable(title, 120))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def rows_of(found: Sequence[Comparison | GroupComparison]) -> list[tuple[str, Estimate]]:
    """What `draw` draws of comparisons: every headline, and the task types where there is one comparison."""
    rows = [(f"{item.panel}: {item.b}" if len(found) > 1 else "all", item.head.difference) for item in found]
    types = found[0].task_types if len(found) == 1 else {}
    return [*rows, *((name or "(none)", item.difference) for name, item in types.items())]


def check_suffix(path: Path, allowed: Sequence[str]) -> None:
    """Refuse a file name whose ending says no format. Raises: UsageError."""
    if path.suffix not in allowed:
        raise UsageError(
            f"{path.name!r}: the name's ending chooses what is written; allowed: {', '.join(allowed)}"
        )


def _page(found: Comparison) -> str:
    lines = [f"# {cell(found.panel)}: A or B?", "", f"**{printable(found.verdict)}**", ""]
    lines += _shortfalls(found.shortfalls)
    lines += [f"- A: {cell(found.a)}", f"- B: {cell(found.b)}"]
    broke, absent = found.excluded - found.absent, found.absent
    why = f"{broke} for an error on either side, {absent} on record on one side only"
    why = why if absent else "an error on either side"
    lines += [f"- {found.pairs} pairs of {cell(found.panel)} ({found.excluded} left out: {why})", ""]
    rows = {"success": found.success} if found.success else {}
    if found.score != found.success:
        rows["score"] = found.score
    cells = [_row(name, row) for name, row in rows.items() if row]
    cells += [_row(f"– {name or '(none)'}", row) for name, row in found.task_types.items()]
    return "\n".join([*lines, *markdown_table(_COLUMNS, cells), "", *_settings(found.settings)])


def _together(found: Sequence[Comparison], values: Sequence[float]) -> list[str]:
    if len(found) < 2:
        return []
    rows = [
        (cell(item.panel), cell(item.b), f"{100 * item.head.difference.value:+.1f}", _p(p), _p(adjusted))
        for item, p, adjusted in zip(found, values, holm(values), strict=True)
    ]
    said = f"{len(found)} comparisons were made; Holm's p asks for more of each, because the others were tried too."
    return ["# Together", "", said, "", *markdown_table(("panel", "B", "B - A", "p", "p (Holm)"), rows), ""]


def _shortfalls(found: Sequence[str]) -> list[str]:
    return [line for said in found for line in (f"> **{printable(said)}**", "")]


def _settings(settings: Sequence[str]) -> list[str]:
    if not settings:
        return ["No setting differs besides model and seed.", ""]
    return [
        "Settings that differ besides model and seed:",
        "",
        *(f"- {printable(line)}" for line in settings),
        "",
    ]


def _row(name: str, row: Difference) -> tuple[str, ...]:
    return (
        cell(name),
        _points(row.mean_a),
        _points(row.mean_b),
        f"{100 * row.difference.value:+.1f}",
        _interval(row.difference),
        f"{row.only_a} / {row.only_b}",
        _p(row.p),
        _p(row.holm),
        row.test,
    )


def _contrast(name: str, row: Contrast) -> tuple[str, ...]:
    return (
        cell(name) or "(none)",
        _points(sum(row.means_a) / len(row.means_a)),
        _points(sum(row.means_b) / len(row.means_b)),
        f"{100 * row.difference.value:+.1f}",
        _interval(row.difference),
        _p(row.p),
        _p(row.holm),
        "–" if row.detectable is None else _points(row.detectable) if row.detectable <= 1 else "> 100",
    )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; cells come escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(found: Estimate) -> str:
    """The interval, or "–" where all values were equal: there is nothing to draw an interval from."""
    return "–" if found.low == found.high else f"{100 * found.low:+.1f} – {100 * found.high:+.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"
