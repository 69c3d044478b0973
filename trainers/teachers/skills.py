"""Skill texts: what holds for all tasks of an environment, and what holds for one type of them.

A file per environment in `prompts/skills/`, or one of the user's:

    general: [sentence, ...]
    types:
      - for: [task type, ...]       # as the environment names them (`Trajectory.task_type`)
        skills: [sentence, ...]

Leaves out who reads them (`sdar`) and how they reach a prompt (`contexts`).
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from agentbench.config import Section, parse_mapping, read_text, validate
from agentbench.errors import ConfigError

_FOLDER = importlib.resources.files("agentbench.prompts") / "skills"


class _TypeSkills(Section):
    types: list[str] = Field(alias="for", min_length=1)
    skills: list[str] = Field(min_length=1)


class _SkillFile(Section):
    general: list[str] = Field(min_length=1)
    types: list[_TypeSkills] = Field(default_factory=list)


@dataclass(frozen=True)
class Skills:
    """Skill texts of one environment.

    Attributes:
        name: where they come from.
        general: sentences for every task.
        by_type: task type -> sentences for it.
    """

    name: str
    general: tuple[str, ...]
    by_type: Mapping[str, tuple[str, ...]]

    def text(self, task_type: str) -> str:
        """What a teacher reads in a task of this type: the general part, then the type's own where it has one."""
        parts = ["Skills that help in every task:", *(f"- {line}" for line in self.general)]
        own = self.by_type.get(task_type, ())
        if own:
            parts += ["", "Skills for this kind of task:", *(f"- {line}" for line in own)]
        return "\n".join(parts)

    def texts(self) -> list[str]:
        """Every text that there is: of a task without skills of its own, and of each type that has some."""
        return [self.text(task_type) for task_type in ("", *self.by_type)]


def load_skills(env: str, path: str | None = None) -> Skills:
    """Read the skills of an environment.

    Args:
        env: its id; skills of ours lie in `prompts/skills/ENV.yaml`.
        path: a file of the user's instead.
    Raises: ConfigError: there are none, the file is not of this form, or a type stands twice.
    """
    file = _FOLDER / f"{env}.yaml"
    if path is None and not file.is_file():
        raise ConfigError(f"there are no skills for env {env!r}; write a file and name it in trainer.skills")
    name = path or f"skills/{env}"
    text = file.read_text(encoding="utf-8") if path is None else read_text(path, "trainer.skills")
    parsed = validate(_SkillFile, parse_mapping(text, f"skills {name!r}"), f"skills {name!r}: ")
    by_type: dict[str, tuple[str, ...]] = {}
    for item in parsed.types:
        for task_type in item.types:
            if task_type in by_type:
                raise ConfigError(
                    f"skills {name!r}: task type {task_type!r} stands twice; put its skills together"
                )
            by_type[task_type] = tuple(item.skills)
    return Skills(name, tuple(parsed.general), by_type)
