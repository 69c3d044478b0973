"""Checks that look beyond one task: every split, every command through the parser, other hash seeds, the recorder.

Leaves out the checks that play one task in depth (`checks`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..dialogue.parse import Parser, get_parser
from ..dialogue.prompt import load_prompt
from ..env import RESERVED_KEYS, EnvSpec
from ..errors import MissingData
from ..policies.ready import ExpertPolicy, RandomPolicy
from ..policy import InstantPolicy
from ..rollout.episode import Episode, Limits
from ..rollout.schedule import run_episodes
from ..runs.episodes import decode_episode, encode_episode
from ..types import Trajectory
from .player import Broken, EnvPlayer, Skip, require, short

_OTHER_SECONDS = 120.0
_OTHER = """
import contextlib, json, sys
from agentbench.registry import env_spec
from agentbench.testing.breadth import seen_elsewhere
with contextlib.redirect_stdout(sys.stderr):
    found = seen_elsewhere(env_spec(sys.argv[1]), json.load(sys.stdin))
print(json.dumps(found))
"""
_HASH_SEED = "1"


def spread(player: EnvPlayer) -> Iterator[tuple[str, str]]:
    """(split, task): the first, middle and last task of every split that has its files, `player.tasks` of each."""
    for split in player.spec.splits:
        try:
            ids = list(player.spec.tasks(split))
        except MissingData:
            continue
        count = min(max(player.tasks, 1), len(ids))
        places = {round(number * (len(ids) - 1) / max(1, count - 1)) for number in range(count)}
        for place in sorted(places):
            yield split, ids[place]


def check_other_process(player: EnvPlayer) -> None:
    """Another process, with another hash seed, lists the same tasks in the same order and shows the same episodes."""
    if not player.name:
        raise Skip("the spec was given as an object, so no other process can load it")
    there = [split for split in player.spec.splits if _has_files(player, split)]
    scripts = {task: player.on(task).script() for task in dict.fromkeys(task for _, task in spread(player))}
    asked = {"seed": player.seed, "options": player.options, "splits": there, "scripts": scripts}
    here = seen_elsewhere(player.spec, asked)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER, player.name],
        env={**os.environ, "PYTHONHASHSEED": _HASH_SEED},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=_OTHER_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise Broken(f"another process cannot play: {done.stderr.strip().splitlines()[-1:]}")
    listed = json.loads(done.stdout.splitlines()[-1])
    why = f"in a process with PYTHONHASHSEED={_HASH_SEED}: a set's order, hash(), or the process's own state?"
    for split in there:
        require(here["tasks"][split] == listed["tasks"][split], f"tasks({split!r}) differ {why}")
    for task in scripts:
        for turn, (mine, theirs) in enumerate(
            zip(here["episodes"][task], listed["episodes"][task], strict=True)
        ):
            require(
                mine == theirs,
                f"task {task!r} shows {short(theirs)} at moment {turn}, not {short(mine)}, {why}",
            )


def seen_elsewhere(spec: EnvSpec, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a process sees of a spec: the tasks of splits, and every moment of some scripts as text."""
    spec = spec.under(asked["options"])
    episodes: dict[str, list[str]] = {}
    for task, actions in asked["scripts"].items():
        player = EnvPlayer(spec, task, seed=asked["seed"], steps=len(actions), options=asked["options"])
        moments = player.play(player.make(), actions)
        episodes[task] = [orjson.dumps(moment).decode() for moment in moments]
    return {"tasks": {split: list(spec.tasks(split)) for split in asked["splits"]}, "episodes": episodes}


def _has_files(player: EnvPlayer, split: str) -> bool:
    try:
        player.spec.tasks(split)
    except MissingData:
        return False
    return True


def check_every_split(player: EnvPlayer) -> None:
    """On more tasks of every split: types, equal actions give equal episodes, and what may not change does not."""
    for split, task in spread(player):
        other = player.on(task)
        try:
            actions = other.script()
            first, second = (other.play(other.make(), actions) for _ in range(2))
            for turn, (was, now) in enumerate(zip(first, second, strict=True)):
                require(was == now, f"moment {turn} differs when the same commands are given again")
                kind, seen = first[0].info["task_type"], was.info["task_type"]
                require(seen == kind, f"task_type was {kind!r} at reset and is {seen!r} at moment {turn}")
                reserved = sorted(set(RESERVED_KEYS) & set(was.info))
                require(not reserved, f"info uses the reserved keys {reserved}; name them otherwise")
        except Broken as error:
            raise Broken(f"task {task!r} of split {split!r}: {error}") from None


def check_spoken(player: EnvPlayer) -> None:
    """Every admissible and every expert command comes back from the parser as it was said."""
    spec = player.spec
    parser = get_parser(load_prompt(spec.prompt).parser or spec.parser)
    for _, task in spread(player):
        other = player.on(task)
        env = other.make()
        now = other.start(env)
        expert = spec.expert(env) if spec.expert is not None else None
        for _ in range(min(spec.max_turns, other.steps)):
            for command in now.info["admissible"]:
                _must_come_back(parser, command)
            commands = now.info["admissible"]
            command = expert.act() if expert is not None else (commands[0] if commands else "nothing")
            if expert is not None:
                _must_come_back(parser, command)
            now = other.step(env, command)
            if now.over:
                break


def _must_come_back(parser: Parser, command: str) -> None:
    parsed = parser.parse(parser.format(command))
    if (parsed.command, parsed.failure) != (command, ""):
        failure = f" and counts as {parsed.failure!r}" if parsed.failure else ""
        raise Broken(
            f"the command {short(command)} does not come through the parser {parser.name!r}: it arrives as "
            f"{short(str(parsed.command))}{failure}, so no model can give it; reword the commands or change the parser"
        )


def check_recorded(player: EnvPlayer) -> None:
    """Episodes on more tasks are put on record and read back equal, the expert's and those of random commands."""
    spec = player.spec
    policies: list[InstantPolicy] = [RandomPolicy(), *([ExpertPolicy()] if spec.expert is not None else [])]
    tasks = [task for _, task in spread(player)]
    for policy in policies:
        for item in _play(player, policy, tasks):
            if item.error is not None:
                raise Broken(
                    f"task {item.task!r} cannot be played by {policy.name!r}: {item.error.type}: {item.error.message}"
                )
            back = decode_episode(json.loads(encode_episode(item)))
            require(back == item, f"the record of task {item.task!r} changes when it is read back")


def _play(player: EnvPlayer, policy: InstantPolicy, tasks: Sequence[str]) -> list[Trajectory]:
    episodes = [Episode(player.spec, task, player.seed) for task in dict.fromkeys(tasks)]
    limits = Limits(max_turns=min(player.spec.max_turns, player.steps), retries=0)
    return list(run_episodes(episodes, policy, concurrency=1, limits=limits, env_options=player.options))
