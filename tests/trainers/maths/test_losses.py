import math

import pytest
import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.maths import losses as ls
from agentbench.trainers.maths import reductions as rs

REDUCTIONS = ("token_mean", "trajectory_mean", "turn_mean", "turn_sum", "turn_balanced")


def t(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# ---- token losses ----


def test_ratio_and_truncation_by_hand():
    # 1/2 over 1/4 = 2 ; 1/8 over 1/4 = 1/2
    now, old = t(0.5, 0.125).log(), t(0.25, 0.25).log()
    torch.testing.assert_close(ls.importance_ratio(now, old), t(2.0, 0.5))
    torch.testing.assert_close(ls.truncated_importance(now, old, cap=1.5), t(1.5, 0.5))
    assert not ls.truncated_importance(now.requires_grad_(), old).requires_grad
    # the gradient of the ratio flows through the current policy alone
    old = old.requires_grad_()
    ls.importance_ratio(now, old).sum().backward()
    torch.testing.assert_close(now.grad, t(2.0, 0.5))
    assert old.grad is None


# ratio 1.5, 0.5 with advantage +2: min(3, 1.2 * 2) = 2.4 ; min(1, .8 * 2) = 1
# ratio 1.5, 0.5 with advantage -2: min(-3, -2.4) = -3 ; min(-1, -1.6) = -1.6
# asymmetric 0.2 / 0.28: 1.28 * 2 = 2.56. dual clip 1.3: -3 -> max(-3, -2.6) = -2.6
def test_clipped_surrogate_by_hand():
    ratio, advantage = t(1.5, 0.5, 1.5, 0.5, 1.0), t(2.0, 2.0, -2.0, -2.0, 2.0)
    got = ls.clipped_surrogate(ratio, advantage)
    torch.testing.assert_close(got, t(2.4, 1.0, -3.0, -1.6, 2.0))
    torch.testing.assert_close(
        ls.clipped_surrogate(ratio, advantage, clip_high=0.28), t(2.56, 1.0, -3.0, -1.6, 2.0)
    )
    torch.testing.assert_close(
        ls.clipped_surrogate(ratio, advantage, dual_clip=1.3), t(2.4, 1.0, -2.6, -1.6, 2.0)
    )
    assert ls.clipped_tokens(ratio, advantage).tolist() == [[True, False, False, True, False]]


def test_clipped_surrogate_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    ratio = torch.rand(50, generator=generator, dtype=torch.float64)[None] * 6
    advantage = torch.randn(50, generator=generator, dtype=torch.float64)[None]
    expected = []
    for r, a in zip(ratio[0].tolist(), advantage[0].tolist(), strict=True):
        value = min(r * a, max(0.8, min(1.3, r)) * a)
        expected.append(max(value, 3 * a) if a < 0 else value)
    got = ls.clipped_surrogate(ratio, advantage, clip_low=0.2, clip_high=0.3, dual_clip=3.0)
    torch.testing.assert_close(got, t(*expected))


def test_clipping_stops_the_gradient_only_where_it_helps():
    logp = t(1.5, 0.5, 1.5, 0.5, 1.0).log().requires_grad_()
    advantage = t(2.0, 2.0, -2.0, -2.0, 2.0)
    ls.clipped_surrogate(ls.importance_ratio(logp, torch.zeros_like(logp)), advantage).sum().backward()
    # unclipped: d(ratio A)/d logp = ratio A = ., 1, -3, ., 2 ; clipped tokens: 0
    torch.testing.assert_close(logp.grad, t(0.0, 1.0, -3.0, 0.0, 2.0))


def test_on_policy_surrogate_has_the_policy_gradient_and_its_sign():
    logp = t(-1.0, -2.0).requires_grad_()
    ls.clipped_surrogate(ls.importance_ratio(logp, logp), t(3.0, -4.0)).sum().backward()
    # ratio 1: gradient of the objective = the advantage: up where it is positive
    torch.testing.assert_close(logp.grad, t(3.0, -4.0))


def test_gradchecks():
    old, advantage = t(-1.0, -2.0, -0.5), t(1.0, -1.0, 0.5)
    logp = t(-1.05, -1.6, -0.6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ls.clipped_surrogate(ls.importance_ratio(x, old), advantage, dual_clip=3.0), logp
    )
    assert torch.autograd.gradcheck(lambda x: ls.low_variance_kl(x, old), logp)


def test_low_variance_kl_by_hand():
    # reference 1/4, current 1/2: r = 1/2: 1/2 - log(1/2) - 1 = 0.1931472 ; equal: 0
    logp = t(0.5, 0.5).log().requires_grad_()
    got = ls.low_variance_kl(logp, t(0.25, 0.5).log())
    torch.testing.assert_close(got.detach(), t(0.5 + math.log(2) - 1, 0.0))
    got.sum().backward()
    # d/dlogp (r - log r - 1) = 1 - r: descending lowers the token that the reference likes less
    torch.testing.assert_close(logp.grad, t(0.5, 0.0))


def test_low_variance_kl_is_unbiased_and_never_negative():
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    exact = float((q.exp() * (q - p)).sum())
    assert float((q.exp() * ls.low_variance_kl(q, p)).sum()) == pytest.approx(exact, rel=1e-12)
    assert (ls.low_variance_kl(q, p) >= 0).all()


# ---- reductions ----


class Batch:
    """Trajectory 0: turns of 3 and 1 tokens; trajectory 1: one turn of 2; trajectory 2 broke: one turn of 2."""

    turn = torch.tensor([[0, 0, 0, -1, 1], [2, 2, -1, 3, 3]])
    traj = torch.tensor([0, 0, 1, 2])
    ok = torch.tensor([True, True, False])


def naive_coefficients(kind: str, turn: Tensor, traj: Tensor, ok: Tensor, keep: Tensor | None) -> Tensor:
    """The reductions' definitions as loops over trajectories and turns."""
    coef = torch.zeros(turn.shape, dtype=torch.float64)
    tokens: dict[int, list[tuple[int, int]]] = {}
    for b in range(turn.shape[0]):
        for s in range(turn.shape[1]):
            n = int(turn[b, s])
            if n >= 0 and ok[traj[n]] and (keep is None or keep[b, s]):
                tokens.setdefault(n, []).append((b, s))
    by_traj: dict[int, list[int]] = {}
    for n in tokens:
        by_traj.setdefault(int(traj[n]), []).append(n)
    total = sum(len(x) for x in tokens.values())
    for own in by_traj.values():
        length = sum(len(tokens[n]) for n in own)
        for n in own:
            for b, s in tokens[n]:
                coef[b, s] = {
                    "token_mean": 1 / total,
                    "trajectory_mean": 1 / length / len(by_traj),
                    "turn_mean": 1 / len(tokens[n]) / len(tokens),
                    "turn_sum": 1 / len(tokens[n]) / len(by_traj),
                    "turn_balanced": 1 / len(tokens[n]) / len(own) / len(by_traj),
                }[kind]
    return coef


# 6 tokens count. token_mean: 1/6. trajectory_mean: 1/4 * 1/2 = 1/8 and 1/2 * 1/2 = 1/4.
# turn_mean over 3 turns: 1/9, 1/3, 1/6. turn_sum over 2 trajectories: 1/6, 1/2, 1/4.
@pytest.mark.parametrize(
    ("kind", "first", "second", "third"),
    [
        ("token_mean", 1 / 6, 1 / 6, 1 / 6),
        ("trajectory_mean", 1 / 8, 1 / 8, 1 / 4),
        ("turn_mean", 1 / 9, 1 / 3, 1 / 6),
        ("turn_sum", 1 / 6, 1 / 2, 1 / 4),
        ("turn_balanced", 1 / 12, 1 / 4, 1 / 4),  # 1/3 * 1/2 turns * 1/2 and 1/1 * 1/2 * 1/2; 1/2 * 1/1 * 1/2
    ],
)
def test_coefficients_by_hand(kind, first, second, third):
    got = rs.token_coefficients(kind, Batch.turn, Batch.traj, Batch.ok)
    expected = torch.tensor([[first, first, first, 0, second], [third, third, 0, 0, 0]])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_coefficients_equal_the_loop(kind, masked):
    generator = torch.Generator().manual_seed(0)
    traj = torch.randint(5, (12,), generator=generator)
    turn = torch.randint(-1, 12, (6, 20), generator=generator)
    ok = torch.tensor([True, True, False, True, True])
    keep = torch.rand(6, 20, generator=generator) > 0.5 if masked else None
    got = rs.token_coefficients(kind, turn, traj, ok, keep_BT=keep)
    torch.testing.assert_close(
        got.double(), naive_coefficients(kind, turn, traj, ok, keep), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["token_mean", "trajectory_mean", "turn_mean", "turn_balanced"])
def test_means_of_a_constant_are_that_constant(kind):
    assert float(rs.token_coefficients(kind, Batch.turn, Batch.traj, Batch.ok).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_padding_row_order_and_segment_cuts_change_nothing(kind):
    loss = torch.tensor([[1.0, 2.0, 3.0, 99.0, 4.0], [5.0, 6.0, 99.0, 99.0, 99.0]])
    plain = (rs.token_coefficients(kind, Batch.turn, Batch.traj, Batch.ok) * loss).sum()
    # rows swapped, turn 0 cut over two rows, wider padding
    turn = torch.tensor([[2, 2, -1, 3, 3, -1], [0, 0, -1, -1, -1, -1], [0, -1, 1, -1, -1, -1]])
    cut = torch.tensor(
        [[5.0, 6.0, 7.0, 7.0, 7.0, 7.0], [1.0, 2.0, 7.0, 7.0, 7.0, 7.0], [3.0, 7.0, 4.0, 7.0, 7.0, 7.0]]
    )
    assert float((rs.token_coefficients(kind, turn, Batch.traj, Batch.ok) * cut).sum()) == pytest.approx(
        float(plain)
    )


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_micro_batches_add_up_to_the_whole_gradient(kind):
    generator = torch.Generator().manual_seed(0)
    turn = torch.randint(-1, 8, (6, 9), generator=generator)
    traj, ok = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3]), torch.tensor([True, True, True, False])
    coef = rs.token_coefficients(kind, turn, traj, ok).double()
    x = torch.randn(6, 9, 4, generator=generator, dtype=torch.float64)

    def gradient(cuts: list[list[int]]) -> Tensor:
        w = torch.ones(4, dtype=torch.float64, requires_grad=True)
        for rows in cuts:
            (coef[rows] * (x[rows] @ w) ** 2).sum().backward()
        return w.grad

    whole = gradient([[0, 1, 2, 3, 4, 5]])
    for cuts in ([[0], [1], [2], [3], [4], [5]], [[5, 0, 3], [1, 2, 4]]):
        torch.testing.assert_close(gradient(cuts), whole, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_two_processes_with_a_shared_denominator_equal_one(kind):
    whole = rs.token_coefficients(kind, Batch.turn, Batch.traj, Batch.ok)
    # process A holds trajectory 0, process B trajectories 1 and 2 with their own turn rows
    a = (Batch.turn[:1], Batch.traj[:2], Batch.ok[:1])
    b = (torch.tensor([[0, 0, -1, 1, 1]]), torch.tensor([0, 1]), Batch.ok[1:])
    total = sum(rs.reduction_denominator(kind, *part) for part in (a, b))
    assert total == rs.reduction_denominator(kind, Batch.turn, Batch.traj, Batch.ok)
    parts = [rs.token_coefficients(kind, *part, denominator=total) for part in (a, b)]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_masked_turn_counts_neither_above_nor_below_the_line(kind):
    keep = Batch.turn != 2
    got = rs.token_coefficients(kind, Batch.turn, Batch.traj, Batch.ok, keep_BT=keep)
    alone = rs.token_coefficients(kind, Batch.turn[:1], Batch.traj[:2], Batch.ok[:1])
    torch.testing.assert_close(got[:1], alone)
    assert (got[1] == 0).all()


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_batch_where_nothing_counts_is_refused(kind):
    with pytest.raises(UsageError, match="no token counts"):
        rs.token_coefficients(kind, Batch.turn, Batch.traj, torch.zeros(3).bool())
    # but a process may hold nothing while the others hold something
    assert (
        rs.token_coefficients(kind, Batch.turn, Batch.traj, torch.zeros(3).bool(), denominator=5.0) == 0
    ).all()


# Turns of 1 and 9 tokens, a loss of 1 on the single token: its mean is 1/10 over tokens, 1/2 over turns.
@pytest.mark.parametrize(("balance", "expected"), [(0.0, 0.1), (0.5, 0.3), (1.0, 0.5)])
def test_turn_balance_blends_the_trajectorys_two_means(balance, expected):
    turn = torch.tensor([[-1, 0, -1, *[1] * 9]])
    table = (turn, torch.tensor([0, 0]), torch.tensor([True]))
    coef = rs.token_coefficients("turn_balanced", *table, balance=balance)
    assert float((coef * (turn == 0)).sum()) == pytest.approx(expected)
    assert float(coef.sum()) == pytest.approx(1.0)
    if balance == 0.0:
        torch.testing.assert_close(coef, rs.token_coefficients("trajectory_mean", *table))


def test_bad_arguments_are_refused():
    x = t(1.0)
    for options in ({"clip_low": 0.0}, {"clip_low": 1.5}, {"clip_high": -0.1}, {"dual_clip": 1.0}):
        with pytest.raises(ConfigError, match="clip_low="):
            ls.clipped_surrogate(x, x, **options)
    with pytest.raises(ConfigError, match=r"cap=0\.5"):
        ls.truncated_importance(x, x, cap=0.5)
    with pytest.raises(ConfigError, match="no reduction 'mean'"):
        rs.token_coefficients("mean", Batch.turn, Batch.traj, Batch.ok)
    with pytest.raises(UsageError, match="differ in shape"):
        rs.token_coefficients("turn_sum", Batch.turn, Batch.traj, Batch.ok, keep_BT=torch.ones(1, 5).bool())
