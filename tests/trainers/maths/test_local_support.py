"""Local support matching by hand: q = (1/2, 1/4, 1/8, 1/8), p uniform, S = {0, 1}."""

import math

import pytest
import torch

from agentbench.trainers.maths.divergences import full_vocabulary
from agentbench.trainers.maths.local_support import local_support

Q = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
P = torch.full((4,), 0.25, dtype=torch.float64).log()
S = [0, 1]


def value(q, kind, token, *, old=None, p=P, support=S):
    ids = [*support, token]
    inside = torch.tensor([token in support])
    old = q.detach()[token] if old is None else torch.tensor(math.log(old), dtype=torch.float64)
    return local_support(q[ids][None], p[ids][None], inside, old[None], sampled_token=kind)[0]


@pytest.mark.parametrize(
    ("kind", "token", "old", "expected"),
    [
        # both conditioned on S: q^ = (2/3, 1/3), p^ = (1/2, 1/2)
        ("unused", 2, None, 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)),
        # S and token 2: q^ = (4, 2, 1)/7, p^ = 1/3 each
        ("member", 2, None, 4 / 7 * math.log(12 / 7) + 2 / 7 * math.log(6 / 7) + 1 / 7 * math.log(3 / 7)),
        # a sampled token that is in S already counts once
        ("member", 1, None, 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)),
        # exact head 1/2 log 2 + 1/4 log 1, and the sample's log(1/8 : 1/4)
        ("tail", 2, None, 0.5 * math.log(2) - math.log(2)),
        ("tail", 0, None, 0.5 * math.log(2)),
        # sampled with probability 1/4 where it has 1/8 now: its weight is 1/2
        ("tail", 2, 0.25, 0.5 * math.log(2) - 0.5 * math.log(2)),
        # departure: a token that has become ten times as likely counts ten times, no bound
        ("tail", 2, 0.0125, 0.5 * math.log(2) - 10 * math.log(2)),
    ],
)
def test_values_by_hand(kind, token, old, expected):
    assert float(value(Q, kind, token, old=old)) == pytest.approx(expected, abs=1e-12)


def test_the_tail_estimates_the_full_reverse_kl_and_its_gradient_without_bias():
    z = Q.clone().requires_grad_()
    q = z.log_softmax(0)
    # 1/2 log 2 + 2 (1/8 log 1/2) = 1/4 log 2
    mean = sum(float(Q[y].exp()) * value(q, "tail", y) for y in range(4))
    assert float(mean.detach()) == pytest.approx(0.25 * math.log(2), abs=1e-12)
    (ours,) = torch.autograd.grad(mean, z, retain_graph=True)
    (full,) = torch.autograd.grad(full_vocabulary(q[None], P[None], kind="reverse_kl").sum(), z)
    assert torch.allclose(ours, full, atol=1e-12)


@pytest.mark.parametrize("kind", ["unused", "member", "tail"])
def test_a_support_of_the_whole_vocabulary_is_the_full_reverse_kl(kind):
    found = value(Q, kind, 3, support=[2, 0, 3, 1])
    assert float(found.detach()) == pytest.approx(0.25 * math.log(2), abs=1e-12)


def test_a_constant_on_the_logits_outside_the_support_changes_neither_value_nor_gradient():
    def of(shift):
        z = (Q + torch.tensor([0.0, 0.0, shift, shift], dtype=torch.float64)).requires_grad_()
        found = value(z.log_softmax(0), "unused", 0)
        return found.detach(), torch.autograd.grad(found, z)[0]

    (plain, gradient), (shifted, same) = of(0.0), of(3.0)
    assert float(plain.detach()) == pytest.approx(float(shifted.detach()), abs=1e-12)
    assert torch.allclose(gradient, same, atol=1e-12)
    assert torch.allclose(gradient[2:], torch.zeros(2, dtype=torch.float64), atol=1e-15)


def test_the_tail_does_push_on_what_lies_outside():
    z = Q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(z.log_softmax(0), "tail", 2), z)
    assert float(gradient[2].abs()) > 0.1
