"""Guards of the house: who may import whom, sizes, packaging declarations, light imports."""

import ast
import subprocess
import sys
import tomllib

import pytest
from places import ROOT

FOLDERS = ("agentbench", "envs", "trainers", "prompts")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
HEAVY = {"torch", "transformers", "accelerate", "peft", "vllm", "textworld", "alfworld", "spacy", "trl"}
FORBIDDEN = {
    "agentbench": ("agentbench.envs", "agentbench.trainers", "agentbench.prompts"),
    "envs": (
        "agentbench.trainers",
        "agentbench.engines",
        "agentbench.training",
        "agentbench.cli",
        "agentbench.evaluation",
    ),
    "trainers": ("agentbench.envs", "agentbench.cli", "agentbench.evaluation", "agentbench.training.log"),
    "prompts": ("agentbench",),
}
ROOMS = {
    "agentbench": [
        *(
            "errors",
            "foreign",
            "machine",
            "types",
            "env",
            "config",
            "models",
            "engine",
            "policy",
            "trainer",
            "runs",
            "registry",
        ),
        *(
            "dialogue",
            "rollout",
            "engines",
            "datasets",
            "retrieval",
            "policies",
            "testing",
            "doctor",
            "bridges",
        ),
        *("evaluation", "training", "cli"),
    ],
    "agentbench.trainers": [
        *("references", "maths", "batch", "kernels", "student", "teachers", "figures"),
        *("objectives", "base", "surrogate", "decisions", "preconditions"),
    ],
}
"""Rooms in the order of who may import whom: only what stands before. Algorithms come last, and never meet."""
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def imports(tree):
    """Absolute module names imported, with whether the import is at module level and its relative depth."""
    top = {id(node) for node in tree.body}
    for block in tree.body:
        if isinstance(block, ast.Try):
            top |= {id(node) for node in block.body}
    typing_only = {
        id(node)
        for block in tree.body
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in block.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, id(node) in top, 0
        elif isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            yield node.module or "", id(node) in top, node.level


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_import_table_and_the_size_limits(path):
    folder = path.relative_to(ROOT).parts[0]
    source = path.read_text()
    tree = ast.parse(source)
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for name, top, level in imports(tree):
        root = name.split(".")[0]
        if level:
            depth = len(path.relative_to(ROOT).parts) - 1
            assert level <= depth, f"relative import leaves the package: {name}"
            continue
        assert root not in ("envs", "trainers", "prompts"), f"import by folder name: {name}"
        for banned in FORBIDDEN[folder]:
            assert name != banned, f"{folder} may not import {name}"
            assert not name.startswith(f"{banned}."), f"{folder} may not import {name}"
        if folder == "envs":
            assert root != "torch", "environments never import torch"
        if root in HEAVY and folder != "trainers":
            assert not top, f"import {root} inside the function that needs it"
        if folder in ("envs", "trainers"):
            assert not name.startswith(f"agentbench.{folder}"), f"import siblings relatively: {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"
    assert path.stem not in ("utils", "helpers", "common", "misc")


def module_name(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "agentbench" else ["agentbench", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported_modules(name):
    """Modules of this project that a module imports, inside functions too; what only type checkers see is left out."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text())
    unseen = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module
                for alias in node.names
            }
    return (found & MODULES.keys()) - {name}


@pytest.mark.parametrize("house", ROOMS)
def test_a_room_imports_only_rooms_that_stand_before_it(house):
    order = {room: place for place, room in enumerate(ROOMS[house])}
    depth = house.count(".") + 1
    wrong = []
    for name in MODULES:
        parts = name.split(".")
        if not name.startswith(f"{house}.") or (
            house == "agentbench" and parts[1] in ("envs", "trainers", "prompts")
        ):
            continue
        for other in imported_modules(name):
            if not other.startswith(f"{house}."):
                continue
            room, theirs = parts[depth], other.split(".")[depth]
            last = len(order)  # an algorithm: any room may be used, another algorithm may not
            if room != theirs and order.get(theirs, last) >= order.get(room, last):
                wrong.append(f"{name} imports {other}")
    assert not wrong
    if house == "agentbench":
        known = {name.split(".")[1] for name in MODULES if name.count(".")} - {"envs", "trainers", "prompts"}
        assert known - {"__main__"} == set(order), "a room of the core has no place in the order"


def test_there_is_no_import_circle():
    done, circles = set(), []

    def visit(name, path):
        if name in path:
            circles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in sorted(imported_modules(name)):
                visit(other, [*path, name])
            done.add(name)

    for name in MODULES:
        visit(name, [])
    assert not circles


def test_declared_packages_are_the_folders_with_an_init():
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(parts if folder == "agentbench" else ("agentbench", *parts)))
    assert declared == found


def test_entry_points_resolve():
    from importlib.metadata import entry_points

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, points in project["entry-points"].items():
        installed = {point.name: point for point in entry_points(group=group)}
        for name, value in points.items():
            assert installed[name].value == value, f"{group}:{name} changed; install the package again"
            installed[name].load()


@pytest.mark.parametrize(
    "statement",
    [
        "import agentbench",
        "import agentbench.cli",
        "import agentbench.rollout.schedule, agentbench.evaluation.evaluate, agentbench.training.loop",
    ],
)
def test_core_imports_no_torch(statement):
    code = f"{statement}\nimport sys\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_public_class_name_means_one_thing():
    homes = {}
    for name, path in MODULES.items():
        if name.split(".")[1:2] in (["envs"], ["prompts"]):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
