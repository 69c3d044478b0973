"""One HTML page of a run: its episodes turn by turn, tokens coloured by how unsure the model was, a trainer's numbers.

Everything on the page that others wrote (tasks, observations, replies, names) is escaped; the page loads nothing, and
its policy lets no script run but the few lines below. Leaves out figures of the run (`report`) and its terms (`card`).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from ..errors import AgentBenchError, CorruptData, MissingData, UsageError
from ..foreign import printable, shortened, visible
from ..models.loading import open_tokenizer
from ..types import Action, Trajectory, Turn
from .episodes import decode_episode, read_episodes
from .files import as_written, read_json, read_lines
from .folder import CONFIG, VERSIONS, is_training, run_config
from .own import read_run
from .shortfalls import error_limit, shortfalls
from .summary import read_plan, summarise

_MARKS = {"won": "✓", "lost": "✗", "broke": "!", "played": "·"}
_SHOWN = 6000
"""Characters of one observation, reply or note that the page keeps."""

_SCRIPT = """
const outcome = document.getElementById("outcome"), words = document.getElementById("words");
function filter() {
  const wanted = words.value.toLowerCase();
  for (const episode of document.querySelectorAll("details.episode")) {
    const hidden = (outcome.value && episode.dataset.outcome !== outcome.value)
      || (wanted && !episode.textContent.toLowerCase().includes(wanted));
    episode.hidden = hidden;
    document.querySelector(`nav a[href="#${episode.id}"]`).hidden = hidden;
  }
}
outcome.addEventListener("change", filter);
words.addEventListener("input", filter);
for (const link of document.querySelectorAll("nav a"))
  link.addEventListener("click", () => { document.querySelector(link.getAttribute("href")).open = true; });
"""


@dataclass(frozen=True)
class Recorded:
    """Episodes to look at, and what is known of the run that played them.

    Attributes:
        title: of the page.
        facts: lines below it.
        tokenizers: folders or hub ids that may hold the tokenizer of the run's model, the likeliest first.
    """

    title: str
    episodes: Sequence[Trajectory]
    facts: Sequence[str] = ()
    tokenizers: Sequence[str] = field(default_factory=tuple)


def read_recorded(path: Path, step: int | None = None) -> Recorded:
    """Find the episodes of a run folder, of a training run, or of a file of episodes.

    Args:
        path: evaluation, training run or .jsonl.
        step: of a training run, whose collected episodes are shown; None takes the newest.
    Raises: MissingData: there are none. UsageError: `step` where there are no steps.
    """
    if path.is_dir() and is_training(path):
        return _training(path, step)
    if step is not None:
        raise UsageError(f"--step is for training runs, and {path} is none")
    if path.is_file():
        return Recorded(path.name, _episodes(path))
    episodes = read_episodes(path)
    facts = _headline(path) if all((path / name).exists() for name in (VERSIONS, CONFIG)) else []
    versions = read_json(path / VERSIONS) if (path / VERSIONS).exists() else {}
    with as_written(path):
        panel, policy = versions.get("panel", {}), versions.get("policy", {})
        engine = policy.get("engine") or {}
        facts.append(
            f"{panel.get('id', '?')}, rules {panel.get('rules', '?')}; policy {policy.get('policy', '?')}"
        )
        named = [str(engine["model"])] if engine.get("model") else []
    above = path.parent.parent  # TRAINING/eval/step-N: its checkpoint may be gone, the tokenizer is the same
    if is_training(above) and (above / CONFIG).exists():
        named.append(str(run_config(above).get("model_name_or_path", "")))
    return Recorded(str(path), episodes, facts, named)


def _headline(run: Path) -> list[str]:
    """The figure of the records that are shown, and what they lack; summary.json may be older than they are.

    Raises: CorruptData: there are lines of another run among them.
    """
    plan, policy = read_plan(run)
    summary = summarise(read_run(run, plan), plan, policy, max_error_rate=error_limit(run))
    found = summary.overall and (summary.overall.success or summary.overall.score)
    rate = []
    if found:
        rate = [f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}], n = {found.n}"]
    return [*rate, *shortfalls(summary)]


def _training(path: Path, step: int | None) -> Recorded:
    found = sorted((path / "rollouts").glob("step-*.jsonl"))
    files = {
        int(file.stem.removeprefix("step-")) + 1: file for file in found
    }  # counted as metrics.jsonl does
    if not files:
        raise MissingData(f"{path} has no collected episodes (rollouts/step-N.jsonl)")
    chosen = max(files) if step is None else step
    if chosen not in files:
        raise UsageError(
            f"{path} has no episodes of step {step}; there are steps {min(files)} to {max(files)}"
        )
    config = run_config(path)
    facts = [f"collected for step {chosen} of {config.get('max_steps', '?')}, {config.get('algorithm', '?')}"]
    return Recorded(
        f"{path}, step {chosen}", _episodes(files[chosen]), facts, [str(config.get("model_name_or_path", ""))]
    )


def _episodes(file: Path) -> list[Trajectory]:
    """Episodes of a file in which a task may stand more than once, as it does in groups."""
    found = []
    for number, line in read_lines(file):
        try:
            found.append(decode_episode(line))
        except ValueError as error:
            raise CorruptData(f"{file} line {number}: {error}") from error
    if not found:
        raise MissingData(f"no episodes in {file}")
    return found


def choose(
    source: Recorded, *, tasks: Sequence[str] = (), lost: bool = False, limit: int | None = None
) -> tuple[list[Trajectory], list[str]]:
    """Pick the episodes that are shown.

    Args:
        source: what there is.
        tasks: only these tasks, or those that hold one of these words; () takes all.
        lost: only those that did not succeed.
        limit: the first so many; None takes all.
    Returns: the episodes, and what to say about those left out.
    Raises: UsageError: none is left.
    """
    found = [item for item in source.episodes if not tasks or any(word in item.task for word in tasks)]
    found = [item for item in found if not lost or outcome(item) in ("lost", "broke")]
    if not found:
        raise UsageError(f"none of the {len(source.episodes)} episodes is of that kind (--task, --lost)")
    notes = []
    if len(found) < len(source.episodes):
        notes.append(f"{len(found)} of {len(source.episodes)} episodes, as asked for")
    if limit is not None and len(found) > limit:
        notes.append(f"only the first {limit} of {len(found)} are shown (--limit)")
    return found[:limit], notes


def outcome(episode: Trajectory) -> str:
    """In one word: won, lost, broke (infrastructure), or played, where the env has no yes or no."""
    if not episode.ok:
        return "broke"
    if episode.success is None:
        return "played"
    return "won" if episode.success else "lost"


class Pieces:
    """Token ids as the text that each one adds; `missing` says why there is none."""

    def __init__(self, names: Sequence[str]) -> None:
        self.name, self.missing, self._known = "", "", dict[int, str]()
        for name in names:
            try:
                self._tokenizer = open_tokenizer(name)
            except AgentBenchError as error:
                self.missing = self.missing or printable(str(error), 300)
            else:
                self.name, self.missing = name, ""
                return

    def __bool__(self) -> bool:
        return bool(self.name)

    def __getitem__(self, token: int) -> str:
        if token not in self._known:
            # Twice and once: alone, a token of a sentence-piece vocabulary would lose the blank before it.
            once, twice = (self._tokenizer.decode([token] * count) for count in (1, 2))
            self._known[token] = twice[len(once) :]
        return self._known[token]


def as_html(
    source: Recorded, episodes: Sequence[Trajectory], pieces: Pieces, notes: Sequence[str] = ()
) -> str:
    """Write the page."""
    notes = list(notes)
    if any(turn.action.token_ids for item in episodes for turn in item.turns):
        notes.append(
            f"tokens by the tokenizer of {pieces.name}; the redder, the less likely it was when it was sampled"
            if pieces
            else f"replies are shown as text, without their tokens: {pieces.missing or 'no tokenizer is known'} "
            "(--tokenizer FOLDER)"
        )
    largest = _largest(episodes)
    values = {
        "title": printable(source.title),
        "facts": [printable(line) for line in source.facts],
        "notes": [printable(line) for line in notes],
        "outcomes": sorted({outcome(item) for item in episodes}),
        "episodes": [_episode(item, pieces, largest) for item in episodes],
    }
    # Autoescape: every value is text that somebody else may have written. The script is our own.
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).from_string(importlib.resources.files(__package__).joinpath("view.html").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return template.render(page=values, script=Markup(_SCRIPT), script_sha256=digest)


def as_text(episodes: Sequence[Trajectory]) -> str:
    """The episodes for a terminal: what was seen, said and done, turn by turn."""
    lines = []
    for item in episodes:
        lines += [f"=== {printable(item.task)}: {outcome(item)}, {_facts(item)}", ""]
        for turn in item.turns:
            done = "(no command could be read)" if turn.env_action is None else printable(turn.env_action)
            numbers = "".join(f"  {printable(name)} {value:.4g}" for name, value in _numbers(turn).items())
            flaws = f"  [{printable(turn.invalid)}]" if turn.invalid else ""
            reward = f"  reward {turn.reward:g}" if turn.reward else ""
            lines += [
                visible(turn.observation, _SHOWN),
                "",
                f"{turn.action.author}: {visible(turn.action.text, _SHOWN)}",
            ]
            lines += [f"--- {turn.index + 1} → {done}{reward}{flaws}{numbers}", ""]
        lines += [visible(item.final_observation, _SHOWN), _ending(item), ""]
    return "\n".join(lines)


def _episode(item: Trajectory, pieces: Pieces, largest: Mapping[str, float]) -> dict[str, Any]:
    kind = outcome(item)
    return {
        "outcome": kind,
        "mark": _MARKS[kind],
        "task": printable(item.task),
        "repeat": item.repeat,
        "facts": _facts(item),
        "turns": [_turn(turn, pieces, largest) for turn in item.turns],
        "final": visible(item.final_observation, _SHOWN),
        "ending": _ending(item),
        "tone": {"won": "good", "lost": "bad", "broke": "bad"}.get(kind, ""),
    }


def _facts(item: Trajectory) -> str:
    parts = [
        *([printable(item.task_type)] if item.task_type else []),
        f"score {item.score:g}",
        f"{len(item.turns)} turns",
        *([f"repeat {item.repeat}"] if item.repeat else []),
        *(
            [f"branched from {printable(item.parent.trajectory)}, turn {item.parent.turn}"]
            if item.parent
            else []
        ),
    ]
    return ", ".join(parts)


def _ending(item: Trajectory) -> str:
    if item.error is not None:
        return f"broke in the {item.error.where}: {printable(item.error.type)}: {printable(item.error.message, 500)}"
    return f"{item.end}, score {item.score:g}, reward {item.reward:g}"


def _turn(turn: Turn, pieces: Pieces, largest: Mapping[str, float]) -> dict[str, Any]:
    more = [(name, visible(str(text), _SHOWN)) for name, text in turn.notes.items()]
    more += [
        (name, _plain(value)) for name, value in (("written from", turn.shown), ("info", turn.info)) if value
    ]
    return {
        "number": turn.index + 1,
        "saw": visible(turn.observation, _SHOWN),
        "said": visible(turn.action.text, _SHOWN),
        "author": printable(turn.action.author),
        "tokens": _tokens(turn.action, pieces) if pieces else [],
        "finish": turn.action.finish,
        "command": None if turn.env_action is None else printable(turn.env_action),
        "invalid": printable(turn.invalid),
        "reward": turn.reward,
        "reward_text": f"{turn.reward:g}",
        "label": printable(turn.label.text) if turn.label else "",
        "annotations": [
            {
                "name": printable(name),
                "text": f"{value:.4g}",
                "below": value < 0,
                "width": round(100 * abs(value) / largest[name]) if largest[name] else 0,
            }
            for name, value in _numbers(turn).items()
        ],
        "more": [(printable(name), text) for name, text in more],
    }


def _tokens(action: Action, pieces: Pieces) -> list[dict[str, str]]:
    return [
        {
            "text": visible(pieces[token]),
            "doubt": f"{0.75 * (1 - math.exp(min(0.0, logprob))):.3f}",
            "title": f"id {token}, log-prob {logprob:.4f} nats, probability {math.exp(min(0.0, logprob)):.3f}",
        }
        for token, logprob in zip(action.token_ids, action.logprobs, strict=True)
    ]


def _largest(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """Largest absolute value of every annotation on the page, for the length of its bars."""
    found: dict[str, float] = {}
    for turn in (turn for item in episodes for turn in item.turns):
        for name, value in _numbers(turn).items():
            found[name] = max(found.get(name, 0.0), abs(value))
    return found


def _numbers(turn: Turn) -> dict[str, float]:
    """A trainer's numbers; what else a foreign record holds there is left out."""
    return {name: value for name, value in turn.annotations.items() if type(value) in (int, float)}


def _plain(value: Any) -> str:
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    except TypeError:  # lists in lists beyond what can be written
        text = shortened(value)
    return visible(text, _SHOWN)
