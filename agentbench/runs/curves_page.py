"""Training runs as a page and as a picture. Leaves out what the figures mean (`curves`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import missing_dependency
from ..foreign import cell, printable
from .curves import Curve, Point, band, methods
from .significance import mean_interval
from .stats import Estimate
from .tables import markdown_table

_METHOD = ("method", "seeds", "panel", "step", "last, every seed", "mean", "sd", "95 % interval")
_RUN = ("run", "seed", "last", "95 % interval", "n", "mean of last 3", "best saved", "its checkpoint")
_COST = ("run", "steps", "episodes", "sampled tokens", "read tokens", "trained tokens", "hours")

_AXES = {
    "steps": "training step",
    "episodes": "episodes collected for training",
    "tokens": "tokens sampled by the student in training",
    "hours": "hours of training, evaluations left out",
}


def page(curves: Sequence[Curve]) -> str:
    """The runs as Markdown: a row for each method over its seeds, one for each run, and what each cost.

    Raises: MissingDependency: scipy is not installed, and a method has several seeds.
    """
    lines = ["# Training runs", ""]
    lines += markdown_table(_METHOD, [_method(name, group) for name, group in methods(curves).items()])
    lines += ["", *markdown_table(_RUN, [_run(curve) for curve in curves])]
    lines += ["", *markdown_table(_COST, [_cost(curve) for curve in curves])]
    lines += [
        "",
        "Per cent. The last evaluation is the headline. A method's interval is Student's over its seeds, a run's "
        "over its episodes. The best is chosen by the panel it is shown on, so it is a little lucky.",
    ]
    return "\n".join(lines) + "\n"


def record(curves: Sequence[Curve]) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "methods": {name: [str(curve.run) for curve in group] for name, group in methods(curves).items()},
        "runs": {
            str(curve.run): {
                "seed": curve.config.get("seed", 0),
                "panel": curve.panel,
                "max_steps": curve.steps,
                "evaluations": {point.step: point.value for point in curve.points},
                "last": curve.last.value.value,
                "mean_of_last_3": curve.last_three,
                "best": None
                if curve.best is None
                else {
                    "step": curve.best.step,
                    "value": curve.best.value.value,
                    "checkpoint": str(curve.best.checkpoint),
                },
                "cost": curve.cost,
            }
            for curve in curves
        },
    }


def draw_curves(curves: Sequence[Curve], path: Path, over: str = "steps") -> None:
    """Draw the evaluations: a line for each method, a band from its lowest to its highest seed.

    Args:
        curves: the runs.
        path: of the picture.
        over: one of `curves.OVER`; its value is the mean over the seeds.
    Raises: MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing_dependency("matplotlib", "stats", "a picture") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    for number, (name, group) in enumerate(methods(curves).items()):
        found = band(group, over)
        mean, low, high = ([100 * value for value in row] for row in (found.mean, found.low, found.high))
        seeds = f"{len(group)} seed{'s' if len(group) > 1 else ''}"
        colour = pyplot.cm.tab20(number % 20)
        axes.fill_between(found.at, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(found.at, mean, marker="o", color=colour, label=f"{printable(name, 60)} ({seeds})")
    title = f"{printable(curves[0].panel, 80)}: mean of the seeds, band from lowest to highest"
    axes.set(xlabel=_AXES[over], ylabel="%", title=title)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize="small")  # beside the curves, which it would hide
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _method(name: str, group: Sequence[Curve]) -> list[str]:
    values = [curve.last.value.value for curve in group]
    mean, sd, interval = sum(values) / len(values), "–", "–"
    if len(values) > 1:
        sd = f"{100 * math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)):.1f}"
        interval = _interval(mean_interval(values))
    return [
        cell(name),
        str(len(group)),
        ", ".join(cell(panel) for panel in sorted({curve.panel for curve in group})),
        ", ".join(str(step) for step in sorted({curve.last.step for curve in group})),
        ", ".join(f"{100 * value:.1f}" for value in values),
        f"{100 * mean:.1f}",
        sd,
        interval,
    ]


def _run(curve: Curve) -> list[str]:
    last, best = curve.last, curve.best
    unfinished = "" if last.step >= curve.steps else f" of {curve.steps}, unfinished"
    return [
        cell(str(curve.run)),
        str(curve.config.get("seed", 0)),
        _at(last) + unfinished,
        _interval(last.value),
        str(last.value.n),
        "–" if curve.last_three is None else f"{100 * curve.last_three:.1f}",
        "–" if best is None else _at(best),
        "no evaluated step has one" if best is None else cell(str(best.checkpoint)),
    ]


def _cost(curve: Curve) -> list[str]:
    cost = curve.cost
    counts = (curve.last.step, cost.episodes, cost.sampled, cost.read, cost.trained)
    hours = f"{cost.seconds / 3600:.2f}" if cost.seconds else "–"
    return [cell(str(curve.run)), *(f"{count:,}" if count else "–" for count in counts), hours]


def _at(point: Point) -> str:
    return f"{100 * point.value.value:.1f} at step {point.step}"


def _interval(found: Estimate) -> str:
    return "–" if found.low == found.high else f"{100 * found.low:.1f} – {100 * found.high:.1f}"
