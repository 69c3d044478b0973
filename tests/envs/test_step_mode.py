"""Step mode in every environment: a state that is restored shows exactly what the episode showed that it comes from."""

import pytest

from agentbench.policies.ready import ExpertPolicy, RandomPolicy
from agentbench.registry import entry_points, env_spec
from agentbench.rollout.collect import Stage, collect
from agentbench.types import RolloutPlan

SPLITS = {
    "alfworld": "mini-test",
    "code": "mini-test",
    "code-tool": "mini-test",
    "corridor": "test",
    "search-qa": "mini-test",
    "webshop": "mini-test",
}
ROOTS, MEMBERS = 3, 2


def test_every_environment_of_ours_is_looked_at():
    ours = {n for n, point in entry_points("envs").items() if point.value.startswith("agentbench.envs.")}
    assert ours == set(SPLITS)


def run(name, author, steps):
    """Groups of branches at up to four states of each root, and the roots, by task."""
    spec = env_spec(name)
    expert = (((0, "expert"),),)
    plan = RolloutPlan(
        ROOTS,
        MEMBERS,
        "step",
        "every",
        (((0, author),),),
        roots=expert,
        most_per_root=4,
        steps_per_member=steps,
        max_turns=12,
    )
    policies = {"expert": ExpertPolicy(), "random": RandomPolicy()}
    tasks = spec.tasks(SPLITS[name])[:ROOTS]
    stage = Stage(spec, policies, seed=1, concurrency=4)
    whole = collect(RolloutPlan(ROOTS, 1, authors=expert, max_turns=12), stage, tasks, step=0)
    return collect(plan, stage, tasks, step=0), {group.key: group.members[0] for group in whole}


@pytest.mark.parametrize("name", SPLITS)
def test_restored_states_show_what_was_seen_and_branches_do_not_mix(name):
    groups, roots = run(name, "random", 1)
    assert len(groups) >= ROOTS
    for group in groups:
        wanted = roots[group.members[0].task].turns[: group.anchor + 1]
        for member in group.members:
            assert member.ok
            assert member.parent.turn == group.anchor
            # up to the anchor and the state itself: observation by observation, command by command
            assert [turn.observation for turn in member.turns] == [turn.observation for turn in wanted]
            assert [turn.env_action for turn in member.turns[:-1]] == [
                turn.env_action for turn in wanted[:-1]
            ]


@pytest.mark.parametrize("name", SPLITS)
def test_who_goes_on_as_the_root_did_ends_as_it_ended(name):
    groups, roots = run(name, "expert", None)
    for member in (member for group in groups for member in group.members):
        root = roots[member.task]
        assert [turn.observation for turn in member.turns] == [turn.observation for turn in root.turns]
        assert [turn.reward for turn in member.turns] == [turn.reward for turn in root.turns]
        assert (member.final_observation, member.success) == (root.final_observation, root.success)
