from dataclasses import replace

import pytest
from trainer_cases import assert_close, gradient, make_run, make_trajectory, make_turn, random_groups

from agentbench.config import validate
from agentbench.envs.corridor import SPEC as CORRIDOR
from agentbench.errors import ConfigError
from agentbench.policies.ready import ExpertPolicy
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import decode_episode, encode_episode
from agentbench.runs.files import read_lines
from agentbench.trainers.gkd import SPEC as GKD
from agentbench.trainers.opad import SPEC
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train
from agentbench.types import Group, Parent

EXACT = {"max_grad_norm": 1e9}


@pytest.mark.parametrize("step_reduce", ["mean", "sum"])
def test_on_given_episodes_it_is_the_step_wise_divergence(models, step_reduce):
    """Whole episodes are their own roots with one state each: either way the sum over an episode's turns, then mean."""
    groups = random_groups(250)
    chosen = SPEC.config(divergence="jsd", step_reduce=step_reduce)
    ours = gradient(SPEC.build(make_run(models, "opad", **EXACT), chosen), groups)
    settings = GKD.config(divergence="jsd", reduction="turn_sum")
    assert_close(ours, gradient(GKD.build(make_run(models, "gkd", **EXACT), settings), groups))


def test_the_divergence_follows_the_envs_replies(models):
    assert SPEC.build(make_run(models, "opad"), SPEC.config()).divergence == "jsd"
    assert (
        SPEC.build(make_run(models, "opad"), SPEC.config(divergence="forward_kl")).divergence == "forward_kl"
    )


def test_teacher_equal_to_the_student_teaches_nothing(models):
    run = make_run(models | {"teacher": models["student"]}, "opad", weight_decay=0.0, **EXACT)
    found = gradient(SPEC.build(run, SPEC.config()), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


@pytest.mark.parametrize("prefix", ["onpolicy", "reference", "replay"])
def test_decisions_are_made_in_restored_states_and_only_they_are_trained(models, tmp_path, prefix):
    values = {
        "algorithm": "opad",
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": models["student"],
        "teachers": [{"model_name_or_path": models["teacher"]}],
        "env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript", "max_turns": 6},
        "rollout": {"tasks_per_step": 4, "group_size": 2, "max_new_tokens": 6},
        "trainer": {"prefix": prefix, "states_per_episode": 2},
        "max_steps": 1,
        "learning_rate": 1e-3,
    }
    if prefix == "replay":
        tasks = CORRIDOR.tasks("train")[:6]
        recorded = run_episodes([Episode(CORRIDOR, task, 5) for task in tasks], ExpertPolicy())
        (tmp_path / "episodes.jsonl").write_bytes(b"".join(encode_episode(item) + b"\n" for item in recorded))
        values["rollout"]["recordings"] = str(tmp_path)
        values["env"]["num_tasks"] = 6
    train(validate(TrainConfig, values), report=lambda line: None)
    lines = read_lines(tmp_path / "run" / "rollouts" / "step-000000.jsonl")
    episodes = [decode_episode(line) for _, line in lines]
    assert 8 <= len(episodes) <= 16  # up to 4 tasks x 2 states x 2 members; short roots hold fewer states
    decisions = 0
    for item in episodes:
        anchor = item.parent.turn
        assert len(item.turns) <= anchor + 1  # one decision after the state
        authors = {turn.action.author for turn in item.turns[:anchor]}
        assert authors <= {{"onpolicy": "student", "reference": "expert", "replay": "replay"}[prefix]}
        decided = [turn.index for turn in item.turns if "divergence" in turn.annotations]
        if item.end != "context_full":  # the tiny model's context may end before the decision
            assert decided == [anchor]
            decisions += 1
    assert decisions >= 6


def test_the_sum_over_states_is_their_mean_times_the_states_of_an_episode(models):
    """Root r had states at turns 0 and 1 with two members each, root s one: 3 states of 2 roots, M = 1.5."""

    def fork(key, root, turn):
        turns = [make_turn(index, [5 + index, 6], [7, 8]) for index in range(turn + 1)]
        return replace(make_trajectory(key, turns), parent=Parent(root, turn))

    groups = [
        Group("a", 0, (fork("0", "r", 0), fork("1", "r", 0))),
        Group("b", 1, (fork("2", "r", 1), fork("3", "r", 1))),
        Group("c", 0, (fork("4", "s", 0), fork("5", "s", 0))),
    ]
    found = {
        how: gradient(SPEC.build(make_run(models, "opad", **EXACT), SPEC.config(step_reduce=how)), groups)
        for how in ("mean", "sum")
    }
    assert_close(found["sum"], {name: 1.5 * x for name, x in found["mean"].items()})


def test_the_plan_says_who_plays_to_the_state_and_how_many_are_drawn(models, tmp_path):
    trainer = SPEC.build(make_run(models, "opad"), SPEC.config(anchors="every", most_states=3))
    plan = trainer.plan(0)
    assert (plan.mode, plan.anchors, plan.most_per_root) == ("step", "every", 3)
    assert plan.roots == (((0, "student"),),)
    with pytest.raises(ConfigError, match="prefix 'replay' needs recorded episodes"):
        SPEC.refuse(make_run(models, "opad"), SPEC.config(prefix="replay"))
    recorded = make_run(models, "opad", rollout={"recordings": str(tmp_path)})
    with pytest.raises(ConfigError, match="the others use none"):
        SPEC.refuse(recorded, SPEC.config())
