"""The configuration of a training run: YAML plus dotted overrides, checked before anything is built.

Field names are Hugging Face's where they exist. Unknown keys are errors with the nearest name; so are keys that the
chosen algorithm would ignore. Leaves out each algorithm's own keys (the `trainer` section, checked by its TrainerSpec).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError


class Section(BaseModel):
    """Base of every configuration section: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


StopStrings = list[Annotated[str, Field(min_length=1)]]
"""Texts that end a reply, see `SamplingParams`."""

_Model = TypeVar("_Model", bound=BaseModel)


def validate(model: type[_Model], values: Mapping[str, Any], where: str = "") -> _Model:
    """Check values against a model; the first problem becomes one clear line.

    Args:
        model: pydantic model with `extra="forbid"`.
        values: as read from YAML.
        where: prefix of the key in the message, such as "trainer.".
    Raises: ConfigError.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(model, error, where)) from error


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = where + ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_beside(model, path)
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"unknown key {key!r}; allowed here: {', '.join(known)}.{hint}"
    if first["type"] == "missing":
        return f"the key {key!r} is missing"
    return f"{key} = {first['input']!r} is not allowed: {first['msg'].lower()}"


def _keys_beside(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    fields: Any = model
    for part in path[:-1]:
        annotation = fields.model_fields[part].annotation if part in fields.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if nested:
            fields = nested[0]
    return sorted(fields.model_fields)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    *parents, last = key.split(".")
    at: Any = values
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if not isinstance(at, dict | list):
            raise ConfigError(f"override {override!r}: {part!r} is a value, it has no keys below it")
    if isinstance(at, list):
        at[int(last)] = yaml.safe_load(text)
    else:
        at[last] = yaml.safe_load(text)


def dump(config: BaseModel) -> str:
    """Write the resolved configuration as YAML; it is a valid input itself."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Name every key in which two resolved configurations differ, with both values."""
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {before!r} -> {after!r}"
