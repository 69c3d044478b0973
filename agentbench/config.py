"""Configurations: the one YAML reader of the project, dotted overrides, and checked sections of keys.

Unknown keys are errors with the nearest name, and every refusal is one line that shows the value at a size that fits.
Leaves out which keys there are (`agentbench.training.config`, `agentbench.evaluation.evaluate`, each TrainerSpec).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigError, UsageError
from .foreign import looks_like_key, printable, shortened

MOST_VALUES = 1_000_000
"""Values that one YAML text may hold once its anchors are written out."""

MOST_SECONDS = 1e9
"""Longest time limit, some thirty years: operating systems wait for no more than three hundred."""

_LONGEST = 2**63
_DEEPEST = 50


class Section(BaseModel):
    """Base of every configuration section: unknown keys are refused, values are frozen.

    Numbers are finite and fit into 64 bits; a yes/no is no number, and neither are digits in quotes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_numbers(cls, values: Any) -> Any:
        """Refuse what would be read as a number by accident."""
        if isinstance(values, Mapping):
            for name, field in cls.model_fields.items():
                value, kinds = values.get(name), _kinds(field.annotation)
                _refuse_odd_number(field.annotation, value, name)
                if isinstance(value, Mapping) and any(get_args(kind)[1:] == (Any,) for kind in kinds):
                    _refuse_unwritable(value, name)
        return values


def _kinds(annotation: Any) -> set[Any]:
    """What a field may be: the parts of a union, or the annotation itself."""
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def _refuse_odd_number(kind: Any, value: Any, name: str) -> None:
    """Refuse a value, or one inside its list or mapping, that a number of this kind would be made of by accident.

    Raises: ValueError: names it.
    """
    kinds = _kinds(kind)
    for inner in kinds:
        items: Iterable[tuple[Any, Any]] = ()
        if get_origin(inner) is dict and isinstance(value, Mapping):
            items = value.items()
        elif get_origin(inner) in (list, tuple) and isinstance(value, list | tuple):
            items = enumerate(value)
        for key, item in items:
            _refuse_odd_number(get_args(inner)[1 if get_origin(inner) is dict else 0], item, f"{name}.{key}")
    if kinds & {int, float} and bool not in kinds and isinstance(value, bool):
        raise ValueError(f"{name} = {value} is not allowed: a number is wanted")
    if int in kinds and not kinds & {str, float} and isinstance(value, str):
        raise ValueError(f"{name} = {shortened(value)} is not allowed: a whole number is wanted")
    if int in kinds and isinstance(value, int) and abs(value) >= _LONGEST:
        raise ValueError(f"{name} = {shortened(value)} is not allowed: it does not fit into 64 bits")


def _refuse_unwritable(value: Any, name: str, depth: int = 0) -> None:
    """Refuse, in a mapping whose keys others explain, what config.yaml and the records cannot hold.

    Raises: ValueError: names it.
    """
    if depth > _DEEPEST:
        raise ValueError(f"{printable(name, 100)} is nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            _refuse_unwritable(item, f"{name}.{key}", depth + 1)
        return
    if isinstance(value, str):
        fits = value.encode("utf-8", "replace").decode() == value  # no half of a surrogate pair
    elif isinstance(value, int):
        fits = abs(value) < _LONGEST
    else:
        fits = math.isfinite(value) if isinstance(value, float) else isinstance(value, date | None)
    if not fits:
        kind = type(value).__name__
        raise ValueError(
            f"{printable(name, 300)} = {shortened(value)} ({kind}) is not allowed: text, finite numbers of 64 bits, "
            "true, false, null, dates, and lists and mappings of these are"
        )


# --- YAML -------------------------------------------------------------------------------------------------------------

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader reads 3,500 ids ten times faster


class _Loader(_Base):  # type: ignore[misc]
    """YAML with two traps of its version 1.1 taken out: 1:30 is text and not 90, and a key may stand once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - where PyYAML looks for it
        first: [
            (tag, pattern)
            for tag, pattern in pairs
            if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        ]
        for first, pairs in _Base.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands twice; the last one would win in silence."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shortened(key.value)} stands twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_text(path: str | Path, what: str, kind: type[UsageError] = ConfigError) -> str:
    """Read a text file that the user named.

    Args:
        path: the file.
        what: what it is, for the message, such as "the configuration".
        kind: of the error raised when it cannot be read.
    """
    try:
        if Path(path).is_char_device():  # /dev/zero has no end
            raise OSError(0, "it is a device")
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise kind(f"cannot read {what} {printable(str(path), 300)}: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, or a zero byte in the name
        raise kind(f"cannot read {what} {printable(str(path), 300)}: {printable(str(error), 300)}") from error


def parse_yaml(text: str | bytes, source: str, kind: type[UsageError] = ConfigError) -> Any:
    """Read one YAML document of plain values.

    Args:
        text: the document.
        source: where it came from, for the message.
        kind: of the error.
    Raises: `kind`: not YAML, a key twice, nested too deeply, or anchors that multiply without end.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
        size = _written_out(values, {})
    except yaml.YAMLError as error:
        raise kind(f"{source} is not YAML: {printable(str(error), 500)}") from error
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else printable(str(error), 300)
        raise kind(f"{source} is not YAML that can be used: {reason}") from error
    if size > MOST_VALUES:
        raise kind(f"{source} holds more than {MOST_VALUES:,} values once its anchors are written out")
    return values


def parse_mapping(text: str | bytes, source: str, kind: type[UsageError] = ConfigError) -> dict[str, Any]:
    """Read a YAML document of keys and values; see `parse_yaml`."""
    values = parse_yaml(text, source, kind)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        found = "keys that are no text" if isinstance(values, dict) else type(values).__name__
        raise kind(f"{source} must hold keys and values, found {found}")
    return values


def read_mapping(path: str | Path, what: str, kind: type[UsageError] = ConfigError) -> dict[str, Any]:
    """Read a YAML file of keys and values; see `read_text` and `parse_yaml`."""
    return parse_mapping(read_text(path, what, kind), f"{what} {printable(str(path), 300)}", kind)


def _written_out(value: Any, known: dict[int, int]) -> int:
    """Count the values of a document with every anchor written out; one that holds itself is refused."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = -1
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(item, known) for item in inner)
    elif known[id(value)] < 0:
        raise ValueError("an anchor holds itself")
    return known[id(value)]


# --- sections ---------------------------------------------------------------------------------------------------------


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
        key, known = printable(key, 200), _keys_beside(model, path)
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"unknown key {key!r}; allowed here: {', '.join(known)}.{hint}"
    if first["type"] == "missing":
        return f"the key {key!r} is missing"
    reason = printable(first["msg"], 500).removeprefix("Value error, ")
    if first["type"] == "value_error":  # a sentence of a validator's own, which names its key
        if not path:  # of the section as a whole, such as "trainer."
            return f"{where.removesuffix('.')}: {reason}" if where.endswith(".") else f"{where}{reason}"
        return f"{where}{'.'.join(path)}: {reason}"
    return f"{key} = {shortened(first['input'])} is not allowed: {reason[:1].lower()}{reason[1:]}"


def _keys_beside(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    fields: Any = model
    for part in path[:-1]:
        annotation = fields.model_fields[part].annotation if part in fields.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if nested:
            fields = nested[0]
    return sorted(fields.model_fields)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Carry out one `key.sub=value` on values as read from YAML; a number picks an entry of a list.

    Raises: ConfigError: it is not of that form, or leads nowhere.
    """
    key, equals, text = override.partition("=")
    shown = printable(override, 200)
    if not equals or not key:
        raise ConfigError(f"override {shown!r} is not of the form key.sub=value")
    *parents, last = key.split(".")
    at: Any = values
    for part in parents:
        at = _below(at, part, shown)
        if not isinstance(at, dict | list):
            raise ConfigError(f"override {shown!r}: {part!r} is a value, it has no keys below it")
    value = parse_yaml(text, f"override {shown!r}: the value")
    if isinstance(at, list):
        at[_place(at, last, shown)] = value
    else:
        at[last] = value


def _below(at: Any, part: str, shown: str) -> Any:
    if isinstance(at, list):
        return at[_place(at, part, shown)]
    if at.get(part) is None:  # absent, or a section left empty
        at[part] = {}
    return at[part]


def _place(entries: list[Any], part: str, shown: str) -> int:
    if not (part.isascii() and part.isdigit() and int(part) < len(entries)):
        allowed = f"0 to {len(entries) - 1}" if entries else "none, it is empty"
        raise ConfigError(f"override {shown!r}: {part!r} is no entry of that list; allowed: {allowed}")
    return int(part)


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


_KEY_NAMES = re.compile(r"(?i)(api[-_]?key|authorization|access[-_]?token|secret|password)$")


def refuse_keys(where: str, value: Any) -> None:
    """Refuse a key that was put where it would be recorded.

    Raises: UsageError: names the place, not the value.
    """
    if _holds_key(value):
        raise UsageError(
            f"{where} seems to hold an API key, and would be recorded; put the key into an environment variable and "
            "name that in engine_options.api_key_env"
        )


def _holds_key(value: Any) -> bool:
    if isinstance(value, dict):
        named = any(_KEY_NAMES.search(str(name)) and given for name, given in value.items())
        return named or any(map(_holds_key, value.values()))
    return any(map(_holds_key, value)) if isinstance(value, list | tuple) else looks_like_key(value)
