from dataclasses import replace

import pytest

from agentbench.runs.folder import Timings
from agentbench.runs.report import render
from agentbench.runs.stats import wilson
from agentbench.runs.summary import Assignment, Summary, summarise
from agentbench.types import Action, Failure, Trajectory, Turn

PLAN = Assignment(
    id="toy/test@1", sha256="0" * 64, digest="1" * 64, env="toy", rules="1", split="all", tasks=4, repeats=1
)


def episode(task, success, *, turns=1, kind="", repeat=0, tokens=0, context=0, invalid="", end="terminated"):
    said = Action("x", (7,) * tokens, (-0.1,) * tokens)
    return Trajectory(
        id=f"{task}#{repeat}",
        env="toy",
        task=task,
        seed=0,
        turns=tuple(Turn(i, "", said, "x", 0.0, (1,) * context, invalid=invalid) for i in range(turns)),
        success=success,
        score=float(success),
        end=end,
        repeat=repeat,
        task_type=kind,
    )


def broken(task, error="RuntimeError"):
    return Trajectory(
        id=task, env="toy", task=task, seed=0, turns=(), success=None, score=0.0, end="error",
        error=Failure(error, "broke", "env"),
    )  # fmt: skip


def summary(episodes, tasks=4, repeats=1, **keys):
    plan = PLAN.model_copy(update={"tasks": tasks, "repeats": repeats})
    return summarise(episodes, plan, {"policy": "test"}, **keys)


def test_figures_by_hand():
    found = summary(
        [
            episode("a", True, turns=3, kind="pick", tokens=2, context=10),
            episode(
                "b", False, turns=5, kind="pick", tokens=4, context=20, invalid="no_action", end="max_turns"
            ),
            episode("c", True, turns=1, kind="heat", tokens=6, context=30),
        ],
        tasks=3,
    )
    assert found.overall.success == wilson(2, 3)
    assert found.overall.turns == 3.0  # (3 + 5 + 1) / 3
    assert found.overall.turns_won == 2.0  # (3 + 1) / 2
    assert found.sampled_tokens == pytest.approx(32 / 3)  # 3*2 + 5*4 + 1*6 = 32
    assert found.prompt_tokens == pytest.approx(160 / 3)  # 3*10 + 5*20 + 1*30 = 160
    assert found.invalid == {"no_action": 5}
    assert found.turns_total == 9
    assert found.ends == {"max_turns": 1, "terminated": 2}
    assert {name: rates.success.value for name, rates in found.task_types.items()} == {
        "heat": 1.0,
        "pick": 0.5,
    }
    assert not found.fell_short


def test_replies_without_a_command_are_unread_although_their_last_words_are_played():
    found = summary(
        [episode("a", False, turns=3, invalid="no_action"), episode("b", True, invalid="no_think")]
    )
    assert (found.unread, found.turns_total, found.unread_reply) == (3, 4, "x")
    assert "3 of 4 replies held no command (no_action 3, no_think 1), the first of them: 'x'" in render(found)


def test_errors_are_never_failures():
    items = [episode("a", True), episode("b", True), episode("c", False), broken("d")]
    found = summary(items, max_error_rate=0.25)
    assert found.overall.success == wilson(2, 3)
    assert found.errors == {"RuntimeError": 1}
    assert found.error_rate == 0.25
    assert not found.withheld


def test_above_the_allowed_share_of_errors_nothing_is_scored():
    items = [episode("a", True), episode("b", True), episode("c", False), broken("d")]
    found = summary(items, max_error_rate=0.24)
    assert found.withheld
    assert (found.overall, found.task_types, found.pass_at_k) == (None, {}, {})


def test_corrupt_tasks_are_missing_and_no_errors():
    found = summary([episode("a", True), broken("b", "CorruptData")], tasks=2)
    assert (found.missing, found.errors, found.error_rate, found.fell_short) == (("b",), {}, 0.0, False)


def test_only_errors_leave_nothing_to_score():
    found = summary([broken("a")], tasks=1, max_error_rate=1.0)
    assert (found.overall, found.error_rate) == (None, 1.0)


def test_an_unfinished_run_fell_short():
    assert summary([episode("a", True)], tasks=2).fell_short


def test_pass_at_k_averages_tasks_with_enough_episodes():
    items = [episode("a", True, repeat=0), episode("a", False, repeat=1)]
    items += [episode("b", False, repeat=0), episode("b", False, repeat=1)]
    items += [episode("c", True, repeat=0)]  # its second repeat broke
    found = summary(items, tasks=3, repeats=2)
    assert found.pass_at_k[1] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found.pass_at_k[2] == pytest.approx((1 + 0) / 2)


def test_the_order_of_the_records_does_not_matter():
    items = [episode(name, name in "ac", turns=i + 1, kind=name) for i, name in enumerate("abcd")]
    assert summary(items) == summary(items[::-1])


def test_without_yes_no_outcomes_only_the_score_is_given():
    items = [episode("a", True), episode("b", True)]
    object.__setattr__(items[0], "success", None)
    found = summary(items, tasks=2)
    assert found.overall.success is None
    assert found.overall.score.value == 1.0


def test_seconds_come_from_the_timings():
    items = [episode("a", True), episode("b", True)]
    found = summary(items, timings=Timings({("a", 0): 1.0, ("b", 0): 3.0}, 3.5))
    assert (found.seconds, found.episode_seconds) == (3.5, 2.0)
    assert summary(items).seconds is None


def _turn(index, command, finish="stop", shown=None, **info):
    return Turn(index, "", Action("x", finish=finish), command, 0.0, shown=shown or {}, info=info)


def _played(*turns):
    return summary([replace(episode("a", False), turns=turns)], tasks=1)


def test_replies_that_were_cut_are_counted():
    found = _played(_turn(0, "a", "length"), _turn(1, "b"), _turn(2, None, "length"))
    assert (found.cut, found.turns_total) == (2, 3)


def test_commands_that_are_not_on_offer_are_counted():
    offered = {"admissible": ["look", "go"]}
    found = _played(
        _turn(0, "look", shown=offered), _turn(1, "fly", shown=offered), _turn(2, None, shown=offered)
    )
    assert (found.refused, found.commands) == (1, 2)


def test_the_envs_own_verdict_comes_before_its_list():
    offered = {"admissible": ["search[<your query>]"], "valid": True}
    refused = {"admissible": ["search[<your query>]"], "valid": False}
    # turn 0 searches, which is on no list; turn 1 is refused, as turn 2 was shown; turn 2 is, by its own info
    turns = [
        _turn(0, "search[a]", shown=offered),
        _turn(1, "x", shown=offered),
        _turn(2, "y", shown=refused, valid=False),
    ]
    assert _played(*turns).refused == 2


def test_an_env_without_list_and_verdict_counts_no_refusals():
    assert _played(_turn(0, "a"), _turn(1, "b")).refused is None


def own(task, success, kind, *values):
    """An episode of an env with a number of its own; the last turn's counts, an absent one is 0."""
    item = episode(task, success, turns=len(values), kind=kind, tokens=2)
    turns = [
        replace(turn, info={} if value is None else {"hops": value})
        for turn, value in zip(item.turns, values, strict=True)
    ]
    return replace(item, turns=tuple(turns))


def test_an_envs_own_numbers_and_the_means_over_its_task_types():
    plan = PLAN.model_copy(update={"tasks": 4, "figures": ("hops",), "sizes": {"a": 300, "b": 100}})
    episodes = [
        own("1", True, "a", 1, 3),
        own("2", False, "a", 1),
        own("3", True, "b", None),
        own("4", True, "b", 2),
    ]
    found = summarise(episodes, plan, {"policy": "test"})
    assert found.overall.figures == {"hops": 1.5}  # (3 + 1 + 0 + 2) / 4
    assert found.overall.sampled_tokens == 2.5  # 4 + 2 + 2 + 2 tokens
    assert found.task_types["a"].figures == {"hops": 2.0}
    assert found.means["macro"].success.value == 0.75  # (0.5 + 1) / 2
    assert found.means["macro"].figures == {"hops": 1.5}  # (2 + 1) / 2
    assert found.means["by official size"].success.value == 0.625  # (3 * 0.5 + 1 * 1) / 4
    assert found.means["by official size"].figures == {"hops": 1.75}  # (3 * 2 + 1 * 1) / 4
    page = render(found)
    assert "| tasks | n | success | 95 % interval | hops | sampled tokens |" in page
    assert "| mean, by official size | 4 | 62.5 % |" in page
    assert Summary.model_validate(found.model_dump()) == found


def test_there_is_no_mean_over_types_where_one_has_no_official_size():
    plan = PLAN.model_copy(update={"tasks": 2, "figures": ("hops",), "sizes": {"a": 300, "b": 100}})
    for kinds in (("a", "c"), ("a", "a")):
        found = summarise(
            [own("1", True, kinds[0], 1), own("2", True, kinds[1], 1)], plan, {"policy": "test"}
        )
        assert found.means == {}


def test_pages_of_an_env_without_numbers_of_its_own_do_not_mention_any():
    found = summary([episode("1", True, kind="a")]).model_dump()
    assert "means" not in found
    assert not {"figures", "sampled_tokens"} & set(found["overall"])
    assert not {"figures", "sizes"} & set(found["plan"])
