import math

import pytest
import torch
from torch import Tensor

from agentbench.trainers.kernels.divergence import divergence, divergence_rule
from agentbench.trainers.kernels.fused import LinearHead, fused_sum
from agentbench.trainers.kernels.several import MixtureRule, SumRule
from agentbench.trainers.maths.divergences import full_vocabulary

KINDS = ("forward_kl", "reverse_kl", "jsd")
N, D, V, PADDED = 7, 4, 11, 16


class Case:
    """Seven tokens, a student of width 4 and teachers of widths 3 and 6, all heads padded beyond 11 ids."""

    def __init__(self, shares: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.hidden, self.head = normal(N, D).requires_grad_(), normal(PADDED, D).requires_grad_()
        self.teachers = [LinearHead(normal(N, 3), normal(13, 3)), LinearHead(normal(N, 6), normal(12, 6))]
        self.coef = torch.rand(N, generator=generator, dtype=torch.float64)
        if shares is None:
            first = torch.rand(N, generator=generator, dtype=torch.float64)
            shares = torch.stack([first, 1.0 - first], dim=1)
        self.share = shares

    def rule(self, kind: str, k: int, weight: Tensor):
        return divergence_rule(
            self.hidden, self.head, self.teachers[k], kind=kind, weight_N=weight, vocab_size=V, beta=0.3
        )

    def sum(self, kind: str) -> tuple[Tensor, Tensor]:
        value_NK = torch.zeros(N, 2, dtype=torch.float64)
        rules = tuple(self.rule(kind, k, self.coef * self.share[:, k]) for k in range(2))
        return fused_sum(SumRule(rules, value_NK), self.hidden, self.head, V, 1.0, 3)[0], value_NK

    def mixture(self, kind: str) -> Tensor:
        rules = tuple(self.rule(kind, k, self.coef) for k in range(2))
        return fused_sum(MixtureRule(rules, self.share), self.hidden, self.head, V, 1.0, 3)[0]

    def log_probs(self) -> tuple[Tensor, list[Tensor]]:
        def read(hidden: Tensor, head: Tensor) -> Tensor:
            return (hidden @ head[:V].T).log_softmax(-1)

        return read(self.hidden, self.head), [read(t.hidden_ND, t.head_VD) for t in self.teachers]

    def grads(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (self.hidden, self.head))


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_the_naive_one_in_float64(kind):
    case = Case()
    loss, value_NK = case.sum(kind)
    q, ps = case.log_probs()
    values = [full_vocabulary(q, p, kind=kind, beta=0.3) for p in ps]
    expected = sum((case.coef * case.share[:, k] * values[k]).sum() for k in range(2))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(value_NK, torch.stack(values, dim=1).detach(), rtol=1e-12, atol=1e-13)
    for got, wanted in zip(case.grads(loss), case.grads(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_is_the_naive_one_in_float64(kind):
    case = Case()
    q, ps = case.log_probs()
    mixture = sum(case.share[:, k, None] * ps[k].exp() for k in range(2)).log()
    expected = (case.coef * full_vocabulary(q, mixture, kind=kind, beta=0.3)).sum()
    loss = case.mixture(kind)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    for got, wanted in zip(case.grads(loss), case.grads(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_is_never_farther_than_the_sum(kind):
    case = Case()
    assert case.mixture(kind).item() <= case.sum(kind)[0].item()  # divergences are convex in p


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["sum", "mixture"])
def test_all_the_weight_on_one_teacher_is_that_teacher_alone(kind, form):
    case = Case(torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(N, 1))
    loss = case.sum(kind)[0] if form == "sum" else case.mixture(kind)
    alone = divergence(
        case.hidden,
        case.head,
        case.teachers[0],
        kind=kind,
        weight_N=case.coef,
        vocab_size=V,
        beta=0.3,
        chunk=3,
    ).loss
    assert torch.equal(loss, alone)
    for got, wanted in zip(case.grads(loss), case.grads(alone), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_teachers_adds_nothing(kind):
    shares = torch.full((N, 2), 0.5, dtype=torch.float64)
    shares[2] = 0.0
    case = Case(shares)
    case.coef[2] = 0.0
    for loss in (case.sum(kind)[0], case.mixture(kind)):
        grad_ND, _ = case.grads(loss)
        assert math.isfinite(loss.item())
        assert torch.equal(grad_ND[2], torch.zeros(D, dtype=torch.float64))


def test_two_teachers_by_hand():
    # q = (1/2, 1/2); p1 = (1/4, 3/4) with w 3/4, p2 = (3/4, 1/4) with w 1/4.
    # forward KL of either: 3/4 log(3/2) + 1/4 log(1/2) = 0.130812, so the sum is 0.130812
    # gradient q - p: 3/4 (1/4, -1/4) + 1/4 (-1/4, 1/4) = (1/8, -1/8)
    # mixture: 3/4 (1/4, 3/4) + 1/4 (3/4, 1/4) = (3/8, 5/8); 3/8 log(3/4) + 5/8 log(5/4) = 0.031584
    hidden = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    head, weight = torch.eye(2, dtype=torch.float64), torch.tensor([0.75, 0.25], dtype=torch.float64)
    ps = [
        torch.tensor([[0.25, 0.75]], dtype=torch.float64).log(),
        torch.tensor([[0.75, 0.25]], dtype=torch.float64).log(),
    ]

    def rules(weights):
        return tuple(
            divergence_rule(hidden, head, p, kind="forward_kl", weight_N=w.reshape(1), vocab_size=2)
            for p, w in zip(ps, weights, strict=True)
        )

    value = torch.zeros(1, 2, dtype=torch.float64)
    loss, *_ = fused_sum(SumRule(rules(weight), value), hidden, head, 2, 1.0, None)
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)
    assert value.tolist() == [[pytest.approx(0.130812, abs=1e-6)] * 2]
    assert torch.autograd.grad(loss, hidden)[0].tolist() == [[pytest.approx(0.125), pytest.approx(-0.125)]]
    mixed, *_ = fused_sum(
        MixtureRule(rules(torch.ones(2, dtype=torch.float64)), weight[None]), hidden, head, 2, 1.0, None
    )
    assert mixed.item() == pytest.approx(0.031584, abs=1e-6)
