import pytest
import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.maths import turn_weights as tw
from agentbench.trainers.maths import turns as tn
from agentbench.trainers.maths.turn_weights import DisagreementUncertainty as Config


def long(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def turns(gaps: list[float], surprises: list[float], tokens: list[int] | None = None) -> tw.TurnStatistics:
    return tw.TurnStatistics(
        torch.tensor(gaps),
        torch.tensor(surprises),
        long(*(tokens if tokens is not None else [1] * len(gaps))),
    )


def weights(gaps, surprises, traj=None, tokens=None, **options) -> list[float]:
    traj = long(*(traj or [0] * len(gaps)))
    return tw.disagreement_uncertainty(
        turns(gaps, surprises, tokens), traj, int(traj.max()) + 1, Config(**options)
    ).weight_N.tolist()


# ---- sums, means, spreads ----


def test_turn_sums_and_means_by_hand():
    # turn 0 has 1, 2, 3 (over two rows): sum 6, mean 2; turn 1 has 4; turn 2 is empty; -1 is context
    x = torch.tensor([[1.0, 2.0, 100.0], [3.0, 4.0, 100.0]])
    turn = torch.tensor([[0, 0, -1], [0, 1, -1]])
    assert tn.turn_sum(x, turn, 3).tolist() == [6.0, 4.0, 0.0]
    assert tn.turn_mean(x, turn, 3).tolist() == [2.0, 4.0, 0.0]
    assert tn.per_token(torch.tensor([5.0, 7.0, 9.0]), turn).tolist() == [[5.0, 5.0, 0.0], [5.0, 7.0, 0.0]]


def test_turn_mean_carries_the_gradient():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    turn = torch.tensor([[0, 0, -1], [0, 1, -1]])
    assert torch.autograd.gradcheck(lambda x: tn.turn_mean(x, turn, 3), x)


def test_context_never_leaks_even_if_it_holds_nan():
    x = torch.tensor([[1.0, torch.nan]])
    assert tn.turn_mean(x, torch.tensor([[0, -1]]), 1).tolist() == [1.0]


def test_turn_statistics_by_hand():
    # turn 0: |-1 - -3| = 2 and |-2 - -2| = 0: d = 1; h = (1 + 2)/2 = 1.5. turn 1: |-4 - -1| = 3; h = 4
    old = torch.tensor([[-1.0, -2.0, -4.0, 0.0]])
    teacher = torch.tensor([[-3.0, -2.0, -1.0, 9.0]])
    got = tw.turn_statistics(old, teacher, torch.tensor([[0, 0, 1, -1]]), 2)
    assert got.disagreement_N.tolist() == [1.0, 3.0]
    assert got.uncertainty_N.tolist() == [1.5, 4.0]
    assert got.tokens_N.tolist() == [2, 1]


def test_padding_and_row_cuts_change_no_statistic():
    old, teacher = -torch.rand(1, 6), -torch.rand(1, 6)
    turn = torch.tensor([[0, 0, 1, 1, 1, 2]])
    plain = tw.turn_statistics(old, teacher, turn, 3)

    def cut(x: Tensor, fill: float) -> Tensor:
        rows = torch.full((2, 7), fill, dtype=x.dtype)
        rows[0, :4], rows[1, :2] = x[0, :4], x[0, 4:]
        return rows

    padded = tw.turn_statistics(cut(old, 5.0), cut(teacher, -5.0), cut(turn, -1), 3)
    torch.testing.assert_close(padded.disagreement_N, plain.disagreement_N)
    torch.testing.assert_close(padded.uncertainty_N, plain.uncertainty_N)


# ---- disagreement-uncertainty ----


def test_soft_or_of_three_turns_by_hand():
    # d = 1, 2, 3 -> 0, .5, 1 ; h = .4, .2, .4 -> 1, 0, 1
    # w = 1 - (1-0)(1-1) = 1 ; 1 - .5 * 1 = .5 ; 1 - 0 * 0 = 1
    assert weights([1, 2, 3], [0.4, 0.2, 0.4]) == pytest.approx([1.0, 0.5, 1.0])
    # d = 1, 2, 5 -> 0, .25, 1 ; h = 0, .5, 2 -> 0, .25, 1 : w = 0 ; 1 - .75^2 = .4375 ; 1
    assert weights([1, 2, 5], [0, 0.5, 2]) == pytest.approx([0.0, 0.4375, 1.0])


def test_constant_statistics_give_three_quarters():
    # both count 0.5: 1 - 0.5 * 0.5
    assert weights([2, 2, 2], [1, 1, 1]) == [0.75, 0.75, 0.75]
    # a spread below 1e-8 is constant, one above it is not
    base = torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64)
    for spread, expected in ((9e-9, 0.75), (2e-8, 1.0)):
        gaps = base + torch.tensor([0.0, 0.0, spread], dtype=torch.float64)
        got = tw.disagreement_uncertainty(
            tw.TurnStatistics(gaps, base, long(1, 1, 1)), long(0, 0, 0), 1, Config()
        )
        assert float(got.weight_N[2]) == pytest.approx(expected)


def test_each_trajectory_is_normalised_alone_whatever_the_row_order():
    gaps, surprises, traj = [1.0, 2.0, 3.0, 10.0, 30.0, 20.0], [0.4, 0.2, 0.4, 5, 5, 5], [0, 0, 0, 1, 1, 1]
    plain = weights(gaps, surprises, traj)
    # second: d -> 0, 1, .5; h constant -> .5: 1 - 1*.5 = .5 ; 1 - 0 = 1 ; 1 - .5*.5 = .75
    assert plain == pytest.approx([1.0, 0.5, 1.0, 0.5, 1.0, 0.75])
    order = [4, 0, 5, 2, 3, 1]
    shuffled = weights([gaps[i] for i in order], [surprises[i] for i in order], [traj[i] for i in order])
    assert shuffled == pytest.approx([plain[i] for i in order])


def test_guards_leave_weight_one_and_are_reported():
    got = tw.disagreement_uncertainty(
        turns([1, 2, 0.001, 0.009, 0.002, 1, 2, 3], [1, 2, 1, 2, 3, 1, 1, 1]),
        long(0, 0, 1, 1, 1, 2, 2, 2),
        3,
        Config(),
    )
    # trajectory 0 has two turns, trajectory 1 never disagrees by 0.01; trajectory 2: d 0, .5, 1 and h .5
    assert got.weight_N.tolist() == pytest.approx([1.0] * 5 + [0.5, 0.75, 1.0])
    assert got.active_M.tolist() == [False, False, True]
    assert weights([1, 2], [1, 2], min_turns=2) == pytest.approx([0.0, 1.0])
    assert weights([0.001, 0.009, 0.002], [1, 2, 3], min_gap=0.0) == pytest.approx([0.0, 1.0, 1.0])


def test_the_gap_guard_looks_at_the_largest_turn_not_the_mean():
    # mean (0 + 0 + 0.012)/3 = 0.004 is under 0.01, the largest turn is not
    assert weights([0, 0, 0.012], [1, 1, 1]) == pytest.approx([0.5, 0.5, 1.0])


def test_smoothing_raises_the_floor():
    # .8 w + .2 of (0, .4375, 1)
    assert weights([1, 2, 5], [0, 0.5, 2], smoothing=0.2) == pytest.approx([0.2, 0.55, 1.0])


def test_one_signal_alone():
    assert weights([1, 2, 5], [3, 3, 4], signal="disagreement") == pytest.approx([0.0, 0.25, 1.0])
    assert weights([1, 2, 5], [3, 3, 4], signal="uncertainty") == pytest.approx([0.0, 0.0, 1.0])


def test_mean_preserving_rescale_by_hand():
    # w = 1, .5, 1 with 2, 1, 1 tokens: token mean 3.5/4 = .875 -> 8/7, 4/7, 8/7 (inside the bounds), mean 1
    got = weights([1, 2, 3], [0.4, 0.2, 0.4], tokens=[2, 1, 1], mean_preserving=True)
    assert got == pytest.approx([8 / 7, 4 / 7, 8 / 7])
    # w = 0, .4375, 1, one token each: mean .4791667 -> 0, .9130435, 2.0869565 -> clipped .5, .9130435, 2
    # their mean 1.1376812 -> .4394904, .8025478, 1.7579618
    got = weights([1, 2, 5], [0, 0.5, 2], mean_preserving=True)
    assert got == pytest.approx([0.4394904, 0.8025478, 1.7579618], abs=1e-6)
    assert sum(got) / 3 == pytest.approx(1.0)


def test_turns_without_tokens_take_no_part():
    # the empty turn stands at d = 0, h = 0 and would be the minimum of both
    got = weights([1, 2, 3, 0], [0.4, 0.2, 0.4, 0], tokens=[1, 1, 1, 0])
    assert got == pytest.approx([1.0, 0.5, 1.0, 0.0])
    assert weights([1, 2, 0], [1, 2, 0], tokens=[1, 1, 0]) == [1.0, 1.0, 0.0]  # two real turns: guarded


# ---- token level ----


def test_token_weights_by_hand():
    # gaps 0, 1, 2 -> 0, .5, 1 ; surprisals 1, 2, 3 with the quantile off -> 0, .5, 1
    # w = 0 ; 1 - .25 = .75 ; 1 ; context 0
    old = torch.tensor([[-1.0, -2.0, -3.0, -50.0]])
    teacher = torch.tensor([[-1.0, -3.0, -1.0, 50.0]])
    turn = torch.tensor([[0, 0, 1, -1]])
    got = tw.token_disagreement_uncertainty(old, teacher, turn, Config(quantile=1.0))
    assert got.tolist()[0] == pytest.approx([0.0, 0.75, 1.0, 0.0])
    # quantile 0.5 of (1, 2, 3) is 2: surprisals become 1, 2, 2 -> 0, 1, 1: w = 0, 1, 1
    cut = tw.token_disagreement_uncertainty(old, teacher, turn, Config(quantile=0.5))
    assert cut.tolist()[0] == pytest.approx([0.0, 1.0, 1.0, 0.0])
    # quantile .75 is 2.5: 0, 1/1.5, 1: middle 1 - .5 * 1/3 = .8333333
    between = tw.token_disagreement_uncertainty(old, teacher, turn, Config(quantile=0.75))
    assert between.tolist()[0] == pytest.approx([0.0, 0.8333333, 1.0, 0.0])


def test_the_default_quantile_tames_one_outlier():
    old = -torch.cat([torch.linspace(0, 1, 200), torch.tensor([100.0])])[None]
    teacher = old - torch.linspace(0, 0.02, 201)[None]
    turn = torch.zeros(1, 201, dtype=torch.long)
    plain = tw.token_disagreement_uncertainty(old, teacher, turn, Config(quantile=1.0, signal="uncertainty"))
    cut = tw.token_disagreement_uncertainty(old, teacher, turn, Config(signal="uncertainty"))
    assert plain[0, 100] < 0.01
    assert 0.45 < cut[0, 100] < 0.55


def test_token_weights_count_a_constant_statistic_half():
    # Departure pinned: the released token variant would give gap 0 here, so 1 - 1 * (1 - h) = h
    old, teacher = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -3.0]])
    got = tw.token_disagreement_uncertainty(old, teacher, torch.tensor([[0, 0]]), Config(quantile=1.0))
    # gap constant -> .5; h = 0, 1: 1 - .5 * 1 = .5 ; 1
    assert got.tolist()[0] == pytest.approx([0.5, 1.0])


def test_token_guards():
    old = torch.tensor([[-1.0, -2.0, -9.0]])
    turn = torch.tensor([[0, 1, -1]])
    assert tw.token_disagreement_uncertainty(old, old + 0.009, turn, Config()).tolist() == [[1.0, 1.0, 0.0]]
    nothing = tw.token_disagreement_uncertainty(old, old, torch.full((1, 3), -1), Config())
    assert nothing.tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ConfigError, match="defined per turn"):
        tw.token_disagreement_uncertainty(old, old, turn, Config(mean_preserving=True))


# ---- step-wise damping ----


def test_damping_by_hand():
    # d = 2, 4, 1, 1.9: 1 ; 2/4 = .5 ; min(2/1, 1.2) = 1.2 ; 2/1.9 = 1.0526316 (the cap is not carried on)
    got = tw.stepwise_damping(turns([2, 4, 1, 1.9], [0] * 4), long(0, 0, 0, 0), long(0, 1, 2, 3))
    assert got.tolist() == pytest.approx([1.0, 0.5, 1.2, 1.0526316], rel=1e-5)


def test_a_first_turn_of_agreement_damps_all_others_to_nothing():
    # the paper's formula: d = 0, 1, 2: 1 ; 1e-6 / 1 ; 1e-6 / 2
    got = tw.stepwise_damping(turns([0, 1, 2], [0] * 3), long(0, 0, 0), long(0, 1, 2))
    assert got.tolist() == pytest.approx([1.0, 1e-6, 5e-7], rel=1e-3)


def test_damping_is_the_papers_running_product():
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(40, generator=generator)
    traj, index = torch.arange(40) % 3, torch.randperm(40, generator=generator)
    statistics = tw.TurnStatistics(gaps, gaps, torch.ones(40).long())
    found = tw.stepwise_damping(statistics, traj, index)
    for m in range(3):
        product, before = 1.0, None
        for row in sorted(torch.nonzero(traj == m)[:, 0].tolist(), key=lambda n: int(index[n])):
            gap = float(gaps[row]) + 1e-6
            product = 1.0 if before is None else product * before / gap
            before = gap
            assert float(found[row]) == pytest.approx(min(product, 1.2), rel=1e-5)


def test_damping_skips_turns_without_tokens():
    # an empty first turn has d = 0 and would push every later weight to zero
    got = tw.stepwise_damping(turns([0, 2, 4], [0] * 3, [0, 1, 1]), long(0, 0, 0), long(0, 1, 2))
    assert got.tolist() == pytest.approx([0.0, 1.0, 0.5], rel=1e-5)


# ---- refusals ----


def test_bad_arguments_are_refused():
    for options in ({"smoothing": 1.5}, {"quantile": 0.0}, {"bounds": (1.5, 2.0)}):
        with pytest.raises(ConfigError, match="not usable"):
            Config(**options)
    with pytest.raises(ConfigError, match="no signal"):
        Config(signal="entropy")
    with pytest.raises(UsageError, match="turn statistics for"):
        tw.disagreement_uncertainty(turns([1], [1]), long(0, 0), 1, Config())
    with pytest.raises(ConfigError, match="epsilon"):
        tw.stepwise_damping(turns([1], [1]), long(0), long(0), epsilon=0.0)
