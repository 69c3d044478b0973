"""The conformance kit: sound envs pass, and each broken promise is named by the check that is about it."""

import random
from dataclasses import replace

import pytest
from places import ROOT

from agentbench.envs import corridor
from agentbench.envs.corridor import CorridorEnv
from agentbench.errors import ContractError, MissingData
from agentbench.registry import env_spec
from agentbench.testing import check_env
from agentbench.testing.checks import CHECKS

SPEC = corridor.SPEC
EXAMPLES = ROOT / "examples"


def test_the_example_env_passes():
    name = f"{EXAMPLES / 'minimal_env.py'}:SPEC"
    report = check_env(env_spec(name), name=name)
    assert report.skipped.keys() == {
        "fork",
        "ended",
        "oracle",
        "oracle_midway",
        "decoy",
    }  # it has none of these
    assert set(report.figures) == {"make_ms", "reset_ms", "step_ms", "leak_bytes"}


def broken(spec=SPEC, **methods):
    """A corridor with some methods replaced."""
    env_class = type("BrokenEnv", (CorridorEnv,), methods)
    return replace(spec, make=env_class)


def changed_info(**changes):
    def info(self, task):
        result = CorridorEnv._info(self, task) | changes
        return {key: value for key, value in result.items() if value is not None}

    return info


def raising_step(self, action):
    if action.startswith("привет"):
        raise KeyError(action)
    return CorridorEnv.step(self, action)


def random_step(self, action):
    observation, *rest = CorridorEnv.step(self, action)
    return (f"{observation} {random.random()}", *rest)


def constant_draw(self, action):
    random.random()
    return CorridorEnv.step(self, action)


class Shared:
    room = 0


def shared_step(self, action):
    result = CorridorEnv.step(self, action)
    Shared.room += 1
    return (f"{result[0]} {Shared.room}", *result[1:])


def shared_reset(self, **options):
    Shared.room = 0
    return CorridorEnv.reset(self, **options)


def forgetful_reset(self, *, seed=None, options=None):
    worn = getattr(self, "worn", False)
    self.worn = True
    observation, info = CorridorEnv.reset(self, seed=seed, options=options)
    return ("Again: " if worn else "") + observation, info


def live_snapshot(self):
    return self


def live_restore(self, snapshot):
    return snapshot._observation, snapshot._info(snapshot._task)


def patient_step(self, action):
    if self._task is None or self._done:
        return "It is over.", 0.0, True, False, {}
    return CorridorEnv.step(self, action)


def generous_step(self, action):
    if action == "nothing" and self._task and not self._done:
        self._room, action = self._task.goal_room, "open door"
    return CorridorEnv.step(self, action)


def any_task_reset(self, *, seed=None, options=None):
    if options and options.get("task") == "no such task":
        options = {}
    return CorridorEnv.reset(self, seed=seed, options=options)


def info_trusting_info(self, task):
    result = CorridorEnv._info(self, task)
    self._shown = getattr(self, "_shown", None)
    if self._shown is None or self._done:
        self._shown = result["admissible"]
    return result | {"admissible": self._shown}


class Babbler:
    said = 0

    def act(self):
        Babbler.said += 1
        return str(Babbler.said)


SABOTAGE = {
    "reset": [
        broken(_info=changed_info(task_type=None)),
        broken(_info=changed_info(success=0)),
        broken(_info=changed_info(score=0.5, success=True)),
        broken(_info=changed_info(score=1.5)),
        broken(_info=changed_info(admissible=["look", "look"])),
        broken(_info=changed_info(admissible=[" look"])),
        broken(_info=changed_info(extra={1: "keys must be str"})),
        broken(_info=changed_info(extra=(1, 2))),
        broken(reset=lambda self, **o: CorridorEnv.reset(self, **o)[0]),
        broken(reset=lambda self, **o: (b"bytes", CorridorEnv.reset(self, **o)[1])),
        broken(reset=lambda self, **o: ("\ud800", CorridorEnv.reset(self, **o)[1])),
        broken(reset=lambda self, **o: (" ", CorridorEnv.reset(self, **o)[1])),
        broken(reset=forgetful_reset),
        broken(reset=any_task_reset),
        replace(SPEC, make=lambda: "not an env"),
    ],
    "spec": [
        replace(SPEC, id="Corridor"),
        replace(SPEC, gym_id="Corridor"),
        replace(SPEC, max_turns=0),
        replace(SPEC, parser="no such parser"),
        replace(SPEC, prompt="agentbench.prompts:corridor/none"),
        replace(SPEC, metric="elo"),
    ],
    "tasks": [
        replace(SPEC, tasks=lambda split: []),
        replace(SPEC, tasks=lambda split: ["3-2-red-blue-left"] * 2),
        replace(SPEC, tasks=lambda split: ["3-2-red-blue-left"]),  # also for "no such split"
        replace(SPEC, tasks=lambda split: random.sample(corridor.tasks("train"), 600)),
    ],
    "gymnasium": [replace(SPEC, gym_id="agentbench/NotRegistered-v1")],
    "info": [broken(_info=info_trusting_info)],
    "nonsense": [broken(step=raising_step)],
    "deterministic": [broken(step=random_step)],
    "isolated": [broken(step=shared_step, reset=shared_reset)],
    "global_random": [broken(step=constant_draw)],
    "seeded": [
        broken(
            reset=lambda self, *, seed=None, options=None: CorridorEnv.reset(
                self, options=options or {"task": random.choice(corridor.tasks("train"))}
            )
        )
    ],
    "fork": [
        broken(snapshot=live_snapshot),
        broken(snapshot=lambda self: self._room, restore=lambda self, room: self.reset()),
    ],
    "ended": [broken(step=patient_step)],
    "prompt": [replace(SPEC, prompt="agentbench.prompts:alfworld/react")],  # needs info.goal
    "null": [broken(step=generous_step)],
    "oracle": [replace(SPEC, reward_unit=10.0)],
    "decoy": [replace(SPEC, decoy=lambda env, seed: Babbler())],
}


@pytest.mark.parametrize(
    ("check", "spec"),
    [
        pytest.param(check, spec, id=f"{check}-{i}")
        for check, many in SABOTAGE.items()
        for i, spec in enumerate(many)
    ],
)
def test_a_broken_promise_is_named(check, spec):
    earlier = ("gymnasium",) if check != "gymnasium" else ()  # make() differs from the registered class
    with pytest.raises(ContractError, match=f"fails the check '{check}'"):
        check_env(spec, task="7-4-white-black-right", skip=earlier)


def test_an_expert_that_recites_fails_midway():
    class Reciting:
        def __init__(self, env):
            self.lines = iter(["go right", "go right", "go right", "open door"] + ["open door"] * 99)

        def act(self):
            return next(self.lines)

    spec = replace(SPEC, expert=Reciting)
    with pytest.raises(ContractError, match="'oracle_midway'"):
        check_env(spec, task="7-4-white-black-right", seed=3)


def test_absent_files_are_no_broken_promise():
    def absent(split):
        raise MissingData("run: agentbench data fetch corridor")

    with pytest.raises(MissingData, match="data fetch"):
        check_env(replace(SPEC, tasks=absent))


def test_checks_that_do_not_apply_are_listed_with_a_reason():
    spec = replace(broken(can_snapshot=False), expert=None, decoy=None)
    report = check_env(spec, skip=("gymnasium",))
    assert report.skipped == {
        "gymnasium": "left out by the caller",
        "fork": "the env has no snapshots; the rollout replays instead",
        "ended": "the env has no expert",
        "oracle": "the env has no expert",
        "oracle_midway": "the env has no expert",
        "decoy": "the env has no decoy",
        "other_process": "the spec was given as an object, so no other process can load it",
    }


def late(change):
    """A corridor whose other tasks, not its first, break a promise from the second step on."""
    first = SPEC.tasks(SPEC.splits[0])[0]

    class LateEnv(CorridorEnv):
        def step(self, action):
            answer = list(CorridorEnv.step(self, action))
            self.count = getattr(self, "count", 0) + 1
            return tuple(answer) if answer[4]["task"] == first else tuple(change(answer, self.count))

    return replace(SPEC, make=LateEnv)


def put(place, value):
    def change(answer, count):
        answer[place] = value
        return answer

    return change


def info(**own):
    def change(answer, count):
        answer[4] |= {name: value(count) if callable(value) else value for name, value in own.items()}
        return answer

    return change


def clock(answer, count):
    answer[0] += f" {random.random()}"
    return answer


@pytest.mark.parametrize(
    "change",
    [
        clock,
        put(0, None),
        put(0, 7),
        put(0, "half \ud83d"),
        put(1, float("nan")),
        info(own=2**70),
        info(own=float("nan")),
        info(task="another"),
        info(task_type=lambda count: f"type {count}"),
        info(invalid="yes"),
        info(label="x"),
    ],
)
def test_a_promise_that_only_other_tasks_break_is_seen(change):
    with pytest.raises(ContractError, match="fails the check 'every_split'"):
        check_env(late(change), skip=("gymnasium",))


@pytest.mark.parametrize(
    ("command", "parser"),
    [("Go left", "tags:30"), ("go <action>left", "tags:30"), ("go </action>", "tags:30"), ("向左走", "tags:30"),
     ("go\nleft", "plain"), ("go left\u2028now", "plain")],
)  # fmt: skip
def test_a_command_that_no_model_can_give_is_named(command, parser):
    class SpokenEnv(CorridorEnv):
        def _info(self, task):
            known = CorridorEnv._info(self, task)
            return {**known, "admissible": [*known["admissible"], command]}

    with pytest.raises(ContractError, match="fails the check 'spoken'"):
        check_env(replace(SPEC, make=SpokenEnv, parser=parser), skip=("gymnasium",))


def test_tasks_in_the_order_of_a_set_are_seen_by_another_process(tmp_path):
    (tmp_path / "setty.py").write_text(
        "from dataclasses import replace\n"
        "from agentbench.envs.corridor import SPEC as KNOWN\n"
        "SPEC = replace(KNOWN, splits=('train',), tasks=lambda split: tuple(set(KNOWN.tasks('train')[:50])))\n"
    )
    name = f"{tmp_path / 'setty.py'}:SPEC"
    everything_else = tuple(name for name in CHECKS if name != "other_process")
    with pytest.raises(ContractError, match=r"other_process.*PYTHONHASHSEED"):
        check_env(env_spec(name), name=name, skip=everything_else)


OTHERWISE = {
    "hash of a text": "f'{hash(self._task.id)} '",
    "order of a set": "' '.join({'a lamp', 'a mug', 'a key', 'a box', 'a pen'})",
    "address of an object": "repr(object())",
    "number of the process": "str(__import__('os').getpid())",
}


@pytest.mark.parametrize("seen", OTHERWISE.values(), ids=OTHERWISE)
def test_what_only_another_process_shows_is_seen(seen, tmp_path):
    (tmp_path / "bound.py").write_text(
        "from dataclasses import replace\n"
        "from agentbench.envs.corridor import SPEC as KNOWN\n"
        "from agentbench.envs.corridor import CorridorEnv\n"
        "ALWAYS = []\n"
        "class BoundEnv(CorridorEnv):\n"
        "    def step(self, action):\n"
        "        observation, *rest = CorridorEnv.step(self, action)\n"
        f"        ALWAYS or ALWAYS.append({seen})\n"
        "        return (observation + ALWAYS[0], *rest)\n"
        "SPEC = replace(KNOWN, make=BoundEnv)\n"
    )
    name = f"{tmp_path / 'bound.py'}:SPEC"
    rest = tuple(check for check in CHECKS if check != "other_process")
    with pytest.raises(ContractError, match=r"other_process.*at moment 1, not"):
        check_env(env_spec(name), name=name, skip=rest)


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), RuntimeError()])
def test_an_env_that_ends_the_process_is_named(error):
    def ending_step(self, action):
        raise error

    with pytest.raises(ContractError, match=f"with {type(error).__name__}"):
        check_env(broken(step=ending_step), skip=("gymnasium",))


def test_the_running_check_is_told():
    told = []
    check_env(SPEC, progress=told.append)
    assert told == list(CHECKS)
