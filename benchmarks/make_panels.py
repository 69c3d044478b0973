"""Writes the shipped panels, or with --check tells whether they are what would be written.

Official panels need the imported ALFWorld files and are left as they are without them. Only ids and digests are
written. A panel that has been published is never changed: raise its version instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from agentbench.errors import MissingData
from agentbench.evaluation.panels import digest
from agentbench.registry import env_spec

FOLDER = Path(__file__).parents[1] / "envs" / "panels"

GENERATED = (
    ("corridor/test@1", "corridor", "test", 128, "The toy: leave by the named door"),
    ("alfworld/mini@1", "alfworld", "mini-test", 128, "Small generated households, all six task types"),
    (
        "code/mini@1",
        "code",
        "mini-test",
        256,
        "Generated programs of one or two steps, three programs a task",
    ),
    (
        "code/small@1",
        "code",
        "small-test",
        256,
        "Generated programs of two to four steps, three programs a task",
    ),
    (
        "alfworld/small@1",
        "alfworld",
        "small-test",
        128,
        "Middle-sized generated households, all six task types",
    ),
)
OFFICIAL = (
    ("alfworld/valid-seen@1", "valid_seen", 140, "Official games in rooms seen in training"),
    ("alfworld/valid-unseen@1", "valid_unseen", 134, "Official games in rooms not seen in training"),
)


# Code: every split as it is published, played with one program a task; the defects are those of `formats.DEFECTS`.
CODE = (
    ("humaneval@1", "humaneval", 164, "HumanEval, one program a task"),
    (
        "humaneval-plus-seed@1",
        "humaneval-plus-seed",
        164,
        "HumanEval+ of April 2023 with its seed inputs alone; not comparable with published HumanEval+ scores",
    ),
    (
        "mbpp@1",
        "mbpp",
        971,
        "MBPP without 367, 601 and 927, which no program can pass; 596 with sys imported",
    ),
    ("mbpp-sanitized@1", "mbpp-sanitized", 427, "Sanitized MBPP, one program a task"),
    (
        "mbpp-plus@1",
        "mbpp-plus",
        399,
        "MBPP+ of November 2023; Mbpp/255 without its answers of more than 200,000 parts",
    ),
    (
        "livecodebench-v1-public@1",
        "livecodebench-v1-public",
        400,
        "LiveCodeBench v1 (May 2023 to March 2024), public tests only; not comparable with its leaderboard",
    ),
)


def panels() -> dict[str, dict[str, Any]]:
    """Build every panel that the files on disk allow, by file name."""
    made: dict[str, dict[str, Any]] = {}
    for panel, env, split, count, description in GENERATED:
        ids = list(env_spec(env).tasks(split))[:count]
        made[_file(panel)] = _head(panel, env, split, description, ids) | {"count": count}
    for panel, split, size, description in OFFICIAL:
        try:
            ids = list(env_spec("alfworld").tasks(split))
        except MissingData as error:
            print(f"{panel}: left as it is; {error}")
            continue
        made[_file(panel)] = _head(panel, "alfworld", split, description, ids) | {
            "official_size": size,
            "tasks": ids,
        }
    for panel, split, size, description in CODE:
        try:
            ids = list(env_spec("code").tasks(split))
        except MissingData as error:
            print(f"{panel}: left as it is; {error}")
            continue
        made[_file(panel)] = _head(panel, "code", split, description, ids) | {
            "official_size": size,
            "env_options": {"max_turns": 1},
            "tasks": ids,
        }
    return made


def _file(panel: str) -> str:
    return panel.partition("@")[0].replace("/", "-") + ".yaml"


def _head(panel: str, env: str, split: str, description: str, ids: list[str]) -> dict[str, Any]:
    return {"id": panel, "env": env, "split": split, "description": description, "sha256": digest(ids)}


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 where a file differs"
    )
    check = parser.parse_args().check
    stale = 0
    for name, panel in panels().items():
        text = yaml.safe_dump(panel, sort_keys=False, width=1000)
        path = FOLDER / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            print(f"{name}: up to date")
        elif check:
            stale += 1
            print(f"{name}: differs from what this release makes")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{name}: written")
    return int(stale > 0)


if __name__ == "__main__":
    raise SystemExit(main())
