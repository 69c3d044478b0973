from dataclasses import replace

import pytest
from trainer_cases import (
    Reference,
    assert_close,
    gradient,
    make_run,
    make_trajectory,
    make_turn,
    same_weights,
    student_weights,
)

from agentbench.config import validate
from agentbench.errors import ConfigError, CorruptData, UsageError
from agentbench.runs.episodes import encode_episode
from agentbench.trainers.sft import SPEC, SftConfig
from agentbench.types import Group

MIXED = {"behaviours": {"random": 1.0}}


def build(models, settings=None, **values):
    run = make_run(models, "sft", teacher=None, **({"rollout": MIXED, "max_grad_norm": 1e9} | values))
    return SPEC.build(run, validate(SftConfig, settings or {}))


def handed_over(key="a"):
    turns = [
        make_turn(0, [3, 4], [5], author="mixture"),
        make_turn(1, [6], [7, 8], author="expert"),
        make_turn(2, [9], [10], author="expert"),
    ]
    return make_trajectory(key, turns)


def test_only_the_experts_turns_are_cloned(models):
    ours = gradient(build(models), [Group("t", 0, (handed_over(),))])
    reference = Reference(models)
    said = reference.sampled(reference.student, handed_over())
    loss = -(said[1].sum() + said[2].sum()) / 3  # three expert tokens
    assert_close(ours, reference.gradient(loss))


def test_mixture_mode_clones_every_turn_of_the_mixture_its_experts_included(models):
    ours = gradient(build(models, {"mode": "mixture"}), [Group("t", 0, (handed_over(),))])
    reference = Reference(models)
    said = reference.sampled(reference.student, handed_over())
    count = sum(len(turn) for turn in said)
    assert_close(ours, reference.gradient(-sum(turn.sum() for turn in said) / count))


def test_observations_are_learnt_too_when_asked_for(models):
    # rows 3 5 | 8 9 with prompts 3 and 8: every token but the first is trained
    turns = [make_turn(0, [3], [5]), make_turn(1, [8], [9])]
    episode = replace(make_trajectory("a", turns), turns=tuple(
        replace(turn, fresh=turn.index == 0, action=replace(turn.action, author="mixture")) for turn in turns
    ))  # fmt: skip
    ours = gradient(build(models, {"mode": "mixture", "observations": True}), [Group("t", 0, (episode,))])
    reference = Reference(models)
    all_said = make_trajectory("b", [make_turn(0, [3], [5, 8, 9])])
    assert_close(ours, reference.gradient(-reference.sampled(reference.student, all_said)[0].mean()))


def test_dagger_clones_labels_on_the_students_own_states(models):
    turns = [make_turn(0, [3], [5], label=[6, 7]), make_turn(1, [8], [9], label=[9])]
    ours = gradient(build(models, {"mode": "dagger"}), [Group("t", 0, (make_trajectory("a", turns),))])
    reference = Reference(models)
    first = reference.sampled(reference.student, make_trajectory("x", [make_turn(0, [3], [6, 7])]))
    second = reference.sampled(
        reference.student, make_trajectory("y", [make_turn(0, [3], [5]), make_turn(1, [8], [9])])
    )
    assert_close(ours, reference.gradient(-(first[0].sum() + second[1].sum()) / 3))


def test_take_over_turns_are_drawn_per_episode_and_repeatable(models):
    trainer = build(models, {"takeover": [0, 2]}, rollout={"tasks_per_step": 8, "group_size": 4, **MIXED})
    plan = trainer.plan(3)
    assert plan == trainer.plan(3) != trainer.plan(4)
    assert len(plan.authors) == 32
    assert set(plan.authors) == {
        ((0, "expert"),),
        ((0, "mixture"), (1, "expert")),
        ((0, "mixture"), (2, "expert")),
    }


def test_plans_of_the_other_modes(models, tmp_path):
    assert build(models, {"mode": "dagger"}).plan(0).labels == "expert"
    assert build(models, {"mode": "dagger"}).plan(0).authors == (((0, "student"),),)
    assert build(models, {"mode": "mixture"}).plan(0).authors == (((0, "mixture"),),)
    file = record(tmp_path, [handed_over()])
    assert build(models, {"mode": "file", "path": str(file)}).plan(0).groups == 0


def record(folder, episodes):
    file = folder / "episodes.jsonl"
    numbered = [replace(item, repeat=number) for number, item in enumerate(episodes)]
    file.write_bytes(b"".join(encode_episode(item) + b"\n" for item in numbered))
    return file


def test_file_mode_clones_recorded_authors(models, tmp_path):
    file = record(tmp_path, [handed_over()])
    settings = {"mode": "file", "path": str(file), "authors": ["expert"]}
    assert_close(
        gradient(build(models, settings), []), gradient(build(models), [Group("t", 0, (handed_over(),))])
    )


def test_file_mode_goes_through_all_episodes_before_it_repeats(models, tmp_path):
    file = record(tmp_path, [handed_over(f"e{n}") for n in range(8)])
    trainer = build(models, {"mode": "file", "path": str(file)})  # 2 tasks x 2 members: 4 a step
    drawn = [{item.id for item in trainer._draw(step)} for step in range(2)]
    assert [len(ids) for ids in drawn] == [4, 4]
    assert drawn[0] | drawn[1] == {f"e{n}" for n in range(8)}


def test_file_mode_can_take_successes_only(models, tmp_path):
    lost = replace(handed_over("lost"), success=False)
    file = record(tmp_path, [handed_over("won"), lost])
    trainer = build(models, {"mode": "file", "path": str(file), "successes_only": True})
    assert [item.id for item in trainer.recorded] == ["won"]


@pytest.mark.parametrize(
    ("episodes", "error", "message"),
    [
        ([], UsageError, "has no episode to clone"),
        ([make_trajectory("text", [make_turn(0, [], [])])], UsageError, "has no token ids"),
        ([make_trajectory("big", [make_turn(0, [1], [100000])])], CorruptData, "holds token id 100000"),
    ],
)
def test_files_that_cannot_be_cloned_are_refused(models, tmp_path, episodes, error, message):
    file = record(tmp_path, episodes)
    with pytest.raises(error, match=message):
        build(models, {"mode": "file", "path": str(file)})


def test_missing_file_is_named(models):
    with pytest.raises(UsageError, match="no such file"):
        build(models, {"mode": "file", "path": "/nowhere.jsonl"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "dagger", "takeover": [0, 3]}, "'takeover' is used by mode 'takeover' only"),
        ({"path": "x"}, "'path' is used by mode 'file' only"),
        ({"mode": "file"}, "mode 'file' needs 'path'"),
        ({"takeover": [3, 1]}, "0 <= smallest <= largest"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        validate(SftConfig, keys)


def test_mixed_behaviour_must_be_described(models):
    with pytest.raises(ConfigError, match=r"say which in rollout\.behaviours"):
        build(models, {"mode": "mixture"}, rollout={})
    assert build(models, {"takeover": [0, 0]}, rollout={})  # the expert alone needs none


def test_log_probs_are_at_temperature_one_whatever_the_rollout_does(models):
    one, two = build(models), build(models, rollout={"temperature": 0.5, **MIXED})
    for trainer in (one, two):
        trainer.update([Group("t", 0, (handed_over(),))], 0)
    assert same_weights(student_weights(one), student_weights(two))


def test_cloning_lowers_the_loss(models):
    trainer = build(models, learning_rate=1e-2, max_grad_norm=1.0)
    losses = [trainer.update([Group("t", 0, (handed_over(),))], step).metrics["loss"] for step in range(20)]
    assert losses[-1] < 0.2 * losses[0]


def test_dagger_learns_from_this_steps_states_alone(models):
    # the first step's label of two tokens is not trained again in the second, whose own has one
    trainer = build(models, {"mode": "dagger"})
    trained = [
        trainer.update([Group("t", 0, (make_trajectory(key, [make_turn(0, [3, 4], [5], label=ids)]),))], step)
        for step, (key, ids) in enumerate([("a", [6, 7]), ("b", [8])])
    ]
    assert [update.metrics["trained_tokens"] for update in trained] == [2, 1]
