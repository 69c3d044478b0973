"""Loads prompt templates. Leaves out tokenisation (`render`) and the templates themselves (`prompts/`).

A prompt is a YAML file with the keys `layout`, `parser` (optional, else the env's), `stop` (optional: texts that end
a reply), `system` (optional), `first` and `later`; the last three are jinja2 templates over these slots: `observation`,
`admissible`, `history` (list of (observation, action) pairs inside the window), `turn` (from 1), `steps` (turn - 1),
`max_turns`, `info`.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox
import yaml
from pydantic import Field

from ..config import Section, StopStrings, parse_mapping, read_text, validate
from ..errors import ConfigError, UnknownName
from ..foreign import printable

Layout = Literal["fresh", "growing", "continuing"]

# A prompt file reads as data and may come from anywhere, so its templates get no way to Python's own objects.
_JINJA = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=False, trim_blocks=True, lstrip_blocks=True
)


class _File(Section):
    layout: Layout
    parser: str | None = None
    stop: StopStrings = Field(default_factory=list)
    system: str = ""
    first: str
    later: str


@dataclass(frozen=True)
class Prompt:
    """One prompt: how a turn becomes messages.

    Attributes:
        name: the reference it was loaded by.
        layout: "fresh" writes one single-message prompt per turn; "growing" keeps one conversation, a message a turn;
            "continuing" keeps one reply, which goes on after each observation, and `later` is put in as it stands.
        parser: parser name this prompt asks replies for; None leaves it to the env.
        stop: stop strings of replies, unless the configuration names others; see `SamplingParams`.
        digest: first 12 hex digits of the file's sha256; part of every record.
        source: the keys of the file, from which the prompt can be loaded again.
    """

    name: str
    layout: Layout
    parser: str | None
    digest: str
    system: str
    first: jinja2.Template
    later: jinja2.Template
    source: dict[str, Any]
    stop: tuple[str, ...] = ()

    @property
    def info(self) -> dict[str, str]:
        """Name and digest, for the records."""
        return {"name": self.name, "digest": self.digest}

    def message(self, slots: Mapping[str, Any], *, first: bool) -> str:
        """Fill the template of the first or of a later turn.

        Raises: ConfigError: the template uses a slot that does not exist, or does what a prompt may not.
        """
        template = self.first if first else self.later
        try:
            text = template.render(slots)
            text.encode()  # raises for half a surrogate pair, which no model could read
            return text if self.layout == "continuing" and not first else text.strip()
        except Exception as error:  # a template can fail in any way that an expression can
            raise ConfigError(
                f"prompt {self.name!r} cannot be written ({type(error).__name__}: {printable(str(error), 300)}); "
                f"slots are {', '.join(sorted(slots))}"
            ) from error


def load_prompt(reference: str | Mapping[str, Any]) -> Prompt:
    """Load "package:folder/name" (shipped with a package), a path to a YAML file, or a prompt written in place.

    Args:
        reference: where it is, or a mapping with the keys of a prompt file.
    Raises: UnknownName: no such file. ConfigError: it is not a prompt.
    """
    if isinstance(reference, str):
        return _parse(reference, _read(reference))
    return _parse("inline", yaml.safe_dump(dict(reference), sort_keys=True, allow_unicode=True))


@lru_cache(maxsize=64)
def _parse(reference: str, text: str) -> Prompt:
    try:
        parsed = validate(_File, parse_mapping(text, f"prompt {reference!r}"), f"prompt {reference!r}: ")
        first, later = _JINJA.from_string(parsed.first), _JINJA.from_string(parsed.later)
    except (jinja2.TemplateError, RecursionError) as error:
        reason = printable(str(error), 300) or "nested too deeply"
        raise ConfigError(f"prompt {reference!r} is not valid: {reason}") from error
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Prompt(
        reference,
        parsed.layout,
        parsed.parser,
        digest,
        parsed.system.strip(),
        first,
        later,
        parsed.model_dump(exclude_unset=True),
        tuple(parsed.stop),
    )


def _read(reference: str) -> str:
    shipped = _shipped(reference)
    if shipped is not None:
        return shipped
    package, colon, name = reference.partition(":")
    if colon and not reference.endswith((".yaml", ".yml")):
        try:
            file = importlib.resources.files(package).joinpath(f"{name}.yaml")
            return file.read_text(encoding="utf-8")
        except (ModuleNotFoundError, OSError, ValueError, TypeError) as error:
            raise UnknownName(
                f"no prompt {reference!r}; expected the file {name}.yaml in the package {package!r}"
            ) from error
    if not os.path.isfile(reference):
        raise UnknownName(
            f"no prompt {printable(reference, 300)!r}; give a name (agentbench list prompts), a path to a .yaml file "
            "or 'package:folder/name'"
        )
    return read_text(reference, "the prompt")


_OF_TEACHERS = ("debate", "skills")
"""Folders of `agentbench.prompts` that hold what teachers read among themselves, and no prompt of an environment."""


def shipped_prompts() -> dict[str, Path]:
    """Prompts that come with the project: short name ("alfworld/react") to file."""
    root = Path(str(importlib.resources.files("agentbench.prompts")))
    files = sorted(file for file in root.glob("*/*.yaml") if file.parent.name not in _OF_TEACHERS)
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def _shipped(reference: str) -> str | None:
    """Text of a prompt by its short name; None where it is no short name."""
    if ":" in reference or reference.endswith((".yaml", ".yml")) or reference.count("/") != 1:
        return None
    file = shipped_prompts().get(reference)
    return None if file is None else file.read_text(encoding="utf-8")
