"""What an OpenEnv service says about itself: its tasks, and the schemas of what is sent. Leaves out the sessions."""

from __future__ import annotations

from typing import Any

from pydantic import StrictInt, StrictStr

from ..config import Section
from ..errors import UsageError
from .episode import Terms


class SplitData(Section):
    """Names a split, or a place or range in it."""

    split: StrictStr
    index: StrictInt | None = None
    start: StrictInt | None = None
    stop: StrictInt | None = None


def listing(terms: Terms, what: str, asked: SplitData) -> dict[str, Any]:
    """Answer one question of the Task API: tasks, num_tasks, task or task_range.

    Raises: UnknownName: no such split. UsageError: no index where one is needed. IndexError: no such task.
    """
    tasks = terms.tasks(asked.split)
    if what == "num_tasks":
        return {"num_tasks": len(tasks)}
    described = [{"id": task, "split": asked.split, "index": index} for index, task in enumerate(tasks)]
    if what == "task":
        if asked.index is None:
            raise UsageError("the key 'index' is missing")
        if not 0 <= asked.index < len(described):
            raise IndexError(asked.index)
        return {"task": described[asked.index]}
    if what == "task_range":
        return {"tasks": described[asked.start : asked.stop]}
    return {"tasks": described, "env_name": terms.spec.id}


def split_of(name: str) -> dict[str, str]:
    """Describe a split by its name and the kind that its name suggests."""
    kinds = [kind for kind in ("train", "test") if kind in name]
    return {"name": name, "type": kinds[0] if kinds else "validation"}


def schemas(terms: Terms) -> dict[str, Any]:
    """Describe actions, observations and state as JSON schemas.

    The action has one required field of text, so that a client may pass a model's plain reply; a title of its own,
    since some titles of the protocol mean tools.
    """
    what = "A model's whole reply" if terms.replies else "One command"
    text, flag = {"type": "string"}, {"type": "boolean"}
    action = {
        "title": f"{terms.spec.id.title()}Command",
        "type": "object",
        "properties": {
            "command": {**text, "description": f"{what}; see the observation's admissible commands"}
        },
        "required": ["command"],
        "additionalProperties": False,
    }
    observation = {
        "title": f"{terms.spec.id.title()}Observation",
        "type": "object",
        "properties": {
            "text": text,
            "admissible": {"type": "array", "items": text},
            "instruction": text,
        },
        "required": ["text", "admissible"],
    }
    state = {
        "title": f"{terms.spec.id.title()}State",
        "type": "object",
        "properties": {"episode_id": text, "step_count": {"type": "integer"}, "task": text, "done": flag},
    }
    return {"action": action, "observation": observation, "state": state}
