"""Writes the shipped panels, or with --check tells whether they are what would be written.

Official panels need the imported files and are left as they are without them. Only ids and digests are
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
        "search-qa/mini@1",
        "search-qa",
        "mini-test",
        128,
        "Generated encyclopaedia of 5,000 passages, 1 to 4 hops",
    ),
    (
        "search-qa/plain@1",
        "search-qa",
        "plain-test",
        512,
        "Small generated world of bare facts, one search a question",
    ),
    (
        "alfworld/small@1",
        "alfworld",
        "small-test",
        128,
        "Middle-sized generated households, all six task types",
    ),
)
OFFICIAL: tuple[tuple[str, str, str, int | None, str], ...] = (
    ("alfworld/valid-seen@1", "alfworld", "valid_seen", 140, "Official games in rooms seen in training"),
    (
        "alfworld/valid-unseen@1",
        "alfworld",
        "valid_unseen",
        134,
        "As first frozen: 68 of 134 games by hash; use @2",
    ),
    ("search-qa/nq@1", "search-qa", "nq", 3610, "Natural Questions, open, test"),
    ("search-qa/triviaqa@1", "search-qa", "triviaqa", 11313, "TriviaQA, test"),
    ("search-qa/popqa@1", "search-qa", "popqa", 14267, "PopQA, test"),
    ("search-qa/hotpotqa@1", "search-qa", "hotpotqa", 7405, "HotpotQA, dev"),
    ("search-qa/2wikimultihopqa@1", "search-qa", "2wikimultihopqa", 12576, "2WikiMultiHopQA, dev"),
    ("search-qa/musique@1", "search-qa", "musique", 2417, "MuSiQue, dev"),
    ("search-qa/bamboogle@1", "search-qa", "bamboogle", 125, "Bamboogle, test"),
    (
        "search-qa/supported@1",
        "search-qa",
        "supported",
        None,
        "Questions of all seven sets that the small corpus answers",
    ),
    (
        "search-qa/all@1",
        "search-qa",
        "all",
        None,
        "2,048 questions: all of Bamboogle, the other six sets equally",
    ),
    ("humaneval@1", "code", "humaneval", 164, "HumanEval, one program a task"),
    (
        "humaneval-plus-seed@1",
        "code",
        "humaneval-plus-seed",
        164,
        "HumanEval+ of April 2023, seed inputs alone",
    ),
    ("mbpp@1", "code", "mbpp", 971, "MBPP, one program a task"),
    ("mbpp-sanitized@1", "code", "mbpp-sanitized", 427, "Sanitized MBPP, one program a task"),
    ("mbpp-plus@1", "code", "mbpp-plus", 399, "MBPP+ of November 2023, one program a task"),
    (
        "livecodebench-v1-public@1",
        "code",
        "livecodebench-v1-public",
        400,
        "LiveCodeBench v1 (May 2023 to March 2024), public tests only",
    ),
)
ONE_PROGRAM = {"max_turns": 1}
STRICT = {"wording": "strict"}
FROZEN = (
    ("alfworld/valid-seen@2", "valid_seen", "Official games in rooms seen in training (140)"),
    ("alfworld/valid-unseen@2", "valid_unseen", "Official games in rooms not seen in training (134)"),
    ("alfworld/valid@1", "valid", "Both validation splits (274)"),
)
NOTES = {
    "search-qa/nq@1": "The golds of nq-b712eb6c77, nq-c4ce96590b, nq-cff23a3aa1 and nq-e4572a5385 have an empty normal "
    "form (*, ---, closing bracket, A+): every answer covers them.",
    "humaneval-plus-seed@1": "Not the released HumanEval+: not comparable with published scores. Two inputs of "
    "HumanEval/32 are left out, on which the reference itself is wrong.",
    "mbpp@1": "Without 367 and 927, whose tests use Node, and 601, whose tests pass objects of a class of its own: "
    "no program can pass them. 596 needs sys, which only the solution imports; the tester imports it.",
    "mbpp-plus@1": "Mbpp/255 is played without the inputs whose answer has more than 200,000 parts.",
    "livecodebench-v1-public@1": "The private tests are missing: not comparable with the leaderboard.",
}


def panels(unseen: Path | None) -> dict[str, dict[str, Any]]:
    """Build every panel that the files on disk allow, by file name."""
    made: dict[str, dict[str, Any]] = {}
    for panel, env, split, count, description in GENERATED:
        ids = list(env_spec(env).tasks(split))[:count]
        made[_file(panel)] = _head(panel, env, split, description, ids) | {"count": count}
    for panel, env, split, size, description in OFFICIAL:
        try:
            ids = list(env_spec(env).tasks(split))
        except MissingData as error:
            print(f"{panel}: left as it is; {error}")
            continue
        head = _head(panel, env, split, description, ids)
        notes = {"notes": NOTES[panel]} if panel in NOTES else {}
        options = {"env_options": ONE_PROGRAM} if env == "code" else {}
        made[_file(panel)] = (
            head | notes | options | ({"official_size": size} if size else {}) | {"tasks": ids}
        )
    made.update(_by_hash(unseen))
    return made


def _by_hash(unseen: Path | None) -> dict[str, dict[str, Any]]:
    """Panels that name every game by its hash; `unseen` lists the 134 of valid_unseen, one id a line."""
    try:
        seen = list(env_spec("alfworld").tasks("valid_seen"))
        train = list(env_spec("alfworld").tasks("train"))
    except MissingData as error:
        print(f"panels by hash: left as they are; {error}")
        return {}
    if unseen is None:
        print("panels by hash: left as they are; give --unseen FILE")
        return {}
    hashes = unseen.read_text(encoding="utf-8").split()
    ids = {"valid_seen": seen, "valid_unseen": hashes, "valid": [*seen, *hashes]}
    made = {}
    for panel, split, description in FROZEN:
        made[_file(panel)] = _head(panel, "alfworld", split, description, ids[split]) | {
            "env_options": STRICT,
            "tasks": ids[split],
        }
    panel = "alfworld/train@1"
    about = "All official training games (3,553)"
    made[_file(panel)] = _head(panel, "alfworld", "train", about, train) | {
        "env_options": STRICT,
        "count": len(train),
    }
    return made


def _file(panel: str) -> str:
    name, _, version = panel.partition("@")
    return name.replace("/", "-") + (f"-{version}" if version != "1" else "") + ".yaml"


def _head(panel: str, env: str, split: str, description: str, ids: list[str]) -> dict[str, Any]:
    return {"id": panel, "env": env, "split": split, "description": description, "sha256": digest(ids)}


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 where a file differs"
    )
    parser.add_argument("--unseen", type=Path, help="file with the 134 ids of valid_unseen, one a line")
    options = parser.parse_args()
    check = options.check
    stale = 0
    for name, panel in panels(options.unseen).items():
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
