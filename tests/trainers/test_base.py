import json
import logging
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from trainer_cases import (
    make_run,
    make_trajectory,
    make_turn,
    random_groups,
    same_weights,
    student_weights,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentbench.errors import CorruptData, TrainingError, UsageError
from agentbench.trainers import atod, gkd, grpo, opd
from agentbench.trainers.batch.parts import rows_of_updates
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.figures.alarms import Alarms
from agentbench.trainers.figures.meters import Meters
from agentbench.trainers.student.processes import Processes
from agentbench.training.config import LoraSettings
from agentbench.types import Group


def build(models, settings=None, spec=opd.SPEC, **values):
    return spec.build(make_run(models, spec.id, **values), spec.config(**(settings or {})))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("adapters", [None, LoraSettings(r=2, alpha=4)])
def test_resumed_training_is_the_same_to_the_bit(models, tmp_path, adapters):
    groups = [random_groups(250, seed=seed) for seed in range(4)]
    values = {"lora": adapters, "updates_per_step": 2, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    straight = build(models, spec=atod.SPEC, **values)
    for step in range(2):
        straight.update(groups[step], step)
    straight.save(tmp_path / "checkpoint")
    expected = [straight.update(groups[step], step) for step in (2, 3)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # whatever happened in between
    resumed = build(models, spec=atod.SPEC, **values)
    resumed.load(tmp_path / "checkpoint")
    assert [resumed.update(groups[step], step) for step in (2, 3)] == expected
    assert same_weights(student_weights(straight), student_weights(resumed))


def test_random_states_continue(models, tmp_path):
    trainer = build(models)
    trainer.save(tmp_path)
    expected = (random.random(), float(np.random.rand()), float(torch.rand(1)))
    trainer.load(tmp_path)
    assert (random.random(), float(np.random.rand()), float(torch.rand(1))) == expected


def test_checkpoint_is_a_plain_folder_of_the_model_library(models, tmp_path):
    trainer = build(models)
    trainer.update(random_groups(250), 0)
    trainer.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert model.dtype == torch.float32
    weights = student_weights(trainer)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert (tmp_path / "generation_config.json").is_file()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == models["tokenizer"].get_vocab()
    assert again.chat_template == models["tokenizer"].chat_template


def test_checkpoints_that_do_not_fit_are_refused(models, tmp_path):
    build(models).save(tmp_path / "opd")
    with pytest.raises(UsageError, match="is not a training checkpoint"):
        build(models).load(tmp_path)
    with pytest.raises(UsageError, match="written by algorithm 'opd', this run uses 'atod'"):
        build(models, spec=atod.SPEC).load(tmp_path / "opd")
    state = json.loads((tmp_path / "opd" / "trainer_state.json").read_text())
    shutil.copytree(tmp_path / "opd", tmp_path / "two")
    (tmp_path / "two" / "trainer_state.json").write_text(json.dumps(state | {"num_processes": 2}))
    with pytest.raises(UsageError, match="written by 2 process"):
        build(models).load(tmp_path / "two")
    (tmp_path / "opd" / "optimizer.pt").write_bytes(b"torn")
    with pytest.raises(CorruptData, match="cannot be read"):
        build(models).load(tmp_path / "opd")


# --- safeguards -------------------------------------------------------------------------------------------------------


def test_non_finite_loss_names_step_and_trajectory_and_touches_nothing(models):
    trainer = build(models)
    groups = random_groups(250)
    before = student_weights(trainer)
    score = trainer.teacher.score

    def broken(batch):
        scores = score(batch)
        row = int((batch.traj_B == 4).nonzero()[0, 0])
        scores.logp_BT[row][batch.mask_BT[row]] = float("nan")
        return scores

    trainer.teacher.score = broken
    with pytest.raises(
        TrainingError, match="step 7: the loss is not finite on trajectories 0/1/1;"
    ) as caught:
        trainer.update(groups, 7)
    assert "lower learning_rate" in str(caught.value)
    assert same_weights(before, student_weights(trainer))
    trainer.teacher.score = score
    assert trainer.update(groups, 8).metrics["updates"] == 1.0


def test_non_finite_weights_are_noticed(models):
    trainer = build(models, spec=gkd.SPEC)
    trainer.student.net.plain.model.norm.weight.data[0] = float("inf")
    with pytest.raises(TrainingError, match="is not finite on trajectories"):
        trainer.update(random_groups(250), 0)


def test_nothing_collected_is_a_skipped_step(models):
    broken = make_trajectory("a", [make_turn(0, [1], [2])], end="error")
    for spec in (opd.SPEC, gkd.SPEC):
        trainer = build(models, spec=spec)
        before = student_weights(trainer)
        metrics = trainer.update([Group("t", 0, (broken,))], 0).metrics
        assert metrics["skipped_steps"] == 1.0
        assert metrics["episode_errors"] == 1.0
        assert same_weights(before, student_weights(trainer))


def test_gradient_is_clipped_and_its_norm_reported(models):
    groups = random_groups(250)
    free = build(models, max_grad_norm=1e9).update(groups, 0).metrics
    bound = build(models, max_grad_norm=1e-3)
    seen = []
    step = bound.student.optimizer.step

    def look():
        seen.append(torch.cat([p.grad.flatten() for p in bound.student.trained]).norm())
        step()

    bound.student.optimizer.step = look
    assert bound.update(groups, 0).metrics["grad_norm"] == pytest.approx(free["grad_norm"], rel=1e-5)
    assert float(seen[0]) == pytest.approx(1e-3, rel=1e-3)


def test_another_world_size_than_asked_is_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"num_processes = 4, but 1 process\(es\) were launched"):
        Processes(4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were launched but each trains alone"):
        Processes(1)


# --- updates of one step ----------------------------------------------------------------------------------------------


def test_updates_of_a_step_share_out_whole_trajectories_evenly(models):
    trainer = build(models, updates_per_step=3)
    batch = collate(random_groups(250, groups=4, members=3, fresh=True), trainer.student.pad_id)
    parts = rows_of_updates(batch, trainer.run, 0, list)
    rows = torch.cat(parts)
    assert sorted(rows.tolist()) == list(range(len(batch.tokens_BT)))
    owners = [set(batch.traj_B[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners))
    assert all(abs(len(part) - len(rows) / 3) <= 5 for part in parts)  # an episode has at most 5 rows
    assert [part.tolist() for part in rows_of_updates(batch, trainer.run, 0, list)] == [
        part.tolist() for part in parts
    ]
    assert [part.tolist() for part in rows_of_updates(batch, trainer.run, 1, list)] != [
        part.tolist() for part in parts
    ]


def test_updates_are_counted(models):
    trainer = build(models, updates_per_step=2)
    groups = random_groups(250)
    assert [trainer.update(groups, step).metrics["updates"] for step in range(2)] == [2.0, 4.0]


def test_learning_rate_follows_the_step(models):
    trainer = build(models, learning_rate=0.5, warmup_steps=2)
    rates = [trainer.update(random_groups(250), step).metrics["learning_rate"] for step in (0, 1, 5)]
    assert rates == [0.25, 0.5, 0.5]


def test_plan_is_what_the_run_asks_for(models):
    rollout = {"tasks_per_step": 3, "group_size": 5, "temperature": 0.9, "max_new_tokens": 7}
    plan = build(models, rollout=rollout).plan(0)
    assert (plan.groups, plan.members, plan.mode) == (3, 5, "episode")
    assert (plan.sampling.temperature, plan.sampling.max_new_tokens) == (0.9, 7)


# --- figures and alarms -----------------------------------------------------------------------------------------------


def test_figures_of_the_episodes(models):
    turns = [make_turn(0, [1], [2, 3], reward=1.0, finish="length"), make_turn(1, [4], [5], reward=0.5)]
    broken = make_trajectory("b", [make_turn(0, [1], [2], reward=9.0)], end="error")
    group = Group("t", 0, (make_trajectory("a", turns), broken))
    metrics = build(models).update([group], 0).metrics
    assert metrics["episodes"] == 2.0
    assert metrics["episode_error_share"] == 0.5
    assert metrics["reward"] == 1.5
    assert metrics["turns_per_episode"] == 2.0
    assert metrics["trained_tokens"] == 3.0
    assert metrics["truncated_share"] == 0.5


def test_engine_gap_compares_sampler_and_trainer(models):
    trainer = build(models)
    groups = random_groups(250, groups=1)
    batch = trainer.collate(groups)
    logp_BT = trainer.student.score(batch).logp_BT
    exact = []
    for row, member in enumerate(groups[0].members):
        turns = []
        for turn in member.turns:
            spot = batch.turn_BT[row] == batch.turn_BT[row].max() - len(member.turns) + 1 + turn.index
            said = replace(turn.action, logprobs=tuple((logp_BT[row][spot] + 0.25).tolist()))
            turns.append(replace(turn, action=said))
        exact.append(replace(member, turns=tuple(turns)))
    metrics = trainer.update([Group("g", 0, tuple(exact))], 0).metrics
    assert metrics["engine_gap"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["engine_gap_max"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["alarm/engine_gap"] == 1.0


def test_guided_sampling_has_no_engine_gap(models):
    assert "engine_gap" not in build(models, rollout={"guided": True}).update(random_groups(250), 0).metrics


def test_means_by_depth_in_the_episode(models):
    turns = [make_turn(k, [1], [2]) for k in range(9)]
    batch = collate([Group("t", 0, (make_trajectory("a", turns),))], 0)
    meters = Meters()
    index_BT = batch.index_N[batch.turn_BT.clamp(min=0)].float()
    meters.by_depth("depth", index_BT, batch)
    # turns 0..3: mean 1.5; 4..7: mean 5.5; 8: 8
    assert meters.result(Processes(1)) == {
        "depth/turn_0-3": 1.5,
        "depth/turn_4-7": 5.5,
        "depth/turn_8-15": 8.0,
    }


@pytest.mark.parametrize(
    ("metrics", "name", "words"),
    [
        ({"zero_variance_share": 0.95}, "zero_variance", "95% of the groups"),
        ({"clip_share": 0.5}, "ratio_drift", "moved too far in one step"),
        ({"truncated_share": 0.4}, "truncated", "hit max_new_tokens"),
        ({"episode_error_share": 0.2}, "episode_errors", "20% of the episodes broke"),
        (
            {"teacher_distance/turn_0-3": 0.2, "teacher_distance/turn_8-15": 0.9},
            "gap_by_depth",
            "from 0.20 nats on early turns to 0.90",
        ),
    ],
)
def test_alarms_say_what_is_wrong(caplog, metrics, name, words):
    with caplog.at_level(logging.WARNING):
        assert Alarms().check(metrics, 3) == {f"alarm/{name}": 1.0}
    assert words in caplog.text
    assert "step 3" in caplog.text


def test_entropy_alarm_remembers_the_start_across_a_checkpoint(caplog):
    alarms = Alarms()
    assert alarms.check({"entropy": 2.0}, 0) == {}
    later = Alarms()
    later.load_state(alarms.state())
    assert later.check({"entropy": 0.3}, 1) == {}
    assert later.check({"entropy": 0.1}, 2) == {"alarm/entropy_collapse": 1.0}
    assert "from 2.000 to 0.1000" in caplog.text


def test_healthy_figures_raise_no_alarm():
    healthy = {"zero_variance_share": 0.5, "engine_gap": 1e-4, "clip_share": 0.01, "truncated_share": 0.0}
    depth = {"teacher_distance/turn_0-3": 0.5, "teacher_distance/turn_4-7": 0.6}
    assert Alarms().check({**healthy, **depth, "entropy": 1.0}, 0) == {}


def test_importance_weights_tame_an_engine_of_lower_precision(models):
    groups = random_groups(250)  # their engine says log-prob 0 for every token
    plain = grpo.SPEC.config(ref_kl_coef=0.0)
    capped = grpo.SPEC.config(ref_kl_coef=0.0, importance_cap=2.0)
    norms = [
        grpo.SPEC.build(make_run(models, "grpo", teacher=None), settings)
        .update(groups, 0)
        .metrics["grad_norm"]
        for settings in (plain, capped)
    ]
    # trainer probabilities of about 1/250 against 1: weights far below 1
    assert norms[1] < 0.1 * norms[0]
