"""Recorded episodes as conversations, one JSON object a line, for other people's training code.

A row has `messages` (role and content), as chat data sets do: one row for each episode of a growing conversation, one
for each turn where every turn has a prompt of its own. Prompts are written again from what the turns say they were
written from. Checkpoints need no export: they are plain Hugging Face folders. Leaves out records themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..dialogue.prompt import Prompt, load_prompt
from ..dialogue.render import opening_messages, prompt_slots
from ..env import EnvSpec, TextEnv
from ..errors import UsageError
from ..policy import View
from ..registry import env_spec
from ..runs.files import read_json
from ..runs.folder import VERSIONS, is_training, run_config
from ..runs.view import read_recorded
from ..types import Trajectory, Turn


@dataclass(frozen=True)
class _Terms:
    """How the episodes of a run were prompted."""

    spec: EnvSpec
    prompt: Prompt
    history: int
    max_turns: int


def conversations(run: Path, *, step: int | None = None, won: bool = False) -> Iterator[dict[str, Any]]:
    """Write the episodes of a run folder as conversations; those that infrastructure broke are left out.

    Args:
        run: an evaluation, or a training run, whose collected episodes are taken.
        step: of a training run; None takes the newest.
        won: only episodes that succeeded.
    Raises: UsageError: the prompt says something else now than when the run was played, or turns do not say what their
        prompts were written from.
    """
    terms = _terms(run)
    for episode in read_recorded(run, step).episodes:
        if episode.ok and (episode.success or not won):
            yield from _rows(episode, terms)


def _terms(run: Path) -> _Terms:
    config, versions = run_config(run), read_json(run / VERSIONS)
    if is_training(run):
        section: Mapping[str, Any] = config["env"]
        name, digest = section["name"], versions.get("played", {}).get("prompt")
    else:
        policy = versions.get("policy", {})
        section, name = config, config.get("env") or versions["panel"]["env"]
        digest = (policy.get("prompt") or {}).get("digest")
    spec = env_spec(name)
    prompt = load_prompt(section.get("prompt") or spec.prompt)
    if digest is not None and prompt.digest != digest:
        raise UsageError(
            f"prompt {prompt.name!r} says something else now (digest {prompt.digest}) than when {run} was played "
            f"({digest}); put the old text back to export"
        )
    history, max_turns = section.get("history"), section.get("max_turns")
    return _Terms(spec, prompt, spec.history if history is None else history, max_turns or spec.max_turns)


def _rows(episode: Trajectory, terms: _Terms) -> Iterator[dict[str, Any]]:
    about = {"env": episode.env, "task": episode.task, "repeat": episode.repeat, "end": episode.end}
    about |= {"success": episode.success, "score": episode.score}
    growing, messages = terms.prompt.layout == "growing", list[dict[str, str]]()
    for turn in episode.turns:
        text = terms.prompt.message(_slots(episode, turn, terms), first=turn.index == 0)
        asked = [{"role": "user", "content": text}]
        said = {"role": "assistant", "content": turn.action.text}
        messages = [*messages, *asked] if growing and messages else opening_messages(terms.prompt, text)
        messages = [*messages, said]
        if not growing:
            yield {"messages": messages, **about, "turn": turn.index, "reward": turn.reward}
    if growing and messages:
        yield {"messages": messages, **about, "reward": episode.reward}


def _slots(episode: Trajectory, turn: Turn, terms: _Terms) -> dict[str, Any]:
    if not turn.shown:
        raise UsageError(
            f"task {episode.task!r}: turn {turn.index} does not say what its prompt was written from, so it cannot be "
            "written again; ready-made policies read none (a training run's experts do: export that run)"
        )
    info = {"task": episode.task, "task_type": episode.task_type, **turn.shown}
    before = list(episode.turns[: turn.index])
    nobody = cast(TextEnv, None)  # prompts read the view's words, never its env
    view = View(
        episode.id,
        terms.spec,
        nobody,
        episode.task,
        episode.seed,
        episode.repeat,
        turn.observation,
        info,
        before,
    )
    return prompt_slots(view, history=terms.history, max_turns=terms.max_turns)
