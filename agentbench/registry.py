"""Finds plug-ins by entry point: ours are found the same way as a stranger's. Listing reads metadata only.

Anywhere a name is accepted, "package.module:Name" and "path/to/file.py:Name" are too.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import inspect
import os
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from .config import refuse_keys
from .engine import Engine, TextEngine
from .env import EnvSpec
from .errors import AgentBenchError, ConfigError, ContractError, UnknownName, unknown_name
from .foreign import message_of, printable, shortened
from .trainer import TrainerSpec

KINDS = ("envs", "trainers", "engines", "panels", "datasets", "bridges")
_Spec = TypeVar("_Spec")
_OF_A_FILE = "agentbench_plugin_"
_STRANGERS: set[str] = set()
"""First names of the modules that plug-ins of others came from."""
_REINSTALL = "A plug-in added after installation is found once its package is installed again."


@lru_cache(maxsize=16)
def entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Entry points of the group `agentbench.<kind>`, by name, without importing anything."""
    found = importlib.metadata.entry_points(group=f"agentbench.{kind}")
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def names(kind: str) -> list[str]:
    """Names of the installed plug-ins of one kind, see `KINDS`."""
    if kind not in KINDS:
        raise unknown_name("kind of plug-in", kind, KINDS)
    return list(entry_points(kind))


def load(kind: str, name: str) -> Any:
    """Import a plug-in by name, "package.module:Name" or "file.py:Name".

    Raises:
        UnknownName: nothing of that name is installed.
        ConfigError: what was named raised when it was imported.
    """
    points = entry_points(kind)
    if name in points:
        point = points[name]
        _remember(point.module)
        with _own_faults_named(point.value) if _is_strange(point.module) else contextlib.nullcontext():
            return point.load()
    module_name, colon, attribute = name.rpartition(":")
    if not colon:
        raise unknown_name(kind.removesuffix("s"), name, points, _REINSTALL)
    module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    if not hasattr(module, attribute):
        raise UnknownName(f"{module_name!r} has no attribute {attribute!r}")
    return getattr(module, attribute)


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UnknownName(
            f"{shortened(name)} is no name of a module; give package.module:Name or file.py:Name"
        )
    _remember(name)
    with _own_faults_named(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                raise UnknownName(f"no module {name!r}; is its package installed?") from error
            raise


def _import_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise UnknownName(f"no file {shortened(str(path))}")
    name = f"{_OF_A_FILE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _remember(name)
    with _own_faults_named(str(path)):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _own_faults_named(name: str) -> Iterator[None]:
    """Say in one line what a stranger's code raises when it is imported, and where; `sys.exit` included.

    Raises: UnknownName: it is no Python. ConfigError: it raised.
    """
    try:
        yield
    except (AgentBenchError, KeyboardInterrupt):
        raise
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UnknownName(f"{name!r} is no Python that can be read: {printable(str(error), 300)}") from error
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{name!r} cannot be imported: {type(error).__name__}: {printable(message_of(error), 300)} "
            f"({Path(frame.filename).name}, line {frame.lineno})"
        ) from error


def _is_strange(module: str) -> bool:
    first = module.partition(".")[0]
    return first != "agentbench" and first not in sys.stdlib_module_names


def _remember(module: str) -> None:
    if _is_strange(module):
        _STRANGERS.add(module.partition(".")[0])


def blamed(error: BaseException) -> str | None:
    """Say in one line what a plug-in of others raised, and where; None for an exception that passed through none."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] in _STRANGERS:
            code = frame.f_code
            found = (
                Path(code.co_filename).name if module.startswith(_OF_A_FILE) else module,
                line,
                code.co_name,
            )
    if found is None:
        return None
    place, line, function = found
    return (
        f"the plug-in {place} failed (line {line}, in {function}): {type(error).__name__}: "
        f"{printable(message_of(error), 300)}; what is on record is kept"
    )


def env_spec(name: str) -> EnvSpec:
    """Load the spec of an environment."""
    return _checked(load("envs", name), EnvSpec, "env", name)


def trainer_spec(name: str) -> TrainerSpec:
    """Load the spec of an algorithm."""
    return _checked(load("trainers", name), TrainerSpec, "trainer", name)


def engine_factory(name: str) -> Callable[..., Engine | TextEngine]:
    """Load the function that builds an engine."""
    factory: Callable[..., Engine | TextEngine] = load("engines", name)
    if not callable(factory):
        raise ContractError(f"engine plug-in {name!r} must be callable, got {type(factory).__name__}")
    return factory


def open_engine(name: str, model: str | None, options: Mapping[str, Any]) -> Engine | TextEngine:
    """Build an engine from its name, its model (None where none was named) and its keyword options.

    Raises: UnknownName: no such engine. ConfigError: an option that it does not have, or a model that it needs.
        ContractError: what it builds is no engine.
    """
    factory = engine_factory(name)
    check_engine(name, model, options)
    engine = factory(*([] if model is None else [model]), **options)
    if not hasattr(engine, "poll"):  # both kinds of engine have it
        raise ContractError(
            f"engine plug-in {name!r} must build an engine (poll, close ...), got {type(engine).__name__}"
        )
    return engine


def check_engine(name: str, model: str | None, options: Mapping[str, Any]) -> None:
    """Check an engine's name and keyword options, as far as the signature tells, and build nothing.

    Raises: UnknownName: no such engine. ConfigError: an option that it does not have or of a wrong type, or a model
        that it needs.
    """
    factory = engine_factory(name)
    for key, value in options.items():
        if key != "api_key_env":  # which says itself that a name is wanted there
            refuse_keys(f"engine_options.{key}", value)
    given = [] if model is None else [model]
    signature = inspect.signature(factory)
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        own = [item.name for item in signature.parameters.values() if item.kind is item.KEYWORD_ONLY]
        told = printable(str(error), 300)
        raise ConfigError(f"engine {name!r}: {told}; its options: {', '.join(sorted(own))}") from error
    try:
        hints = typing.get_type_hints(factory)
    except Exception:  # annotations that cannot be looked up say nothing about values
        return
    for key, value in options.items():
        _check_type(f"engine {name!r}: option {key}", hints.get(key, Any), value)


def _check_type(what: str, hint: Any, value: Any) -> None:
    kinds = {hint, *typing.get_args(hint)}
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        fits = not (isinstance(value, bool) and kinds & {int, float} and bool not in kinds)
    except PydanticUserError:  # no type that values can be checked against
        return
    except ValidationError:
        fits = False
    if not fits or (isinstance(value, str) and kinds & {int, float} and str not in kinds):
        wanted = getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
        raise ConfigError(f"{what} = {shortened(value)} is not allowed: {wanted} is wanted")


def _checked(found: Any, kind: type[_Spec], label: str, name: str) -> _Spec:
    if not isinstance(found, kind):
        raise ContractError(f"{label} plug-in {name!r} must be a {kind.__name__}, got {type(found).__name__}")
    return found


def panel_files() -> dict[str, Traversable]:
    """Every shipped panel file by its file stem, from the resource packages of the group `agentbench.panels`."""
    return _yaml_files("panels")


def suite_files() -> dict[str, Traversable]:
    """Every shipped suite file by its file stem, from the resource packages of the group `agentbench.suites`."""
    return _yaml_files("suites")


def _yaml_files(kind: str) -> dict[str, Traversable]:
    files: dict[str, Traversable] = {}
    for point in entry_points(kind).values():
        for file in importlib.resources.files(point.value).iterdir():
            if file.name.endswith(".yaml"):
                files[file.name.removesuffix(".yaml")] = file
    return dict(sorted(files.items()))
