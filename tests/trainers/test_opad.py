import pytest
from trainer_cases import assert_close, gradient, make_run, random_groups

from agentbench.config import validate
from agentbench.runs.episodes import decode_episode
from agentbench.runs.files import read_lines
from agentbench.trainers.gkd import SPEC as GKD
from agentbench.trainers.opad import SPEC
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train

EXACT = {"max_grad_norm": 1e9}


def test_on_given_episodes_it_is_the_step_wise_divergence(models):
    groups = random_groups(250)
    ours = gradient(SPEC.build(make_run(models, "opad", **EXACT), SPEC.config(divergence="jsd")), groups)
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


@pytest.mark.parametrize("prefix", ["onpolicy", "reference"])
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
    train(validate(TrainConfig, values), report=lambda line: None)
    lines = read_lines(tmp_path / "run" / "rollouts" / "step-000000.jsonl")
    episodes = [decode_episode(line) for _, line in lines]
    assert 8 <= len(episodes) <= 16  # up to 4 tasks x 2 states x 2 members; short roots hold fewer states
    decisions = 0
    for item in episodes:
        anchor = item.parent.turn
        assert len(item.turns) <= anchor + 1  # one decision after the state
        authors = {turn.action.author for turn in item.turns[:anchor]}
        assert authors <= ({"student"} if prefix == "onpolicy" else {"expert"})
        decided = [turn.index for turn in item.turns if "divergence" in turn.annotations]
        if item.end != "context_full":  # the tiny model's context may end before the decision
            assert decided == [anchor]
            decisions += 1
    assert decisions >= 6
