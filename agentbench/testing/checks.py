"""The checks of the conformance kit, in the order in which a failure is easiest to understand.

Each takes an `EnvPlayer` and raises `Broken` or `Skip`. Leaves out how a failure is reported (`conformance`).
"""

from __future__ import annotations

import copy
import gc
import pickle
import random
import re
import statistics
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from ..dialogue.parse import get_parser
from ..dialogue.prompt import load_prompt
from ..errors import MissingData, UsageError
from .breadth import check_every_split, check_other_process, check_recorded, check_spoken
from .player import NONSENSE, Broken, EnvPlayer, Moment, Skip, require, short

_GYM_ID = re.compile(r"[\w-]+/[\w-]+-v\d+")


def check_spec(player: EnvPlayer) -> None:
    """The EnvSpec is filled in sensibly; its prompt and parser exist."""
    spec = player.spec
    require(spec.id != "" and spec.id == spec.id.lower(), f"id must be lower case, got {spec.id!r}")
    shaped = _GYM_ID.fullmatch(spec.gym_id) is not None
    require(shaped, f"gym_id must look like 'namespace/Name-v1', got {spec.gym_id!r}")
    require(len(spec.splits) > 0, "splits is empty")
    require(spec.max_turns >= 1, f"max_turns must be at least 1, got {spec.max_turns}")
    require(spec.history >= 0, f"history must not be negative, got {spec.history}")
    known = spec.metric in ("success", "score")
    require(known, f"metric must be 'success' or 'score', got {spec.metric!r}")
    get_parser(spec.parser)
    load_prompt(spec.prompt)


def check_tasks(player: EnvPlayer) -> None:
    """Every split that has its files lists the same unique ids at every call."""
    missing: MissingData | None = None
    for split in player.spec.splits:
        try:
            ids = list(player.spec.tasks(split))
        except MissingData as error:
            missing = error
            continue
        require(len(ids) > 0, f"tasks({split!r}) is empty; raise MissingData when files are absent")
        text = all(isinstance(task, str) and task for task in ids)
        require(text, f"tasks({split!r}) must be strings that are not empty")
        repeated = [task for task, times in Counter(ids).items() if times > 1]
        require(not repeated, f"tasks({split!r}) repeats {repeated[:3]}")
        require(ids == list(player.spec.tasks(split)), f"tasks({split!r}) changes from call to call")
        player.task = player.task or ids[0]
    if not player.task:
        raise missing or Broken("no split has tasks")
    _must_refuse("tasks() of an unknown split", lambda: player.spec.tasks("no such split"))


def check_reset(player: EnvPlayer) -> None:
    """A reset to a named task starts that task afresh, whatever was played before."""
    env = player.make()
    first = copy.deepcopy(player.start(env))
    require(not first.info["success"], "the task is solved before the first step")
    require(first.observation.strip() != "", "the first observation is blank")
    player.step(env, "nothing")
    _same("reset() after a step", first, player.start(env))
    _must_refuse("reset() to an unknown task", lambda: env.reset(options={"task": "no such task"}))


def check_gymnasium(player: EnvPlayer) -> None:
    """The env is a registered Gymnasium env and passes Gymnasium's own checker without a warning."""
    gym_id = player.spec.gym_id
    if gym_id not in gymnasium.registry:
        raise Broken(
            f"{gym_id!r} is not registered; call agentbench.env.register_gymnasium(SPEC, 'module:EnvClass')"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(gym_id, disable_env_checker=True, **player.options).unwrapped
        gymnasium_check_env(env, skip_render_check=type(env).render is gymnasium.Env.render)


def check_nonsense(player: EnvPlayer) -> None:
    """No action raises, however odd."""
    env = player.make()
    player.start(env)
    for action in NONSENSE:
        if player.step(env, action).over:
            player.start(env)


def check_deterministic(player: EnvPlayer) -> None:
    """Equal actions give equal episodes, in another instance and in a used one."""
    actions = player.script()
    kept = player.play(player.make(), actions)
    again = player.make()
    _same_run("in a second instance", kept, player.play(again, actions))
    _same_run("in a used instance", kept, player.play(again, actions))


def check_info(player: EnvPlayer) -> None:
    """What the caller does to a returned info does not reach the env."""
    actions = player.script()
    kept = player.play(player.make(), actions)
    env = player.make()
    now = player.start(env)
    seen = [copy.deepcopy(now)]
    for action in actions:
        for value in now.info.values():
            if isinstance(value, list | dict):
                value.clear()
        now.info.clear()
        now = player.step(env, action)
        seen.append(copy.deepcopy(now))
    _same_run("when the caller changes the infos it was given", kept, seen)


def check_isolated(player: EnvPlayer) -> None:
    """Two instances that take turns do not meet in shared state."""
    actions = player.script()
    kept = player.play(player.make(), actions)
    one, other = player.make(), player.make()
    seen, now = [copy.deepcopy(player.start(one))], player.start(other)
    for action in actions:
        command = now.info["admissible"][-1] if now.info["admissible"] else "nothing"
        now = player.start(other) if now.over else player.step(other, command)
        seen.append(copy.deepcopy(player.step(one, action)))
    _same_run("while another instance plays", kept, seen)


def check_global_random(player: EnvPlayer) -> None:
    """The env leaves the process-wide random generators alone."""

    def states() -> tuple[Any, bytes]:
        return random.getstate(), pickle.dumps(np.random.get_state())

    before = states()
    player.play(player.make(), player.script())
    require(before == states(), "the env draws from a global random generator; use self.np_random")


def check_seeded(player: EnvPlayer) -> None:
    """A reset that names no task draws one by the seed alone."""
    drawn = [player.make().reset(seed=player.seed)[1]["task"] for _ in range(2)]
    require(drawn[0] == drawn[1], f"equal seeds draw different tasks: {drawn[0]!r} and {drawn[1]!r}")


def check_fork(player: EnvPlayer) -> None:
    """A snapshot brings back its moment in any instance, pickled or not, and playing on does not change it."""
    env = player.make()
    if not env.can_snapshot:
        raise Skip("the env has no snapshots; the rollout replays instead")
    actions = player.script()
    kept = player.play(env, actions)
    for turn in sorted({0, len(actions) // 2, len(actions)}):
        player.play(env, actions[:turn])
        state = env.snapshot()
        pickled = pickle.dumps(state)
        _same_run("after snapshot()", kept[turn + 1 :], player.go_on(env, actions[turn:]))
        for where, target, value in (
            ("in the same instance", env, state),
            ("in a fresh instance, pickled", player.make(), pickle.loads(pickled)),
        ):
            back = player.moment(f"restore() {where}", target.restore(value))
            was = kept[turn]
            _same(f"restore() {where} at step {turn}", Moment(was.observation, was.info), back)
            rest = player.go_on(target, actions[turn:])
            _same_run(f"after restore() {where} at step {turn}", kept[turn + 1 :], rest)


def check_ended(player: EnvPlayer) -> None:
    """Stepping before the first reset or after the end raises Gymnasium's ResetNeeded; a reset helps."""
    env = player.make()
    _must_need_reset("a step before the first reset", env)
    player.start(env)
    player.solve(env)
    _must_need_reset("a step after the end", env)
    player.start(env)


def check_null(player: EnvPlayer) -> None:
    """An agent that always says "nothing" fails."""
    env = player.make()
    now = player.start(env)
    for _ in range(player.spec.max_turns):
        if not now.over:
            now = player.step(env, "nothing")
    solved = now.info["success"] or now.info["score"] == 1.0
    require(not solved, 'an agent that says "nothing" solves the task')


def check_prompt(player: EnvPlayer) -> None:
    """The env's prompt fills its slots and shows the observation, on the first turn and later."""
    prompt = load_prompt(player.spec.prompt)
    env = player.make()
    now = player.start(env)
    history: list[tuple[str, str]] = []
    for turn in (1, 2):
        slots = {
            "observation": now.observation,
            "admissible": now.info["admissible"],
            "history": history,
            "turn": turn,
            "steps": turn - 1,
            "max_turns": player.spec.max_turns,
            "info": now.info,
        }
        shown = now.observation.strip() in prompt.message(slots, first=turn == 1)
        require(shown, f"turn {turn} of the prompt {prompt.name!r} does not show the observation")
        history = [(now.observation, "nothing")]
        now = player.step(env, "nothing")


def check_oracle(player: EnvPlayer) -> None:
    """The expert succeeds and is paid `reward_unit`."""
    env = player.make()
    player.start(env)
    last, total = player.solve(env)
    require(last.info["success"], f"the expert ends without success: {short(last.observation)}")
    unit = player.spec.reward_unit
    require(abs(total - unit) < 1e-9, f"a solved episode pays {total}, but reward_unit is {unit}")


def check_oracle_midway(player: EnvPlayer) -> None:
    """The expert goes on from states that it did not choose: here after three random commands."""
    draw = random.Random(player.seed + 1)
    env = player.make()
    for _ in range(10):  # further tries where random commands end the episode
        now = player.start(env)
        for _ in range(3):
            if not now.over and now.info["admissible"]:
                now = player.step(env, draw.choice(now.info["admissible"]))
        if not now.over:
            last, _reward = player.solve(env)
            require(last.info["success"], "the expert fails from a state that it did not choose")
            return
    raise Skip("random commands end every episode")


def check_decoy(player: EnvPlayer) -> None:
    """The decoy gives commands to the end, and the same ones for the same seed."""
    if player.spec.decoy is None:
        raise Skip("the env has no decoy")
    said: list[list[str]] = []
    for _ in range(2):
        env = player.make()
        now = player.start(env)
        decoy = player.spec.decoy(env, player.seed)
        said.append([])
        while not now.over and len(said[-1]) < player.spec.max_turns:
            said[-1].append(decoy.act())
            now = player.step(env, said[-1][-1])
    require(said[0] == said[1], "equal seeds give decoys that say different things")


def measure_figures(player: EnvPlayer) -> dict[str, float]:
    """Time make, reset and step, and count the bytes that each further episode keeps."""
    actions = player.script()
    task = {"task": player.task}
    makes = [_milliseconds(player.make) for _ in range(3)]
    env = player.make()
    resets, steps, kept_bytes = [], [], []
    for _ in range(4):
        resets.append(_milliseconds(partial(env.reset, options=task)))
        steps += [_milliseconds(partial(env.step, action)) for action in actions]
    tracemalloc.start()
    try:
        for _ in range(4):
            player.play(env, actions)
            gc.collect()
            kept_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return {
        "make_ms": statistics.median(makes),
        "reset_ms": statistics.median(resets),
        "step_ms": statistics.median(steps),
        "leak_bytes": max(0.0, (kept_bytes[3] - kept_bytes[1]) / 2),
    }


CHECKS: dict[str, Callable[[EnvPlayer], dict[str, float] | None]] = {
    "spec": check_spec,
    "tasks": check_tasks,
    "reset": check_reset,
    "gymnasium": check_gymnasium,
    "nonsense": check_nonsense,
    "deterministic": check_deterministic,
    "info": check_info,
    "isolated": check_isolated,
    "global_random": check_global_random,
    "seeded": check_seeded,
    "fork": check_fork,
    "ended": check_ended,
    "null": check_null,
    "prompt": check_prompt,
    "oracle": check_oracle,
    "oracle_midway": check_oracle_midway,
    "decoy": check_decoy,
    "other_process": check_other_process,
    "every_split": check_every_split,
    "spoken": check_spoken,
    "recorded": check_recorded,
    "figures": measure_figures,
}
"""Every check by name, in playing order."""


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _must_refuse(what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except UsageError:
        return
    raise Broken(f"{what} must raise agentbench.errors.UnknownName")


def _must_need_reset(what: str, env: gymnasium.Env[str, str]) -> None:
    try:
        env.step("nothing")
    except gymnasium.error.ResetNeeded:
        return
    raise Broken(f"{what} must raise gymnasium.error.ResetNeeded")


def _same(where: str, expected: Moment, seen: Moment) -> None:
    for name in ("observation", "info", "reward", "terminated", "truncated"):
        was, now = getattr(expected, name), getattr(seen, name)
        if name == "info" and was != now:
            differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
            raise Broken(f"{where}: info differs in {', '.join(differing)}")
        require(was == now, f"{where}: {name} was {short(str(was))}, is {short(str(now))}")


def _same_run(where: str, expected: Sequence[Moment], seen: Sequence[Moment]) -> None:
    for turn, (was, now) in enumerate(zip(expected, seen, strict=True)):
        _same(f"{where}, moment {turn}", was, now)
