"""Keys of the released code: each by hand, each off by default; presets put them together."""

import json
import math
from dataclasses import replace

import pytest
import torch
from trainer_cases import Reference, assert_close, gradient, make_run, random_groups

from agentbench.cli import run as command
from agentbench.config import validate
from agentbench.errors import ConfigError
from agentbench.trainers import atod, gigpo, grpo, lsm, opd, sod, tcod
from agentbench.trainers.batch.parts import rows_of_updates
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.kernels.tokens import token_loss
from agentbench.trainers.maths.losses import clipped_surrogate, low_variance_kl
from agentbench.training.config import TrainConfig, preset_lines

EXACT = {"max_grad_norm": 1e9}
SPECS = {spec.id: spec for spec in (s.SPEC for s in (atod, gigpo, grpo, lsm, opd, sod, tcod))}


def test_all_are_off_by_default():
    for spec in (atod.SPEC, gigpo.SPEC, grpo.SPEC, opd.SPEC, sod.SPEC, tcod.SPEC):
        settings = spec.config()
        assert (settings.dual_clip, settings.entropy_coef) == (None, 0.0)
    assert (grpo.SPEC.config().ref_kl_log_ratio_limit, grpo.SPEC.config().ref_kl_limit) == (None, None)
    assert atod.SPEC.config().first_step == 0
    assert TrainConfig.model_fields["rows_per_update"].default is None


def test_the_penalty_is_clamped_in_its_log_ratio_and_in_its_value():
    # log r = 2: r - log r - 1 = e^2 - 3 = 4.389; clamped to 1: e - 2 = 0.718; its value to 4: 4
    logp = torch.tensor([-3.0, -3.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.0, -2.9, -3.0], dtype=torch.float64)
    plain = low_variance_kl(logp, reference)
    assert plain[0].item() == pytest.approx(math.exp(2) - 3)
    clamped = low_variance_kl(logp, reference, log_ratio_limit=1.0)
    # log r = -2 becomes -1: 1/e + 1 - 1 = 0.368
    assert clamped.tolist() == pytest.approx([math.e - 2, math.exp(0.1) - 1.1, math.exp(-1)])
    (grad,) = torch.autograd.grad(clamped.sum(), logp)
    assert grad.tolist() == pytest.approx([0.0, 1 - math.exp(0.1), 0.0])  # d/dlogp = 1 - r inside, 0 beyond
    assert low_variance_kl(logp, reference, value_limit=4.0)[0].item() == 4.0
    # the released numbers: log r = 25 counts as 20, and the value as 10
    far = low_variance_kl(torch.tensor([-25.0]), torch.tensor([0.0]), log_ratio_limit=20.0, value_limit=10.0)
    assert far.tolist() == [10.0]


def test_dual_clip_bounds_what_a_negative_advantage_can_cost():
    ratio = torch.tensor([5.0, 2.0, 5.0], dtype=torch.float64)
    advantage = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    # min(5 * -1, 1.2 * -1) = -5, no lower than 3 * -1 = -3; -2 is above -3; positive: min(5, 1.2)
    found = clipped_surrogate(ratio, advantage, clip_low=0.2, dual_clip=3.0)
    assert found.tolist() == pytest.approx([-3.0, -2.0, 1.2])


def test_the_entropy_bonus_by_hand_and_by_autograd():
    # two tokens with logits z = h W^T: h = 1, W = (log 3, 0): q = (3/4, 1/4), H = 3/4 log 4/3 + 1/4 log 4
    head = torch.tensor([[math.log(3.0)], [0.0]], dtype=torch.float64)
    hidden = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    token, bonus = torch.tensor([0]), torch.tensor([0.5], dtype=torch.float64)
    found = token_loss(hidden, head, token, lambda logp, rows: 0.0 * logp, vocab_size=2, bonus_N=bonus)
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert found.loss.item() == pytest.approx(-0.5 * entropy)
    found.loss.backward()
    # dH/dz_0 = -q_0 (log q_0 + H), and z_0 = log 3 * h
    by_hand = -0.5 * math.log(3) * -0.75 * (math.log(0.75) + entropy)
    assert hidden.grad.item() == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_entropy_bonus_of_a_run_in_float64(models, temperature):
    groups = random_groups(250)
    run = make_run(models, "opd", rollout={"temperature": temperature}, **EXACT)
    plain = gradient(opd.SPEC.build(run, opd.SPEC.config()), groups)
    ours = gradient(opd.SPEC.build(run, opd.SPEC.config(entropy_coef=0.3)), groups)
    reference = Reference(models)
    tokens = sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)
    bonus = 0.0
    for episode in (member for group in groups for member in group.members):
        for x in reference.log_probs(reference.student, episode):
            q = (x / temperature).log_softmax(-1)
            bonus = bonus + 0.3 * (q.exp() * q).sum() / tokens  # - H
    expected = reference.gradient(bonus)
    assert_close({name: ours[name] - plain[name] for name in ours}, expected, tolerance=2e-4)


def test_the_first_step_moves_both_schedules(models):
    # kappa 1 -> 0.1 and rho 1 -> 2 in 80 steps: at s = 1, 1 - 0.9/80 = 0.98875 and 1 + 1/80 = 1.0125
    settings = atod.SPEC.config(first_step=1)
    metrics = atod.SPEC.build(make_run(models, "atod"), settings).update(random_groups(250), 0).metrics
    assert (metrics["kappa"], metrics["rho"]) == pytest.approx((0.98875, 1.0125))
    metrics = (
        atod.SPEC.build(make_run(models, "atod"), atod.SPEC.config()).update(random_groups(250), 0).metrics
    )
    assert (metrics["kappa"], metrics["rho"]) == (1.0, 1.0)


def cut(batch, trainer, step):
    return rows_of_updates(batch, trainer.run, step, list)


def test_rows_per_update_cuts_turn_rows_each_once(models):
    groups = random_groups(250, fresh=True)
    trainer = opd.SPEC.build(make_run(models, "opd", rows_per_update=7), opd.SPEC.config(clip=0.2))
    batch = trainer.collate(groups)
    parts = cut(batch, trainer, 3)
    rows = len(batch.tokens_BT)
    assert [len(part) for part in parts] == [7] * (rows // 7) + ([rows % 7] if rows % 7 else [])
    assert sorted(torch.cat(parts).tolist()) == list(range(rows))
    assert [part.tolist() for part in cut(batch, trainer, 3)] == [part.tolist() for part in parts]
    assert torch.cat(cut(batch, trainer, 4)).tolist() != torch.cat(parts).tolist()  # shuffled anew
    # the same rows go together whatever their order in the batch
    turned = [replace(group, members=tuple(reversed(group.members))) for group in reversed(groups)]
    other = collate(turned, batch.pad_id)

    def named(table, part):
        return {
            (table.ids_M[table.traj_B[b]], int(table.index_N[table.turn_BT[b].max()])) for b in part.tolist()
        }

    assert [named(other, p) for p in cut(other, trainer, 3)] == [named(batch, p) for p in parts]
    assert trainer.update(groups, 0).metrics["updates"] == len(parts)


def test_one_update_of_all_rows_is_the_plain_update(models):
    groups = random_groups(250, fresh=True)
    whole = gradient(sod.SPEC.build(make_run(models, "sod", **EXACT), sod.SPEC.config()), groups)
    run = make_run(models, "sod", rows_per_update=10_000, **EXACT)
    assert_close(gradient(sod.SPEC.build(run, sod.SPEC.config()), groups), whole)


def values(algorithm, **changes):
    return {
        "algorithm": algorithm,
        "output_dir": "unused",
        "model_name_or_path": "student",
        "env": {"name": "corridor", "split": "train"},
    } | changes


def test_a_preset_stands_under_what_is_set():
    run = validate(
        TrainConfig, values("atod", preset="released", trainer={"dual_clip": None, "min_gap": 0.5})
    )
    settings = validate(atod.SPEC.config, run.trainer)
    assert (run.rows_per_update, settings.entropy_coef, settings.first_step) == (256, 0.001, 1)
    assert (settings.dual_clip, settings.min_gap) == (None, 0.5)
    assert "trainer.dual_clip = None (not 3.0)" in preset_lines(run)
    assert "rows_per_update = 256" in preset_lines(run)
    # the resolved configuration is a valid input and means the same
    assert validate(TrainConfig, run.model_dump(mode="json")) == run
    paper = validate(atod.SPEC.config, validate(TrainConfig, values("atod", preset="paper")).trainer)
    assert (paper.group_stats, paper.reduction, paper.min_turns) == ("trajectory", "trajectory_mean", 1)


def test_a_dry_run_prints_what_became_of_the_preset(models, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    teachers = [{"model_name_or_path": models["teacher"]}]
    chosen = {
        "model_name_or_path": models["student"],
        "teachers": teachers,
        "output_dir": str(tmp_path / "run"),
    }
    file.write_text(json.dumps(values("atod", preset="released", **chosen)))
    assert command(["train", str(file), "trainer.dual_clip=4.0", "--dry-run"]) == 0
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("preset released of atod")
    ]
    assert "rows_per_update = 256" in line
    assert "trainer.first_step = 1" in line
    assert "trainer.dual_clip = 4.0 (not 3.0)" in line


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_preset_is_a_valid_configuration(spec):
    for preset in spec.presets:
        run = validate(TrainConfig, values(spec.id, preset=preset))
        validate(spec.config, run.trainer, "trainer.")


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("sft", {"preset": "released"}, "algorithm 'sft' has no preset 'released'; it has: none"),
        ("lsm", {"preset": "released"}, "it has: paper"),
        ("atod", {"preset": "released", "updates_per_step": 4}, "set one of them, and rows_per_update: null"),
    ],
)
def test_a_preset_that_does_not_apply_is_refused(algorithm, changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(TrainConfig, values(algorithm, **changes))


def test_a_key_without_what_it_limits_is_refused():
    with pytest.raises(ConfigError, match="dual_clip is set but clip is off"):
        validate(opd.SPEC.config, {"dual_clip": 3.0})
    with pytest.raises(ConfigError, match="ref_kl_limit is set but ref_kl_coef is 0"):
        validate(grpo.SPEC.config, {"ref_kl_coef": 0.0, "ref_kl_limit": 10.0})
