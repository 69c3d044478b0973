import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest

from agentbench.env import EnvSpec, TextEnv
from agentbench.envs.corridor import SPEC, tasks
from agentbench.errors import ContractError, CorruptData, EngineDown, UnknownName, UsageError
from agentbench.policies.ready import ExpertPolicy, NullPolicy, RandomPolicy, ReplayPolicy, ScriptedPolicy
from agentbench.policy import Decision, InstantPolicy
from agentbench.rollout.anchors import pick_anchors
from agentbench.rollout.collect import Stage, collect
from agentbench.rollout.episode import Episode, Limits, Start
from agentbench.rollout.schedule import run_episodes
from agentbench.types import Action, Failure, RolloutPlan, Trajectory, Turn, derive_seed

TASKS = tasks("test")[:20]


def episodes(names=TASKS, **values):
    return [Episode(SPEC, name, derive_seed(0, name), **values) for name in names]


def by_task(trajectories):
    return {item.task: item for item in trajectories}


@pytest.mark.parametrize("policy", [ExpertPolicy, RandomPolicy])
def test_concurrency_changes_nothing(policy):
    narrow = by_task(run_episodes(episodes(), policy(), concurrency=1))
    wide = by_task(run_episodes(episodes(), policy(), concurrency=16))
    assert narrow == wide
    assert len(narrow) == len(TASKS)


def test_expert_succeeds_and_null_plays_to_the_turn_limit():
    assert all(item.success and item.end == "terminated" for item in run_episodes(episodes(), ExpertPolicy()))
    for item in run_episodes(episodes(), NullPolicy(), limits=Limits(max_turns=4)):
        assert (item.success, item.end, len(item.turns)) == (False, "max_turns", 4)


def test_replay_repeats_the_recorded_commands():
    recorded = list(run_episodes(episodes(), RandomPolicy()))
    again = by_task(run_episodes(episodes(), ReplayPolicy(recorded)))
    for item in recorded:
        assert [turn.env_action for turn in again[item.task].turns] == [
            turn.env_action for turn in item.turns
        ]
        assert again[item.task].final_observation == item.final_observation


def test_hand_over_from_one_author_to_another():
    authors = ((0, "null"), (2, "expert"))
    runs = run_episodes(episodes(authors=authors), {"null": NullPolicy(), "expert": ExpertPolicy()})
    for item in runs:
        assert [turn.action.author for turn in item.turns[:3]] == ["null", "null", "expert"]
        assert item.success


class Env(TextEnv):
    """Ends after three steps; subclasses break in one way each."""

    made = 0

    def __init__(self, delay=0.0):
        super().__init__()
        type(self).made += 1
        self.delay = delay

    def reset(self, *, seed=None, options=None):
        self.task, self.steps = options["task"], 0
        return "start", self.info()

    def info(self):
        won = self.steps == 3
        return {"task": self.task, "admissible": [], "success": won, "score": float(won), "task_type": "t"}

    def step(self, action):
        self.steps += 1
        if self.task == "slow":
            time.sleep(self.delay)
        if self.task == "broken" and self.steps == 2:
            raise RuntimeError("the server is gone")
        return f"step {self.steps}", 1.0, self.steps == 3, False, self.info()


def spec(make=Env, **values):
    fields = {"prompt": "", "parser": "plain", "max_turns": 10} | values
    return EnvSpec("toy", "agentbench/Toy-v0", make, ("all",), lambda split: ["a"], **fields)


def run(names, toy, **values):
    items = [Episode(toy, name, 0) for name in names]
    return by_task(run_episodes(items, NullPolicy(), **values))


def test_broken_env_is_retried_then_recorded_and_spares_its_siblings():
    Env.made = 0
    done = run(["a", "broken", "b"], spec(), concurrency=3)
    assert done["a"].success
    assert done["b"].success
    broken = done["broken"]
    assert (broken.end, broken.success, broken.ok) == ("error", None, False)
    assert (broken.error.type, broken.error.message, broken.error.where) == (
        "RuntimeError",
        "the server is gone",
        "env",
    )
    assert [turn.observation for turn in broken.turns] == ["start"]
    # one env each for a, b and broken, and a new one for the second try: a broken env is never used again
    assert Env.made == 4


def test_slow_step_is_an_error_of_the_infrastructure():
    done = run(["slow"], spec(), env_options={"delay": 0.05}, limits=Limits(step_seconds=0.01))
    assert done["slow"].error.type == "StepTimeout"
    done = run(["slow"], spec(), env_options={"delay": 0.05}, limits=Limits(episode_seconds=0.06))
    assert done["slow"].error.type == "EpisodeTimeout"


def test_blocking_env_is_stepped_in_threads_and_a_hung_one_is_given_up():
    release = threading.Event()

    class Hanging(Env):
        def step(self, action):
            if self.task == "hung":
                release.wait(30)
            return super().step(action)

    done = run(
        ["hung", "a", "b"],
        spec(Hanging, blocking=True),
        concurrency=3,
        limits=Limits(step_seconds=0.2, retries=0),
    )
    release.set()
    assert done["hung"].error.type == "StepTimeout"
    assert done["a"].success
    assert done["b"].success


def test_slow_episode_delays_nobody():
    order = []

    class Slow(Env):
        def step(self, action):
            if self.task == "slow":
                time.sleep(0.3)
            return super().step(action)

    items = [Episode(spec(Slow, blocking=True), name, 0) for name in ["slow", "a", "b", "c", "d"]]
    for item in run_episodes(items, NullPolicy(), concurrency=2):
        order.append(item.task)
    assert order[-1] == "slow"


def test_corrupt_data_stops_the_run_unless_tolerated():
    class Corrupt(Env):
        def reset(self, *, seed=None, options=None):
            if options["task"] == "bad":
                raise CorruptData("bad.json is torn")
            return super().reset(seed=seed, options=options)

    with pytest.raises(CorruptData, match=r"bad\.json"):
        run(["a", "bad"], spec(Corrupt))
    done = run(["a", "bad"], spec(Corrupt), tolerate_corrupt=True)
    assert done["a"].success
    assert done["bad"].error.type == "CorruptData"


def test_policy_failure_ends_only_its_episode():
    class Fragile(InstantPolicy):
        name = "fragile"

        def command(self, view):
            if view.task == "b":
                raise KeyError("lost")
            return "go"

    items = [Episode(spec(), name, 0) for name in "abc"]
    done = by_task(run_episodes(items, Fragile()))
    assert done["b"].error.where == "policy"
    assert done["a"].success
    assert done["c"].success


def test_invalid_reply_costs_the_penalty_and_reaches_the_env_as_empty_text():
    seen = []

    class Recording(Env):
        def step(self, action):
            seen.append(action)
            return super().step(action)

    class Mumbling(NullPolicy):
        def reply(self, view):
            from agentbench.policy import Decision

            return Decision(Action("?"), None, invalid="no_action")

    items = [Episode(spec(Recording, invalid_penalty=0.1), "a", 0)]
    (item,) = run_episodes(items, Mumbling())
    assert seen == ["", "", ""]
    assert [turn.reward for turn in item.turns] == [0.9, 0.9, 0.9]
    assert [turn.invalid for turn in item.turns] == ["no_action"] * 3


def test_bad_requests():
    with pytest.raises(UsageError, match="concurrency"):
        list(run_episodes(episodes(), NullPolicy(), concurrency=0))
    with pytest.raises(ContractError, match="no policy for author 'teacher'"):
        list(run_episodes(episodes(authors=((0, "teacher"),)), NullPolicy()))


# --- step-level sampling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshots", [True, False])
def test_fork_continues_from_the_state_of_the_anchor(snapshots, monkeypatch):
    monkeypatch.setattr("agentbench.envs.corridor.CorridorEnv.can_snapshot", snapshots)
    (root,) = run_episodes(
        episodes(TASKS[:1]), ScriptedPolicy(["go left", "go right", "go left"]), limits=Limits(max_turns=3)
    )
    items = [Episode(SPEC, root.task, root.seed, id=f"fork{i}", start=Start(root, 2)) for i in range(3)]
    for fork in run_episodes(items, ExpertPolicy()):
        assert fork.turns[:2] == root.turns[:2]
        assert fork.turns[2].observation == root.turns[2].observation
        assert fork.turns[2].action.author == "expert"
        assert (fork.parent.trajectory, fork.parent.turn) == (root.id, 2)
        assert fork.success


def test_replay_that_differs_is_a_broken_contract():
    (root,) = run_episodes(episodes(TASKS[:1]), RandomPolicy(), limits=Limits(max_turns=2))
    changed = Turn(0, "another text", root.turns[0].action, "go left", 0.0)
    forged = Trajectory(root.id, root.env, root.task, root.seed, (changed,), False, 0.0, "max_turns")
    items = [Episode(SPEC, root.task, root.seed, start=Start(forged, 1))]
    with pytest.raises(ContractError, match=r"not deterministic.*turn 0"):
        list(run_episodes(items, ExpertPolicy()))


def said(index, *logprobs):
    return Turn(index, "o", Action("x", range(len(logprobs)), logprobs), "x", 0.0)


def test_anchor_rules():
    turns = (said(0, -0.0), said(1, -2.0, -4.0), said(2, -0.0))
    item = Trajectory("t", "e", "task", 0, turns, True, 1.0, "terminated")
    # only turn 1 has weight under "uncertain": (2 + 4) / 2 = 3 nats against 0
    assert [start.turn for start in pick_anchors([item], 5, "uncertain", 0)] == [1]
    assert sorted(start.turn for start in pick_anchors([item], 5, "uniform", 0)) == [0, 1, 2]
    assert [start.turn for start in pick_anchors([item], 1, "every", 0)] == [0, 1, 2]
    late = [pick_anchors([item], 1, "late", seed)[0].turn for seed in range(3000)]
    # weights 1/3, 2/3, 3/3: the last turn is drawn half of the time; 3 standard errors are 0.027
    assert abs(late.count(2) / 3000 - 0.5) < 0.03
    with pytest.raises(UnknownName, match="'uniform'"):
        pick_anchors([item], 1, "unifrom", 0)
    with pytest.raises(UsageError, match="disagreement"):
        pick_anchors([item], 1, "disagreement", 0)


def test_plans_give_groups_in_order_and_the_same_whatever_the_width():
    policies = {"student": RandomPolicy()}
    plan = RolloutPlan(groups=3, members=4)
    wide = collect(plan, Stage(SPEC, policies, seed=1, concurrency=8), TASKS[:3], step=5)
    narrow = collect(plan, Stage(SPEC, policies, seed=1, concurrency=1), TASKS[:3], step=5)
    assert wide == narrow
    assert [group.key for group in wide] == TASKS[:3]
    assert all(len({member.seed for member in group.members}) == 1 for group in wide)
    assert len({tuple(turn.env_action for turn in member.turns) for member in wide[0].members}) > 1
    # two processes with one and two groups play just the same episodes
    parts = [
        *collect(RolloutPlan(1, 4), Stage(SPEC, policies, seed=1), TASKS[:1], step=5),
        *collect(RolloutPlan(2, 4), Stage(SPEC, policies, seed=1), TASKS[1:3], step=5, first=1),
    ]
    assert parts == wide


def test_step_mode_branches_every_member_at_the_anchor():
    plan = RolloutPlan(groups=3, members=4, mode="step", steps_per_member=1)
    groups = collect(plan, Stage(SPEC, {"student": RandomPolicy()}, seed=1), TASKS[:3], step=0)
    assert len(groups) == 3
    for group in groups:
        assert len(group.members) == 4
        for member in group.members:
            assert len(member.turns) == group.anchor + 1
            assert member.turns[: group.anchor] == group.members[0].turns[: group.anchor]
            assert member.turns[group.anchor].observation == group.members[0].turns[group.anchor].observation


# --- time limits, closing, patience -----------------------------------------------------------------------------------


class Closing(Env):
    """Counts what is made and closed; hangs or breaks in one method for the tasks named after it."""

    living: ClassVar[set[int]] = set()
    release: ClassVar[threading.Event] = threading.Event()

    def __init__(self, delay=0.0):
        super().__init__(delay)
        self.living.add(id(self))

    def _perhaps(self, method):
        if self.task == f"hang {method}":
            self.release.wait(60)
        if self.task == f"break {method}":
            raise OSError("the simulator is gone")

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed, options=options)
        self._perhaps("reset")
        return found

    def step(self, action):
        self._perhaps("step")
        return super().step(action)

    def close(self):
        self.living.discard(id(self))
        self._perhaps("close")


@pytest.fixture
def closing():
    Closing.living.clear()
    Closing.release = threading.Event()
    yield Closing
    Closing.release.set()


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("limits", [Limits(), Limits(step_seconds=30), Limits(episode_seconds=30)])
def test_every_env_is_closed_once_whatever_happens(closing, blocking, limits):
    names = ["a", "break step", "break reset", "break close", "b"]
    done = run(names, spec(closing, blocking=blocking), concurrency=2, limits=limits)
    assert {name for name, item in done.items() if item.error} == {"break step", "break reset"}
    assert closing.living == set()


def test_envs_are_closed_when_nobody_wants_the_rest(closing):
    going = run_episodes([Episode(spec(closing), f"{i}", 0) for i in range(9)], NullPolicy(), concurrency=4)
    next(going)
    going.close()
    assert closing.living == set()


@pytest.mark.parametrize(
    ("task", "blocking", "limits", "error"),
    [
        ("hang step", False, {"step_seconds": 0.2}, "StepTimeout"),
        ("hang step", True, {"step_seconds": 0.2}, "StepTimeout"),
        ("hang step", False, {"episode_seconds": 0.3}, "EpisodeTimeout"),
        ("hang step", True, {"episode_seconds": 0.3}, "EpisodeTimeout"),
        ("hang reset", False, {"episode_seconds": 0.3}, "EpisodeTimeout"),
    ],
)
def test_limits_bound_what_never_returns(closing, task, blocking, limits, error):
    began = time.monotonic()
    done = run([task, "a", "b"], spec(closing, blocking=blocking), limits=Limits(**limits), concurrency=3)
    assert time.monotonic() - began < 30  # without a limit it is 60
    assert done[task].error.type == error
    assert done["a"].success
    assert done["b"].success
    assert closing.living == set()  # closed though the step is still under way


def test_a_close_that_hangs_is_not_waited_for(closing, monkeypatch):
    from agentbench.rollout import workers

    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(workers, "_LAST_SECONDS", 0.1)
    done = run(["hang close", "a"], spec(closing), limits=Limits(step_seconds=30))
    assert done["a"].success
    assert done["hang close"].success


def test_a_hung_thread_does_not_keep_the_process(tmp_path):
    code = tmp_path / "hang.py"
    code.write_text(
        "import time\n"
        "from agentbench.rollout.workers import EnvThreads, Overdue\n"
        "threads = EnvThreads(timed=True)\n"
        "try:\n    threads.call(time.sleep, 600, until=time.monotonic() + 0.1)\n"
        "except Overdue:\n    print('overdue')\n"
    )
    done = subprocess.run(
        [sys.executable, str(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "overdue\n"


class Mute(InstantPolicy):
    """Never answers about the tasks it was given; can wait for a time."""

    name = "mute"

    def __init__(self, silent=()):
        super().__init__()
        self.silent, self.forgotten = silent, []

    def command(self, view):
        return "look"

    def poll(self, timeout=None):
        ready, self._ready = (
            self._ready,
            [item for item in self._ready if item[0].split("/")[1][0] in self.silent],
        )
        answered = [item for item in ready if item not in self._ready]
        if not answered and timeout is not None:
            time.sleep(min(timeout, 0.05))
        return answered

    def forget(self, key):
        self.forgotten.append(key)
        self._ready = [item for item in self._ready if item[0] != key]


def test_the_time_of_an_episode_counts_waiting_and_all_tries(closing):
    policy = Mute(silent="q")
    items = [Episode(spec(closing), name, 0) for name in ("quiet", "a", "b")]
    done = by_task(run_episodes(items, policy, limits=Limits(episode_seconds=0.5, retries=3), concurrency=3))
    assert (done["quiet"].error.type, done["quiet"].error.where) == ("EpisodeTimeout", "engine")
    assert done["a"].success
    assert done["b"].success
    assert policy.forgotten.count("toy/quiet#0") == 1  # tried once: its time was over
    assert closing.living == set()


class Down(InstantPolicy):
    """An engine that gives no answer to the numbered episodes."""

    name = "down"

    def __init__(self, dead):
        super().__init__()
        self.dead = dead

    def reply(self, view):
        if int(view.task) in self.dead:
            failure = Failure("ServerUnavailable", "nobody there", "engine")
            return Decision(Action(""), None, end="error", failure=failure)
        return Decision(Action("x"), "x")


def played(dead, **limits):
    items = [Episode(spec(), str(number), 0) for number in range(12)]
    return run_episodes(items, Down(dead), concurrency=1, limits=Limits(retries=0, **limits))


def test_a_run_of_failures_stops_and_is_not_handed_out():
    done = []
    with pytest.raises(EngineDown, match=r"3 episodes in a row got no usable answer.*nobody there"):
        done.extend(item.task for item in played({1, 4, 5, 6, 7}, give_up_after=3))
    # one failure that somebody's answer followed is on record; the row of three is not
    assert done == ["0", "1", "2", "3"]


def test_failures_at_the_end_are_handed_out_when_they_are_few():
    assert [item.task for item in played({10, 11}, give_up_after=3)] == [str(n) for n in range(12)]
    assert len(list(played(range(12)))) == 12  # no limit


def test_an_episode_may_be_shorter_than_the_run_allows_and_never_longer():
    def turns(own, allowed):
        item = Episode(SPEC, SPEC.tasks("train")[0], 0, max_turns=own)
        (done,) = run_episodes([item], NullPolicy(), limits=Limits(max_turns=allowed))
        return len(done.turns)

    assert turns(2, 5) == 2
    assert turns(5, 2) == 2
    assert turns(None, 3) == 3
    assert turns(4, None) == 4
