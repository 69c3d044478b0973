import math

import pytest
import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.maths import divergences as dv

KINDS = ("forward_kl", "reverse_kl", "jsd")


def random_logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def naive(student: Tensor, teacher: Tensor, kind: str, beta: float = 0.5) -> Tensor:
    """Definitions of the module docstring as Python loops in float64."""

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    flat_q = student.double().exp().reshape(-1, student.shape[-1]).tolist()
    flat_p = teacher.double().exp().reshape(-1, student.shape[-1]).tolist()
    out = []
    for q, p in zip(flat_q, flat_p, strict=True):
        m = [beta * y + (1 - beta) * x for x, y in zip(q, p, strict=True)]
        out.append(
            {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m)}[
                kind
            ]
        )
    return torch.tensor(out, dtype=torch.float64).reshape(student.shape[:-1])


# student q = (3/4, 1/4), teacher p = (1/4, 3/4); log 3 = 1.0986123
#   FKL = 1/4 log(1/3) + 3/4 log 3 = 1/2 log 3 = 0.5493061; RKL the same by symmetry
#   JSD_.5: m = (1/2, 1/2); KL(q||m) = 3/4 log(3/2) + 1/4 log(1/2) = 0.3040988 - 0.1732868 = 0.1308120 = KL(p||m)
# student q = (1/2, 1/2), teacher p = (1/4, 3/4):
#   FKL = 1/4 log(1/2) + 3/4 log(3/2) = -0.1732868 + 0.3040988 = 0.1308120
#   RKL = 1/2 log 2 + 1/2 log(2/3) = 0.3465736 - 0.2027326 = 0.1438410
#   JSD_.25: m = .25 p + .75 q = (7/16, 9/16)
#     KL(p||m) = 1/4 log(4/7) + 3/4 log(4/3) = -0.1399039 + 0.2157616 = 0.0758576
#     KL(q||m) = 1/2 log(8/7) + 1/2 log(8/9) = 0.0667657 - 0.0588915 = 0.0078742
#     .25 * 0.0758576 + .75 * 0.0078742 = 0.0189644 + 0.0059056 = 0.0248700
@pytest.mark.parametrize(
    ("q", "p", "kind", "beta", "expected"),
    [
        ((0.75, 0.25), (0.25, 0.75), "forward_kl", 0.5, 0.5493061),
        ((0.75, 0.25), (0.25, 0.75), "reverse_kl", 0.5, 0.5493061),
        ((0.75, 0.25), (0.25, 0.75), "jsd", 0.5, 0.1308120),
        ((0.5, 0.5), (0.25, 0.75), "forward_kl", 0.5, 0.1308120),
        ((0.5, 0.5), (0.25, 0.75), "reverse_kl", 0.5, 0.1438410),
        ((0.5, 0.5), (0.25, 0.75), "jsd", 0.25, 0.0248700),
    ],
)
def test_two_token_values_by_hand(q, p, kind, beta, expected):
    got = dv.full_vocabulary(
        torch.tensor(q).double().log(), torch.tensor(p).double().log(), kind=kind, beta=beta
    )
    assert float(got) == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_full_vocabulary_equals_the_loop(kind, beta):
    student, teacher = random_logits(0, 2, 3, 7).log_softmax(-1), random_logits(1, 2, 3, 7).log_softmax(-1)
    got = dv.full_vocabulary(student, teacher, kind=kind, beta=beta)
    assert got.shape == (2, 3)
    torch.testing.assert_close(got, naive(student, teacher, kind, beta), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    teacher = random_logits(1, 3, 5).log_softmax(-1)

    def of_logits(z: Tensor) -> Tensor:
        return dv.full_vocabulary(z.log_softmax(-1), teacher, kind=kind, beta=0.3, kd_temperature=0.7)

    assert torch.autograd.gradcheck(of_logits, random_logits(2, 3, 5).requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
def test_logit_gradient_has_its_closed_form(kind):
    z = random_logits(3, 6).requires_grad_()
    teacher = random_logits(4, 6).log_softmax(-1)
    dv.full_vocabulary(z.log_softmax(-1), teacher, kind=kind).backward()
    q, p = z.detach().softmax(-1), teacher.exp()
    m = (p + q) / 2
    expected = {
        "forward_kl": q - p,
        "reverse_kl": q * ((q / p).log() - (q * (q / p).log()).sum()),
        "jsd": 0.5 * q * ((q / m).log() - (q * (q / m).log()).sum()),
    }[kind]
    torch.testing.assert_close(z.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gets_no_gradient(kind):
    z, teacher = random_logits(3, 2, 6).requires_grad_(), random_logits(4, 2, 6).requires_grad_()
    student, target = z.log_softmax(-1), teacher.log_softmax(-1)
    total = dv.full_vocabulary(student, target, kind=kind).sum()
    for tail in ("renormalise", "tail", "ignore"):
        total = total + dv.on_support(student[:, :3], target[:, :3], kind=kind, tail=tail).sum()
    total.backward()
    assert z.grad.abs().max() > 1e-3
    assert teacher.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_descending_raises_the_probability_the_student_lacks(kind):
    # q = (1/2, 1/2), p = (1/4, 3/4): the second logit must go up, so its gradient is negative
    z = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    dv.full_vocabulary(z.log_softmax(-1), torch.tensor([0.25, 0.75]).double().log(), kind=kind).backward()
    assert z.grad[1] < 0 < z.grad[0]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_models_have_no_loss_and_no_gradient(kind):
    z = random_logits(5, 4, 9).requires_grad_()
    loss = dv.full_vocabulary(z.log_softmax(-1), z.detach().log_softmax(-1), kind=kind)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(z.grad, torch.zeros_like(z), rtol=0, atol=1e-15)


def test_jsd_half_stays_between_zero_and_log_two_and_reaches_both():
    student, teacher = ((10 * random_logits(seed, 2000, 6)).log_softmax(-1) for seed in (8, 9))
    value = dv.full_vocabulary(student, teacher, kind="jsd")
    assert value.min() >= 0
    assert value.max() <= math.log(2) + 1e-12
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double().log()
    assert float(dv.full_vocabulary(apart[0], apart[1], kind="jsd")) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_entries_change_neither_value_nor_gradient(kind):
    z, teacher = random_logits(6, 3, 5), random_logits(7, 3, 5).log_softmax(-1)
    pad = torch.full((3, 2), -torch.inf, dtype=torch.float64)

    def grad_of(z: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        z = z.clone().requires_grad_()
        loss = dv.full_vocabulary(z.log_softmax(-1), teacher, kind=kind)
        loss.sum().backward()
        return loss.detach(), z.grad

    loss, grad = grad_of(z, teacher)
    padded_loss, padded_grad = grad_of(torch.cat([z, pad], -1), torch.cat([teacher, pad], -1))
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_grad, torch.cat([grad, torch.zeros(3, 2).double()], -1))


def test_a_teacher_that_forbids_a_token_makes_reverse_kl_infinite_and_forward_kl_finite():
    student = torch.tensor([0.5, 0.5]).log()
    teacher = torch.tensor([1.0, 0.0]).log()
    assert dv.full_vocabulary(student, teacher, kind="reverse_kl") == math.inf
    assert float(dv.full_vocabulary(student, teacher, kind="forward_kl")) == pytest.approx(math.log(2))


def test_temperature_flattens_both_models():
    # logits (2 log 3, 0) at temperature 2 are (log 3, 0): q = (3/4, 1/4); the teacher mirrors it: 1/2 log 3
    student = torch.tensor([2 * math.log(3), 0.0], dtype=torch.float64).log_softmax(-1)
    got = dv.full_vocabulary(student, student.flip(0), kind="reverse_kl", kd_temperature=2.0)
    assert float(got) == pytest.approx(0.5 * math.log(3), abs=1e-12)


# ---- top-K support ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", ["renormalise", "ignore"])
def test_support_of_the_whole_vocabulary_equals_the_full_divergence(kind, tail):
    student, teacher = random_logits(0, 4, 8).log_softmax(-1), random_logits(1, 4, 8).log_softmax(-1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    got = dv.on_support(student[:, order], teacher[:, order], kind=kind, tail=tail)
    torch.testing.assert_close(got, dv.full_vocabulary(student, teacher, kind=kind), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_tail_bucket_leaves_the_full_divergence_and_a_finite_gradient(kind):
    z = random_logits(0, 4, 8).float().requires_grad_()
    teacher = random_logits(1, 4, 8).float().log_softmax(-1)
    got = dv.on_support(z.log_softmax(-1), teacher, kind=kind, tail="tail")
    got.sum().backward()
    torch.testing.assert_close(
        got, dv.full_vocabulary(z.log_softmax(-1), teacher, kind=kind), rtol=1e-5, atol=1e-5
    )
    reference = z.detach().clone().requires_grad_()
    dv.full_vocabulary(reference.log_softmax(-1), teacher, kind=kind).sum().backward()
    torch.testing.assert_close(z.grad, reference.grad, rtol=1e-4, atol=1e-5)


def test_truncated_values_by_hand():
    # q = (1/2, 1/4, 1/4), p = (1/4, 1/4, 1/2), support = first two ids
    # renormalised: q = (2/3, 1/3), p = (1/2, 1/2): 2/3 log(4/3) + 1/3 log(2/3) = 0.1917880 - 0.1351550 = 0.0566330
    # tail bucket:  1/2 log 2 + 0 + 1/4 log(1/2) = 1/4 log 2 = 0.1732868
    # ignore:       1/2 log 2 + 0 = 0.3465736
    q, p = (torch.tensor(x).double().log()[:2] for x in ((0.5, 0.25, 0.25), (0.25, 0.25, 0.5)))
    got = {
        tail: float(dv.on_support(q, p, kind="reverse_kl", tail=tail))
        for tail in ("renormalise", "tail", "ignore")
    }
    assert got == pytest.approx({"renormalise": 0.0566330, "tail": 0.1732868, "ignore": 0.3465736}, abs=2e-7)
    # without the tail the sum can be negative: swap the roles, 1/4 log(1/2) = -0.1732868
    assert float(dv.on_support(p, q, kind="reverse_kl", tail="ignore")) == pytest.approx(-0.1732868, abs=2e-7)


def test_a_constant_added_outside_the_support_changes_nothing_when_renormalised():
    inside = torch.tensor([0, 2, 3])
    teacher = random_logits(1, 6).log_softmax(-1)[inside]

    def loss_and_grad(shift: float) -> tuple[float, Tensor]:
        z = random_logits(0, 6)
        z[[1, 4, 5]] += shift
        z.requires_grad_()
        loss = dv.on_support(z.log_softmax(-1)[inside], teacher, kind="reverse_kl", tail="renormalise")
        loss.backward()
        return loss.item(), z.grad

    loss, grad = loss_and_grad(0.0)
    shifted_loss, shifted_grad = loss_and_grad(3.0)
    assert shifted_loss == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(shifted_grad, grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(grad[[1, 4, 5]], torch.zeros(3).double(), rtol=0, atol=1e-15)
    assert grad.abs().max() > 1e-3


def test_the_tail_bucket_sees_mass_that_leaves_the_support():
    teacher = torch.tensor([0.6, 0.3]).double().log()
    inside, outside = torch.tensor([0.6, 0.3]).double().log(), torch.tensor([0.06, 0.03]).double().log()
    for tail, grows in (("renormalise", False), ("tail", True)):
        near = float(dv.on_support(inside, teacher, kind="reverse_kl", tail=tail))
        far = float(dv.on_support(outside, teacher, kind="reverse_kl", tail=tail))
        assert (far > near + 0.1) is grows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", ["renormalise", "tail", "ignore"])
def test_gradcheck_on_a_support(kind, tail):
    teacher = random_logits(1, 2, 6).log_softmax(-1)[:, :3]

    def of_logits(z: Tensor) -> Tensor:
        return dv.on_support(z.log_softmax(-1)[:, :3], teacher, kind=kind, tail=tail, beta=0.3)

    assert torch.autograd.gradcheck(of_logits, random_logits(2, 2, 6).requires_grad_())


# ---- refusals ----


def test_bad_arguments_are_refused():
    x = torch.zeros(2, 3).log_softmax(-1)
    with pytest.raises(ConfigError, match="no divergence 'kl'"):
        dv.full_vocabulary(x, x, kind="kl")
    for beta in (0.0, 1.0):
        with pytest.raises(ConfigError, match="zero for every pair"):
            dv.full_vocabulary(x, x, kind="jsd", beta=beta)
    with pytest.raises(UsageError, match="differ in shape"):
        dv.full_vocabulary(x, x[:, :2], kind="jsd")
    with pytest.raises(ConfigError, match="no tail mode"):
        dv.on_support(x, x, kind="jsd", tail="drop")
    with pytest.raises(ConfigError, match="normaliser outside"):
        dv.on_support(x, x, kind="jsd", tail="tail", kd_temperature=0.7)
    with pytest.raises(ConfigError, match="must be positive"):
        dv.full_vocabulary(x, x, kind="jsd", kd_temperature=0.0)
