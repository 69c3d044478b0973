"""The reproduction card of a run: one page with everything that a stranger needs to get the number again.

Which tasks (panel and digest), under which rules, with which prompt (hash and the first three as written), parser,
turns, history and decoding, by which weights, engine and versions, with what result, what went wrong on the way and
what it cost. Two cards differ in a list of lines. Leaves out how figures come about (`runs.summary`).
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import differences
from ..dialogue.prompt import load_prompt
from ..registry import env_spec
from ..runs.episodes import read_episodes
from ..runs.files import as_written, read_json, read_lines
from ..runs.folder import CONFIG, METRICS, VERSIONS, run_config, training_home
from ..runs.shortfalls import remarks
from ..runs.sides import TEACHERS
from ..runs.stats import Estimate
from ..runs.summary import SUMMARY, Summary, read_plan, summary_of
from ..types import Trajectory

Card = dict[str, dict[str, Any]]
"""Section -> name -> plain value."""

_BOOKKEEPING = frozenset(
    {
        *("output_dir", "panel", "policy", "model_name_or_path", "engine", "engine_options", "prompt"),
        "env_options",
        *("concurrency", "retries", "step_seconds", "episode_seconds", "max_error_rate", "give_up_after"),
    }
)
"""Keys of a configuration that stand elsewhere on the card, or that move no number."""
_PROMPTS = 3
_NO_CHECK = (
    "none: an evaluation has one engine; training scores the same tokens twice (engine_gap, publish_gap)"
)


def card_of(run: Path, teacher: Path | None = None) -> Card:
    """Gather the card of a run folder.

    Args:
        run: an evaluation; one that a training run made tells of the training too.
        teacher: an evaluation of the teacher, whose own score and weights stand on the card.
    Raises: MissingData, CorruptData: it is no run folder, or parts of it are gone.
    """
    with as_written(run):
        return _card(run, teacher)


def _card(run: Path, teacher: Path | None) -> Card:
    plan, policy = read_plan(run)
    summary, config = summary_of(run), run_config(run)
    facts = read_json(run / VERSIONS)
    spec = env_spec(config.get("env") or plan.env)
    engine = policy.get("engine") if isinstance(policy.get("engine"), Mapping) else {}
    assert isinstance(engine, Mapping)
    return {
        "tasks": {
            "panel": plan.id,
            "digest of the ids": plan.digest,
            "env": plan.env,
            "rules": plan.rules,
            "split": plan.split,
            "tasks": plan.tasks,
            "repeats": plan.repeats,
            "remarks": list(remarks(summary)),
        },
        "who plays": {
            "policy": policy.get("policy"),
            **{key: value for key, value in engine.items() if key != "name"},
            "engine": engine.get("name"),
            "engine options": config.get("engine_options") or {},
            "log-prob check": _NO_CHECK if engine and training_home(run) is None else None,
        },
        "how": {
            **{key: value for key, value in config.items() if key not in _BOOKKEEPING},
            "env_options": facts.get("options", config.get("env_options", {})),  # the panel's own among them
            "prompt": (policy.get("prompt") or {}).get("name"),
            "prompt digest": (policy.get("prompt") or {}).get("digest"),
            "parser": policy.get("parser"),
            **dict(policy.get("sampling") or {}),
            "history": _or(config.get("history"), spec.history),
            "max_turns": _or(config.get("max_turns"), spec.max_turns),
        },
        "result": _result(summary),
        "cost": _cost(summary),
        "training": _training(run) or dict(facts.get("trained", {})),
        "teacher": _teachers(run, teacher, plan.digest),
        "again": {"command": f"agentbench eval {run / CONFIG} --output FOLDER"},
        "versions": {
            "python": facts.get("python"),
            "platform": facts.get("platform"),
            "code": facts.get("code"),
            **facts.get("packages", {}),
        },
        "hardware": dict(facts.get("hardware", {})),
        "prompts": _first_prompts(run, config, plan.env),
    }


def _training(run: Path) -> dict[str, Any]:
    """How the weights were made, of TRAINING/eval/step-N; {} of another evaluation."""
    home = training_home(run)
    if home is None:
        return {}
    config, facts = run_config(home), read_json(home / VERSIONS)
    step = int(run.resolve().name.removeprefix("step-"))
    metrics: dict[str, Any] = next(
        (line for _, line in read_lines(home / METRICS) if line.get("step") == step), {}
    )
    teachers = [item.get("model_name_or_path") for item in config.get("teachers") or []]
    rest = {key: value for key, value in config.items() if key not in ("teachers", "eval", "output_dir")}
    return {
        "step": f"{step} of {config.get('max_steps')}",
        "started from weights": facts.get("engine", {}).get("weights"),
        "teachers": teachers,
        "origins": _origins(home, facts, step),
        **{
            f"{name} of the step (nats)": metrics.get(name)
            for name in ("engine_gap", "engine_gap_max", "publish_gap")
        },
        **_flat(rest),
    }


def _origins(home: Path, facts: Mapping[str, Any], step: int) -> dict[str, str]:
    """Fingerprint of every model that a training run started from, by name.

    Runs of earlier releases wrote it into their checkpoints alone.
    """
    state = home / f"checkpoint-{step}" / "trainer_state.json"
    kept = facts.get("origins") or (read_json(state).get("origins") if state.is_file() else None)
    return dict(kept or {})


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections written out one level deep, as `section.key`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            {f"{key}.{name}": inner for name, inner in value.items()}
            if isinstance(value, Mapping)
            else {key: value}
        )
    return found


def _teachers(run: Path, named: Path | None, digest: str) -> dict[str, Any]:
    """The teachers' own scores: as named, as the training run found them, or how to get them."""
    if named is not None:
        return _teacher(named, digest)
    home = training_home(run)
    if home is None:
        return {}
    found: dict[str, Any] = {}
    for number, item in enumerate(run_config(home).get("teachers") or []):
        played = home / TEACHERS / str(number)
        name = item.get("model_name_or_path") or f"the run's own weights ({item.get('backend')})"
        if (played / SUMMARY).is_file():
            told = _teacher(played, digest)
        else:
            told = {
                "own score": f"not measured: agentbench eval {run / CONFIG} --model {name} --output FOLDER, then "
                "agentbench card ... --teacher FOLDER; eval.teachers=true does it while training"
            }
        found |= {f"{key} of {name}": value for key, value in told.items() if key != "model"}
    return found


def _teacher(run: Path, digest: str) -> dict[str, Any]:
    plan, policy = read_plan(run)
    engine = policy.get("engine") or {}
    return {
        "model": engine.get("model", policy.get("policy")),
        "weights": engine.get("weights"),
        "panel": plan.id + ("" if plan.digest == digest else " (other tasks than this run's)"),
        **_result(summary_of(run)),
    }


def _or(chosen: Any, default: Any) -> Any:
    """What was played: the run's own value, else the env's."""
    return default if chosen is None else chosen


def _result(summary: Summary) -> dict[str, Any]:
    rates = summary.overall
    turns = summary.turns_total
    return {
        "success": _rate(rates.success) if rates and rates.success else None,
        "score": _rate(rates.score) if rates else None,
        "n": rates.n if rates else 0,
        "errors (not scored)": sum(summary.errors.values()),
        "invalid replies": f"{sum(summary.invalid.values())} of {turns} turns",
        "refused commands": None if summary.refused is None else f"{summary.refused} of {summary.commands}",
        "replies cut off": f"{summary.cut} of {turns}",
        **summary.counted,
    }


def _rate(found: Estimate) -> str:
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}] n={found.n}"


def _cost(summary: Summary) -> dict[str, Any]:
    return {
        "wall seconds": None if summary.seconds is None else round(summary.seconds, 1),
        "sampled tokens per episode": summary.sampled_tokens,
        "prompt tokens per episode": summary.prompt_tokens,
        **summary.usage,
    }


def _first_prompts(run: Path, config: Mapping[str, Any], env: str) -> dict[str, str]:
    """The first three prompts, written again from what the turns say they were written from."""
    spec = env_spec(config.get("env") or env)
    reference = config.get("prompt") or spec.prompt
    found = {}
    for episode in read_episodes(run)[:_PROMPTS]:
        if episode.turns and episode.turns[0].shown:
            prompt = load_prompt(reference)
            text = prompt.message(_slots(episode, config.get("max_turns") or spec.max_turns), first=True)
            found[episode.task] = f"{prompt.system}\n\n{text}".strip()
    return found


def _slots(episode: Trajectory, max_turns: int) -> dict[str, Any]:
    first = episode.turns[0]
    own = {key: value for key, value in first.shown.items() if key != "admissible"}
    info = {
        "task": episode.task,
        "task_type": episode.task_type,
        "admissible": first.shown.get("admissible", []),
        **own,
    }
    return {
        "observation": first.observation,
        "admissible": info["admissible"],
        "history": [],
        "turn": 1,
        "steps": 0,
        "max_turns": max_turns,
        "info": info,
    }


def card_differences(one: Card, other: Card) -> list[str]:
    """What differs between two cards, but for results, costs and the wording of single prompts."""
    keep = ["tasks", "who plays", "how", "versions"]
    keep += ["training"] if one["training"] and other["training"] else []
    return list(differences({key: one[key] for key in keep}, {key: other[key] for key in keep}))


def as_markdown(card: Card, title: str) -> str:
    """The card as one page of Markdown."""
    lines = [f"# Reproduction card: {title}", ""]
    for section, rows in card.items():
        if section == "prompts" or not rows:
            continue
        lines += [f"## {section}", "", "| | |", "|---|---|"]
        lines += [
            f"| {name} | {_cell(value)} |" for name, value in rows.items() if value not in (None, [], {})
        ]
        lines.append("")
    if card["prompts"]:
        lines += ["## first prompts", ""]
        for task, text in card["prompts"].items():
            lines += [f"{task}", "", *(f"    {line}" for line in text.splitlines()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{name}: {inner}" for name, inner in value.items()]
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def as_html(card: Card, title: str) -> str:
    """The card as one page of HTML, with nothing to load."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(title)}</title>",
        "<style>body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "h2{font-size:1.05rem;margin:1.6rem 0 .4rem}table{border-collapse:collapse;width:100%}"
        "td{border-top:1px solid #ddd;padding:.25rem .5rem;vertical-align:top;overflow-wrap:anywhere}"
        "td:first-child{width:16rem;color:#666}pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap}</style>",
        f"<h1>Reproduction card: {html.escape(title)}</h1>",
    ]
    for section, rows in card.items():
        if section == "prompts" or not rows:
            continue
        cells = "".join(
            f"<tr><td>{html.escape(name)}<td>{html.escape(_cell(value))}"
            for name, value in rows.items()
            if value not in (None, [], {})
        )
        parts.append(f"<h2>{html.escape(section)}</h2><table>{cells}</table>")
    for task, text in card["prompts"].items():
        parts.append(f"<h2>first prompt of {html.escape(task)}</h2><pre>{html.escape(text)}</pre>")
    return "\n".join(parts) + "\n"
