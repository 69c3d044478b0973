import statistics

import pytest
import torch
from trainer_cases import (
    Reference,
    assert_close,
    gradient,
    make_run,
    random_groups,
    same_weights,
    student_weights,
)

from agentbench.config import validate
from agentbench.errors import ConfigError
from agentbench.trainers import grpo, opd
from agentbench.trainers.atod import SPEC, AtodConfig


def trained(models, spec, settings, groups, *, teacher="teacher", steps=3, **values):
    run = make_run(models, spec.id, teacher=teacher, tokens_per_micro_batch=64, **values)
    trainer = spec.build(run, settings)
    for step in range(steps):
        trainer.update(groups, step)
    return student_weights(trainer)


@pytest.mark.parametrize("updates", [1, 3])
def test_kappa_one_rho_zero_weights_off_is_opd_to_the_bit(models, updates):
    groups = random_groups(250, groups=4)
    settings = SPEC.config(kappa=1.0, rho=0.0, weights="none")
    ours = trained(models, SPEC, settings, groups, updates_per_step=updates)
    theirs = trained(models, opd.SPEC, opd.SPEC.config(clip=0.2), groups, updates_per_step=updates)
    assert same_weights(ours, theirs)


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("weights", ["turn", "none"])
def test_kappa_zero_rho_one_is_grpo_to_the_bit(models, updates, weights):
    groups = random_groups(250, groups=4)
    settings = SPEC.config(kappa=0.0, rho=1.0, weights=weights)
    ours = trained(models, SPEC, settings, groups, updates_per_step=updates)
    plain = grpo.SPEC.config(ref_kl_coef=0.0)
    theirs = trained(models, grpo.SPEC, plain, groups, teacher=None, updates_per_step=updates)
    assert same_weights(ours, theirs)


def normalised(values):
    low, high = min(values), max(values)
    return [0.5 if high - low < 1e-8 else (value - low) / (high - low) for value in values]


def test_gradient_is_the_float64_one_of_the_papers_formulas(models):
    groups = random_groups(250)
    step = 20  # of 80: kappa = 1 - 0.9 / 4 = 0.775, rho = 1 + 1 / 4 = 1.25
    trainer = SPEC.build(make_run(models, "atod", max_grad_norm=1e9), SPEC.config())
    ours = gradient(trainer, groups, step)
    reference = Reference(models)
    tokens = sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)
    loss = 0.0
    for group in groups:
        # over all turn samples of the group, unbiased std
        rewards = [member.reward for member in group.members for _ in member.turns]
        mean, std = statistics.mean(rewards), statistics.stdev(rewards)
        for episode in group.members:
            q = reference.sampled(reference.student, episode)
            p = reference.sampled(reference.teacher, episode)
            d = normalised([(a - b).abs().mean().item() for a, b in zip(q, p, strict=True)])
            h = normalised([-a.mean().item() for a in q])
            for a, b, d_k, h_k in zip(q, p, d, h, strict=True):
                weight = 1 - (1 - d_k) * (1 - h_k)
                advantage = 0.775 * weight * (b - a).detach() + 1.25 * (episode.reward - mean) / (std + 1e-6)
                loss = loss - (advantage * a).sum() / tokens
    assert_close(ours, reference.gradient(loss), tolerance=5e-5)


def test_coefficients_follow_the_schedule_and_stay_at_its_ends(models):
    groups = random_groups(250)
    trainer = SPEC.build(make_run(models, "atod", max_steps=200), SPEC.config())
    seen = [(m["kappa"], m["rho"]) for m in (trainer.update(groups, s).metrics for s in (0, 40, 80, 150))]
    # linear over 80 steps: 1 -> 0.1 and 1 -> 2
    expected = [(1.0, 1.0), (0.55, 1.5), (0.1, 2.0), (0.1, 2.0)]
    for got, wanted in zip(seen, expected, strict=True):
        assert got == pytest.approx(wanted)


def test_columns_hold_the_weights_of_the_update(models):
    groups = random_groups(250)
    columns = SPEC.build(make_run(models, "atod"), SPEC.config()).update(groups, 0).turn_columns
    for episode in (member for group in groups for member in group.members):
        keys = [(episode.id, turn.index) for turn in episode.turns]
        d = normalised([columns["disagreement"][key] for key in keys])
        h = normalised([columns["uncertainty"][key] for key in keys])
        for key, d_k, h_k in zip(keys, d, h, strict=True):
            assert columns["weight"][key] == pytest.approx(1 - (1 - d_k) * (1 - h_k), abs=1e-5)


def test_short_episodes_are_not_reweighted(models):
    groups = random_groups(250)
    trainer = SPEC.build(make_run(models, "atod"), SPEC.config(min_turns=50))
    update = trainer.update(groups, 0)
    assert update.metrics["weights_active_share"] == 0.0
    assert set(update.turn_columns["weight"].values()) == {1.0}


def test_without_variance_distillation_goes_on(models):
    groups = random_groups(250, members=2)
    same = [type(g)(g.key, 0, (g.members[0],)) for g in groups]
    trainer = SPEC.build(make_run(models, "atod"), SPEC.config())
    before = student_weights(trainer)
    metrics = trainer.update(same, 0).metrics
    assert not same_weights(before, student_weights(trainer))
    assert metrics["skipped_steps"] == 0.0


def test_health_figures_of_the_paper_are_logged(models):
    metrics = SPEC.build(make_run(models, "atod"), SPEC.config()).update(random_groups(250), 0).metrics
    wanted = {"kappa", "rho", "advantage_distillation", "advantage_reward", "turn_weight", "teacher_gap"}
    wanted |= {"weights_active_share", "zero_variance_share", "turn_weight/turn_0-3", "turns_per_episode"}
    assert wanted <= set(metrics)
    assert all(torch.isfinite(torch.tensor(list(metrics.values()))))


def test_token_level_ablation_differs_from_turns(models):
    groups = random_groups(250)
    turn = trained(models, SPEC, SPEC.config(), groups, steps=1)
    token = trained(models, SPEC, SPEC.config(weights="token"), groups, steps=1)
    assert not same_weights(turn, token)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weights": "none", "min_turns": 3}, "'min_turns' is not used with weights 'none'"),
        ({"weights": "token", "mean_preserving": True}, "not used with weights 'token'"),
        ({"kappa": {"kind": "liner"}}, "did you mean 'linear'"),
        ({"rho": {"kind": "linear", "start": 1.0}}, "lacks end, steps"),
    ],
)
def test_bad_keys_are_refused(keys, message):
    with pytest.raises(ConfigError) as caught:
        validate(AtodConfig, keys, "trainer.")
    assert message in str(caught.value).lower()


def test_a_measured_schedule_follows_the_run_and_resumes_exactly(models, tmp_path):
    """Kappa moves by measured gaps; saved in the middle, a run goes on to the same weights and the same kappa."""
    hand_over = {"kind": "handover", "start": 1.0, "end": 0.0, "window": 2, "rate": 0.25, "threshold": 10.0}
    settings = SPEC.config(kappa={**hand_over, "smoothing": 0.0}, rho=0.5)
    run = make_run(models, "atod")
    groups = [random_groups(250, seed=seed) for seed in range(6)]

    def steps(trainer, numbers):
        return [trainer.update(groups[step], step).metrics["kappa"] for step in numbers]

    whole = SPEC.build(run, settings)
    kappas = steps(whole, range(6))
    half = SPEC.build(run, settings)
    first = steps(half, range(3))
    half.save(tmp_path / "checkpoint")
    again = SPEC.build(run, settings)
    again.load(tmp_path / "checkpoint")
    assert first + steps(again, range(3, 6)) == kappas
    assert same_weights(student_weights(again), student_weights(whole))
    assert kappas[0] == 1.0
    assert len(set(kappas)) > 1  # the gap has fallen in some window, so kappa has moved
    assert whole.measured.keys() == {"kappa"}


def test_log_probs_before_the_step_serve_all_of_its_updates(models):
    """Departure: q_old, d, h and the advantages are those before the step, fixed during its inner updates."""
    trainer = SPEC.build(make_run(models, "atod", updates_per_step=3), SPEC.config())
    scored = []
    for owner in (trainer.student, trainer.teacher):
        inner = owner.score
        owner.score = lambda batch, *rest, inner=inner, owner=owner: (
            scored.append((type(owner).__name__, trainer.updates)) or inner(batch, *rest)
        )
    assert trainer.update(random_groups(250, groups=4), 0).metrics["updates"] == 3.0
    assert sorted(scored) == [("LocalTeacher", 0), ("Student", 0)]
