"""`list` and `doctor`: what is installed, and what this machine offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from .output import print_json, print_table

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("list")(list_)
    app.command()(doctor)


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[envs|trainers|engines|panels|suites|prompts|datasets]",
            help="Only these.",
            show_default=False,
        ),
    ] = None,
    json: _Json = False,
) -> None:
    """List the plug-ins that are installed."""
    from ..dialogue.prompt import shipped_prompts
    from ..errors import unknown_name
    from ..evaluation.suite import all_suites
    from ..registry import KINDS, names

    kinds = [*KINDS, "suites", "prompts"]
    if kind is not None and kind not in kinds:
        raise unknown_name("kind of plug-in", kind, kinds)
    special: dict[str, Callable[[], list[str]]] = {
        "suites": lambda: [f"{suite.id}  {suite.description}" for suite in all_suites()],
        "prompts": lambda: list(shipped_prompts()),
    }
    found: dict[str, Any] = {}
    for item in [kind] if kind else kinds:
        if item == "panels":
            found[item] = _panels()
        else:
            found[item] = special[item]() if item in special else names(item)
    if json:
        print_json(found)
        return
    for item, entries in found.items():
        if not kind:
            print(f"{item}:")
        if item == "panels":
            print_table(
                ("panel", "env", "split", "tasks", "about"),
                [(row["id"], row["env"], row["split"], row["tasks"], row["description"]) for row in entries],
            )
        else:
            print("\n".join(entries) or "(none)")
        if not kind:
            print()


def _panels() -> list[dict[str, Any]]:
    from ..evaluation.panels import all_panels

    return [
        {
            "id": panel.id,
            "env": panel.env,
            "split": panel.split,
            "tasks": panel.official_size or panel.count or len(panel.tasks or ()),
            "description": panel.description,
        }
        for panel in all_panels()
    ]


def doctor(json: _Json = False) -> int:
    """Show versions, hardware and data sets, and name combinations known to fail."""
    from ..doctor import examine

    found = examine()
    if json:
        print_json(found)
        return 1 if found["problems"] else 0
    machine = found["hardware"]
    print(f"python {found['python']} ({found['executable']}) on {found['platform']}")
    print(
        f"{machine['cpus']} cpus, {machine['memory_gib']} GiB of memory ({machine['memory_free_gib']} free), "
        f"{len(machine['gpus'])} GPUs"
    )
    for gpu in machine["gpus"]:
        print("  " + ", ".join(gpu.values()))
    print_table(("package", "version"), list(found["packages"].items()))
    print(f"torch built for CUDA: {found['torch_cuda'] or 'no'}; vllm: {found['vllm'] or 'not installed'}")
    print(f"data in {found['data_root']}:")
    for name, item in found["data"].items():
        print(f"  {name}: " + ("present" if item["present"] else f"absent; agentbench data fetch {name}"))
    for way in found["isolation"]:
        said = way["reason"] or f"works: Python {way['python']}, Landlock {way['abi'] or 'missing'}"
        print(f"isolation {way['way']}: {said}")
    if found["isolation"] and all(way["reason"] for way in found["isolation"]):
        print("isolation: none works here; programs of the code tasks will be refused")
    for problem in found["problems"]:
        print(f"problem: {problem['what']}; {problem['remedy']}")
    return 1 if found["problems"] else 0
