"""One value that cannot be written down costs its own episode: every kind of it, wherever it comes from."""

import asyncio
import dataclasses
import math

import numpy as np
import pytest

from agentbench.env import EnvSpec, TextEnv
from agentbench.policies.ready import NullPolicy
from agentbench.policy import InstantPolicy
from agentbench.rollout.episode import Episode, Limits
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import decode_episode, encode_episode, taken_line

HALF = "\ud83d"
CIRCLE: dict = {}
CIRCLE["again"] = CIRCLE


class OddEnv(TextEnv):
    """Three steps; `change(step, answer)` spoils what the task "odd" shows."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def reset(self, *, seed=None, options=None):
        self.task, self.steps = options["task"], 0
        answer = self.answer()
        return answer[0], answer[4]

    def step(self, action):
        self.steps += 1
        return tuple(self.answer())

    def answer(self):
        over = self.steps == 3
        info = {
            "task": self.task,
            "admissible": ["wait"],
            "success": over,
            "score": float(over),
            "task_type": "t",
        }
        answer = [f"step {self.steps}", float(over), over, False, info]
        if self.task == "odd":
            self.change(self.steps, answer)
        return answer


def at(where, step, value):
    """Put a value into one place of what the env answers, on one step."""

    def change(now, answer):
        if now == step:
            if isinstance(where, int):
                answer[where] = value
            else:
                answer[4][where] = value

    return change


def lacks(key):
    def change(now, answer):
        if now == 3:
            del answer[4][key]

    return change


class Panic(BaseException):
    """As Rust extensions raise it: no Exception."""


class Neither:
    def __bool__(self):
        raise ValueError("neither")


def short(now, answer):
    if now == 2:
        del answer[4]


class OddMessage(Exception):
    def __str__(self):
        raise ValueError("no message")


def raises(error):
    def change(now, answer):
        if now == 2:
            raise error

    return change


ODD = {
    "half a surrogate pair seen": at(0, 1, f"a {HALF}"),
    "the same seen last": at(0, 3, f"a {HALF}"),
    "the same at reset": at(0, 0, f"a {HALF}"),
    "no observation": at(0, 1, None),
    "observation is bytes": at(0, 2, b"a"),
    "reward NaN": at(1, 1, math.nan),
    "reward infinite": at(1, 2, math.inf),
    "reward is text": at(1, 2, "much"),
    "integer beyond 64 bits": at("own", 1, 2**70),
    "key that is no text": at("own", 1, {1: 2}),
    "surrogate in a value": at("own", 2, [HALF]),
    "surrogate in a key": at("own", 2, {HALF: 1}),
    "an object": at("own", 2, object()),
    "a set": at("own", 2, {1}),
    "a circle": at("own", 2, CIRCLE),
    "bytes": at("own", 2, b"x"),
    "success is missing": lacks("success"),
    "score is missing": lacks("score"),
    "admissible is missing": lacks("admissible"),
    "success is text": at("success", 3, "no"),
    "score NaN": at("score", 3, math.nan),
    "score above 1": at("score", 3, 2.0),
    "score is None": at("score", 3, None),
    "stratum with a surrogate": at("task_type", 3, HALF),
    "command with a surrogate": at("admissible", 1, [HALF]),
    "commands are numbers": at("admissible", 1, [1]),
    "commands are None": at("admissible", 1, None),
    "info is None": at(4, 1, None),
    "four values": short,
    "message with a surrogate": raises(RuntimeError(HALF)),
    "message that cannot be made": raises(OddMessage()),
    "sys.exit": raises(SystemExit(3)),
    "a cancelled task": raises(asyncio.CancelledError()),
    "a panic of Rust": raises(Panic("index out of bounds")),
    "several at once": raises(BaseExceptionGroup("two", [SystemExit(1), ValueError()])),
    "terminated is text": at(2, 1, "no"),
    "terminated is None": at(2, 1, None),
    "terminated is an array": at(2, 1, np.array([True, False])),
    "truncated has no truth": at(3, 1, Neither()),
    "message of 3 MB": raises(RuntimeError("x" * 3_000_000)),
}


def play(change, policy=None, tasks=("a", "odd", "b"), limits=None, blocking=False):
    spec = EnvSpec(
        id="odd",
        gym_id="tests/Odd-v1",
        make=lambda: OddEnv(change),
        splits=("test",),
        tasks=lambda split: tasks,
        prompt="",
        parser="plain",
        max_turns=5,
        blocking=blocking,
    )
    episodes = [Episode(spec, task, seed=1) for task in tasks]
    runs = run_episodes(episodes, policy or NullPolicy(), concurrency=2, limits=limits or Limits(retries=1))
    return {item.task: item for item in runs}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_value_that_cannot_be_written_costs_its_own_episode(change):
    found = play(change)
    odd = found["odd"]
    assert (odd.end, odd.error.where, odd.success) == ("error", "env", None)
    assert odd.error.type
    line = encode_episode(odd)
    assert len(line) < 20_000
    assert all(found[task].success for task in ("a", "b"))


@pytest.mark.parametrize(
    "how", [{"limits": Limits(episode_seconds=60)}, {"blocking": True}], ids=["timed", "in threads"]
)
@pytest.mark.parametrize("name", ["sys.exit", "a panic of Rust", "terminated is text", "no observation"])
def test_the_same_in_threads(name, how):
    found = play(ODD[name], **how)
    assert (found["odd"].end, found["odd"].error.where) == ("error", "env")
    assert all(found[task].success for task in ("a", "b"))


def test_an_interrupt_by_the_user_ends_the_run():
    with pytest.raises(KeyboardInterrupt):
        play(raises(KeyboardInterrupt()))


def test_values_that_json_can_hold_are_kept_as_they_were_then():
    own = {"list": [1]}

    def change(now, answer):
        own["list"].append(now)
        answer[4] |= {"own": own, "number": np.int64(7 + now), "same": 2**70}

    odd = play(change)["odd"]
    assert odd.success
    # one list that grows: each turn keeps the moment's copy. A value that never changes is not written, whatever it is.
    assert [turn.info["own"]["list"] for turn in odd.turns] == [[1, 0, 1], [1, 0, 1, 2], [1, 0, 1, 2, 3]]
    assert [turn.info["number"] for turn in odd.turns] == [8, 9, 10]
    assert "same" not in odd.turns[0].info


def test_an_info_dict_that_the_env_reuses_is_still_compared_with_the_beginning():
    kept = {}

    def change(now, answer):
        kept.update(answer[4], count=now)
        answer[4] = kept

    assert [turn.info for turn in play(change)["odd"].turns] == [{"count": n} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "say", [f"look {HALF}", None, 7, b"look"], ids=["surrogate", "none", "number", "bytes"]
)
def test_an_author_who_says_what_cannot_be_written_spoils_his_own_episode(say):
    class Odd(InstantPolicy):
        def command(self, view):
            return say if view.task == "odd" else "wait"

    found = play(lambda now, answer: None, Odd())
    assert (found["odd"].end, found["odd"].error.where) == ("error", "policy")
    assert found["a"].success
    import orjson

    assert decode_episode(orjson.loads(encode_episode(found["odd"]))) == found["odd"]


def test_an_episode_brings_its_line_which_copies_and_what_is_on_file_have_not():
    found = play(at("score", 1, math.nan))
    for item in found.values():  # scored and broken ones
        assert item.line == encode_episode(item)
        assert dataclasses.replace(item, task_type="other").line is None
        assert (taken_line(item), item.line) == (encode_episode(item), None)
