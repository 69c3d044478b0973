"""The table of a sweep: every method's last and best evaluation over seeds, beside the baseline and the paper.

Everything in it comes from the run folders, so that it can be made again and compared with what is written. The run is
the unit: intervals and tests are over seeds, tests over games are shown for each seed. Leaves out making the runs
(`sweep`) and the statistics (`agentbench.runs`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.compare import compare_runs
from ..runs.files import as_written, encode_json, read_json, read_lines
from ..runs.folder import METRICS, TIMINGS, VERSIONS, measured
from ..runs.groups import compare_groups
from ..runs.significance import mean_interval
from .check import check_resume
from .log import direction
from .sweep import PublishedColumn, SweepPlan, SweepRun

RECORD, PAGE = "table.json", "table.md"
_PACKAGES = ("agentbench-opd", "torch", "transformers")


def record_of(plan: SweepPlan) -> dict[str, Any]:
    """Everything the table shows, as plain values."""
    table, chosen = plan.table, plan.table.scales[plan.scale]
    for run in plan.runs:
        if run.finished:
            check_resume(run.config, resume=True)  # made by another version of the file: refused
    settings = {}
    for setting, section in chosen.settings.items():
        runs = [run for run in plan.runs if run.setting == setting]
        column = None if section.published is None else table.published[section.published]
        by_method = {method: [run for run in runs if run.method == method] for method in table.methods}
        base = [run for run in by_method[table.baseline] if run.finished]
        # one a seed: every method's runs begin with the same student and the same games
        before = {run.seed: _evaluations(run)[0] for run in reversed(runs) if run.finished}
        settings[setting] = {
            "before": _summed(list(before.values())),
            "methods": {
                method: _method(mine, base if method != table.baseline else [])
                for method, mine in by_method.items()
            },
            "published": None
            if column is None
            else _published(section.published or "", column, by_method[table.baseline]),
        }
    return {
        "id": table.id,
        "title": table.title,
        "source": table.source,
        "scale": plan.scale,
        "baseline": table.baseline,
        "seeds": list(chosen.seeds),
        "versions": _versions(plan.runs),
        "settings": settings,
    }


def _method(runs: Sequence[SweepRun], base: Sequence[SweepRun]) -> dict[str, Any]:
    done = [run for run in runs if run.finished]
    points = {run.seed: _evaluations(run) for run in done}
    last = {seed: found[-1] for seed, found in points.items()}
    sign = direction(done[0].config.metric_for_best_model) if done else 1
    best = {seed: max(found[1:], key=lambda point: sign * point["value"]) for seed, found in points.items()}
    return {
        "runs": len(done),
        "planned": len(runs),
        "steps": sorted({run.config.max_steps for run in runs}),
        "last": _summed(list(last.values())),
        "best": _summed(list(best.values())),
        "by_seed": {str(seed): {"last": last[seed], "best": best[seed]} for seed in points},
        "trained_tokens": {str(run.seed): _total(run.folder / METRICS, "trained_tokens") for run in done},
        "seconds": {str(run.seed): _total(run.folder / TIMINGS, "seconds/") for run in done},
        "against_baseline": _against(done, base),
    }


def _evaluations(run: SweepRun) -> list[dict[str, float]]:
    """Step and figures of every evaluation, the one before the first step first."""
    name = f"eval/{run.config.metric_for_best_model}"
    points = []
    for _, line in read_lines(run.folder / METRICS):
        if name in line:
            figures = {key: line[f"eval/{key}"] for key in ("turns", "errors") if f"eval/{key}" in line}
            points.append({"step": line["step"], "value": line[name], **figures})
    return points


def _summed(points: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    """Mean, standard deviation and Student's 95 % interval over runs."""
    if not points:
        return None
    values = [float(point["value"]) for point in points]
    mean = math.fsum(values) / len(values)
    found: dict[str, Any] = {
        "mean": mean,
        "n": len(values),
        "turns": math.fsum(point.get("turns", math.nan) for point in points) / len(points),
        "errors": sum(int(point.get("errors", 0)) for point in points),
    }
    if len(values) > 1:
        over = mean_interval(values)
        found |= {"sd": statistics.stdev(values), "low": over.low, "high": over.high}
    return found


def _against(done: Sequence[SweepRun], base: Sequence[SweepRun]) -> dict[str, Any] | None:
    """Last evaluations beside the baseline's: over runs, and game by game where both have the seed."""
    if not done or not base:
        return None
    by_seed = {run.seed: run for run in base}
    pairs = {}
    for run in done:
        if run.seed in by_seed:
            found = compare_runs(_last(by_seed[run.seed]), _last(run))
            head = found.success or found.score
            pairs[str(run.seed)] = {"difference": head.difference.value, "p": head.p, "test": head.test}
    result: dict[str, Any] = {"by_seed": pairs, "difference": None}
    if len(done) > 1 and len(base) > 1:
        group = compare_groups([_last(run) for run in base], [_last(run) for run in done]).head
        # no spread within either group has no interval
        low, high = (None, None) if group.p is None else (group.difference.low, group.difference.high)
        result |= {"difference": group.difference.value, "low": low, "high": high, "p": group.p}
    return result


def _last(run: SweepRun) -> Path:
    return run.folder / "eval" / f"step-{run.config.max_steps}"


def _published(name: str, column: PublishedColumn, runs: Sequence[SweepRun]) -> dict[str, Any]:
    """The paper's numbers, and every reason why they do not compare with the runs'."""
    reasons = []
    config = runs[0].config.model_dump(mode="json")
    for key, theirs in column.protocol.items():
        ours = _lookup(config, key)
        if ours != theirs:
            reasons.append(f"{key}: published {theirs}, here {ours}")
    return {"column": name, "values": column.values, "differs": reasons, "notes": list(column.notes)}


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(values, list | tuple):
            values = values[int(part)] if int(part) < len(values) else None
        else:
            values = None if values is None else values.get(part)
    return values


def _total(path: Path, prefix: str) -> float:
    with as_written(path):
        return math.fsum(
            measured(value, 1e18)
            for _, line in read_lines(path)
            for key, value in line.items()
            if key.startswith(prefix)
        )


def _versions(runs: Sequence[SweepRun]) -> dict[str, list[str]]:
    seen: dict[str, set[str]] = {name: set() for name in _PACKAGES}
    for run in runs:
        if run.finished:
            found = read_json(run.folder / VERSIONS)
            packages = {**found, **found.get("packages", {})}
            for name in _PACKAGES:
                if isinstance(packages.get(name), str):
                    seen[name].add(packages[name])
    return {name: sorted(values) for name, values in seen.items() if values}


# --- the page ---------------------------------------------------------------------------------------------------------


def page_of(record: Mapping[str, Any]) -> str:
    """The record as markdown."""
    lines = [
        f"# {record['title']}",
        "",
        f"Source: {record['source']}. Scale `{record['scale']}`, seeds {', '.join(map(str, record['seeds']))}. "
        + "; ".join(f"{name} {', '.join(found)}" for name, found in record["versions"].items()),
        "",
        "Per cent. Mean over runs, one run a seed, ± their sd, with Student's 95 % interval. *Last* is the last "
        "checkpoint. *Best* is the best of a run's own evaluations, chosen on the games it is measured on: too high. "
        f"Differences are of last checkpoints against `{record['baseline']}`; p over runs (pooled t test), and game by "
        "game for each seed.",
    ]
    for name, setting in record["settings"].items():
        lines += ["", f"## {name}", "", *_setting(setting, record["baseline"])]
    return "\n".join(lines) + "\n"


def _setting(setting: Mapping[str, Any], baseline: str) -> list[str]:
    published = setting["published"]
    lines = [
        "| method | runs | last | each seed | best | turns | errors | difference | p over runs | p by seed | paper |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    if setting["before"] is not None:
        before = setting["before"]
        lines.append(
            f"| before training | {before['n']} | {_shown(before)} | – | – | {before['turns']:.1f} | "
            f"{before['errors']} | – | – | – | {_theirs(published, 'before')} |"
        )
    for method, found in setting["methods"].items():
        cells = _method_cells(found, baseline=method == baseline)
        lines.append(f"| {method} | {' | '.join(cells)} | {_theirs(published, method)} |")
    if published is not None:
        apart = [*published["differs"], *published["notes"]]
        lines += ["", f"Published: column `{published['column']}`. "]
        lines[-1] += (
            "Not comparable with ours:"
            if published["differs"]
            else "The protocol that it states is ours. Beside it:"
        )
        lines += [f"- {reason}" for reason in apart]
    return lines


def _method_cells(found: Mapping[str, Any], *, baseline: bool) -> list[str]:
    runs = f"{found['runs']} of {found['planned']}"
    if not found["runs"]:
        return [runs, *["–"] * 8]
    last = found["last"]
    each = ", ".join(f"{100 * point['last']['value']:.1f}" for point in found["by_seed"].values())
    cells = [runs, _shown(last), each, _shown(found["best"]), f"{last['turns']:.1f}", str(last["errors"])]
    against = found["against_baseline"]
    if against is None:
        return [*cells, *(["baseline", "–", "–"] if baseline else ["–"] * 3)]
    by_seed = ", ".join(_chance(pair["p"]) for pair in against["by_seed"].values()) or "–"
    if against["difference"] is None:
        return [*cells, "–", "–", by_seed]
    ends = "" if against["low"] is None else f" [{100 * against['low']:+.1f}, {100 * against['high']:+.1f}]"
    return [*cells, f"{100 * against['difference']:+.1f}{ends}", _chance(against["p"]), by_seed]


def _chance(p: float | None) -> str:
    """A p value, or a dash where nothing varies and there is none."""
    return "–" if p is None else f"{p:.2g}"


def _shown(found: Mapping[str, Any]) -> str:
    mean = f"{100 * found['mean']:.1f}"
    if "sd" not in found:
        return f"{mean} (one run)"
    return f"{mean} ± {100 * found['sd']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _theirs(published: Mapping[str, Any] | None, method: str) -> str:
    value = None if published is None else published["values"].get(method)
    return "–" if value is None else f"{100 * value:.2f}"


def stale(plan: SweepPlan) -> list[str]:
    """Which written files are not what the run folders give now; each with the first line that differs."""
    record = record_of(plan)
    wanted = {RECORD: encode_json(record).decode(), PAGE: page_of(record)}
    found = []
    for name, text in wanted.items():
        path = plan.folder / name
        if not path.is_file():
            found.append(f"{path} is not there")
            continue
        written = path.read_text(encoding="utf-8")
        if written != text:
            pairs = zip(written.splitlines(), text.splitlines(), strict=False)
            line = next((n for n, (a, b) in enumerate(pairs, start=1) if a != b), None)
            found.append(f"{path} is stale{'' if line is None else f' from line {line}'}")
    return found
