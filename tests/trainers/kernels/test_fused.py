import math

import pytest
import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.kernels.divergence import divergence
from agentbench.trainers.kernels.fused import LinearHead
from agentbench.trainers.maths import divergences as dv

KINDS = ("forward_kl", "reverse_kl", "jsd")
N, D, E, V, PADDED, TEACHER_PADDED = 7, 4, 3, 11, 16, 13


class Case:
    """Seven tokens, a student of width 4 and a teacher of width 3, both heads padded beyond 11 real ids."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.hidden, self.head = normal(N, D).requires_grad_(), normal(PADDED, D).requires_grad_()
        self.teacher = LinearHead(normal(N, E), normal(TEACHER_PADDED, E))
        self.weight = torch.rand(N, generator=generator, dtype=torch.float64).to(dtype)
        self.weight[2] = 0.0

    def fused(self, kind: str, **options: object) -> tuple[Tensor, Tensor]:
        options = {"weight_N": self.weight, "vocab_size": V, "chunk": 3} | options
        teacher = options.pop("teacher", self.teacher)
        out = divergence(self.hidden, self.head, teacher, kind=kind, **options)
        return out.loss, out.value_N

    def naive(self, kind: str, **options: float) -> tuple[Tensor, Tensor]:
        student = (self.hidden.double() @ self.head.double()[:V].T).log_softmax(-1)
        teacher = (self.teacher.hidden_ND.double() @ self.teacher.head_VD.double()[:V].T).log_softmax(-1)
        value = dv.full_vocabulary(student, teacher, kind=kind, **options)
        return (self.weight.double() * value).sum(), value.detach()

    def grads(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        return torch.autograd.grad(loss, (self.hidden, self.head))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("beta", [0.5, 0.2])
def test_equals_the_naive_form_in_float64(kind, temperature, beta):
    case = Case()
    loss, value = case.fused(kind, beta=beta, kd_temperature=temperature)
    expected_loss, expected_value = case.naive(kind, beta=beta, kd_temperature=temperature)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-13)
    for got, expected in zip(case.grads(loss), case.grads(expected_loss), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)


def test_two_token_loss_and_gradient_by_hand():
    # one token, head = identity, so logits = hidden: q = (1/2, 1/2); teacher p = (1/4, 3/4); weight 2
    # FKL = 0.1308120 (see test_divergences), loss = 0.2616241; grad = 2 (q - p) = (1/2, -1/2)
    # head gradient = grad x hidden = 0 because hidden = (0, 0)
    hidden = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    head = torch.eye(2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    out = divergence(hidden, head, teacher, kind="forward_kl", weight_N=torch.tensor([2.0]), vocab_size=2)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(0.2616241, abs=2e-7)
    assert float(out.value_N[0]) == pytest.approx(0.1308120, abs=2e-7)
    torch.testing.assert_close(hidden.grad, torch.tensor([[0.5, -0.5]]).double())
    torch.testing.assert_close(head.grad, torch.zeros(2, 2).double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 2, 7, 100, None])
def test_chunk_size_changes_nothing(kind, chunk):
    case = Case()
    loss, value = case.fused(kind)
    other_loss, other_value = case.fused(kind, chunk=chunk)
    torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(other_value, value, rtol=1e-12, atol=1e-15)
    for got, expected in zip(case.grads(other_loss), case.grads(loss), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    case = Case()

    def loss(hidden: Tensor, head: Tensor) -> Tensor:
        return divergence(
            hidden, head, case.teacher, kind=kind, weight_N=case.weight, vocab_size=V, beta=0.3, chunk=3
        ).loss

    assert torch.autograd.gradcheck(loss, (case.hidden, case.head))


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_the_batch_changes_nothing(kind):
    case = Case()
    loss, _ = case.fused(kind)
    whole = case.grads(loss)
    parts = [torch.zeros_like(case.hidden), torch.zeros_like(case.head)]
    total = 0.0
    for rows in (slice(0, 2), slice(2, 7)):
        teacher = LinearHead(case.teacher.hidden_ND[rows], case.teacher.head_VD)
        part = divergence(
            case.hidden[rows], case.head, teacher, kind=kind, weight_N=case.weight[rows], vocab_size=V
        ).loss
        total += part.item()
        for sum_, grad in zip(parts, case.grads(part), strict=True):
            sum_ += grad
    assert total == pytest.approx(loss.item(), rel=1e-12)
    for got, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_rows_get_no_gradient_and_have_no_say(kind):
    case = Case()
    loss, _ = case.fused(kind)
    grad = case.grads(loss)[1]
    assert (grad[V:] == 0).all()
    assert (grad[:V] != 0).any(dim=1).all()
    with torch.no_grad():
        case.head[V:] = 1e3
        case.teacher.head_VD[V:] = -1e3
    assert case.fused(kind)[0].item() == loss.item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_of_weight_zero_has_a_value_and_no_gradient(kind):
    case = Case()
    loss, value = case.fused(kind)
    assert value[2] > 1e-3
    assert (case.grads(loss)[0][2] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same(kind):
    case = Case()
    expected = case.grads(case.fused(kind)[0])[0]
    case.head.requires_grad_(False)
    loss, _ = case.fused(kind)
    loss.backward()
    torch.testing.assert_close(case.hidden.grad, expected, rtol=0, atol=0)
    assert case.head.grad is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_teacher_log_probs_equal_the_teacher_head(kind, temperature):
    case = Case()
    logp = (case.teacher.hidden_ND @ case.teacher.head_VD[:V].T).log_softmax(-1)
    padded = torch.cat([logp, torch.full((N, 2), -torch.inf).double()], dim=1)
    kept = padded.clone()
    loss, value = case.fused(kind, kd_temperature=temperature)
    other_loss, other_value = case.fused(kind, teacher=padded, kd_temperature=temperature)
    torch.testing.assert_close(other_value, value, rtol=1e-12, atol=1e-14)
    for got, expected in zip(case.grads(other_loss), case.grads(loss), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)
    assert torch.equal(padded, kept)  # the caller's tensor is not scratch space


def test_a_token_the_teacher_forbids_keeps_forward_kl_and_jsd_finite():
    # q = (1/2, 1/2), p = (1, 0): FKL = log 2; JSD_.5: m = (3/4, 1/4)
    # .5 log(4/3) + .5 (.5 log(2/3) + .5 log 2) = 0.1438410 + 0.25 * 0.2876821 = 0.2157616; RKL = +inf
    hidden, head = torch.zeros(1, 2, requires_grad=True), torch.eye(2, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0]]).log()
    for kind, expected in (("forward_kl", math.log(2)), ("jsd", 0.2157616), ("reverse_kl", math.inf)):
        out = divergence(hidden, head, teacher, kind=kind, weight_N=torch.ones(1), vocab_size=2)
        assert float(out.value_N[0]) == pytest.approx(expected, abs=1e-6)
        if kind != "reverse_kl":
            out.loss.backward()
            assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_student_equal_to_teacher_has_no_loss_and_no_gradient(kind):
    case = Case()
    same = LinearHead(case.hidden.detach().clone(), case.head.detach().clone())
    loss, value = case.fused(kind, teacher=same)
    assert value.abs().max() < 1e-15
    for grad in case.grads(loss):
        assert grad.abs().max() < 1e-15


@pytest.mark.parametrize("kind", KINDS)
def test_saturated_models_stay_finite_in_float32(kind):
    # logits hundreds apart underflow exp() in float32 on both sides
    hidden = torch.tensor([[400.0, 0.0]], requires_grad=True)
    head = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    teacher = LinearHead(torch.tensor([[0.0, 400.0]]), head.detach().clone())
    out = divergence(hidden, head, teacher, kind=kind, weight_N=torch.ones(1), vocab_size=4)
    out.loss.backward()
    # disjoint point masses: KL = the logit gap of 400 nats, JSD = log 2
    assert float(out.value_N[0]) == pytest.approx(math.log(2) if kind == "jsd" else 400.0, rel=1e-6)
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(head.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_near_float64(kind):
    case = Case(torch.bfloat16)
    expected_loss, _ = case.naive(kind)
    expected = case.grads(expected_loss)
    loss, value = case.fused(kind)
    assert loss.dtype == value.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss.item(), rel=0.02)
    for got, wanted in zip(case.grads(loss), expected, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.double() - wanted).norm() < 0.02 * wanted.norm()


def test_autocast_does_not_reach_inside():
    case = Case(torch.float32)
    expected_loss, expected_value = case.naive("jsd")
    expected = case.grads(expected_loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, value = case.fused("jsd")
    # bfloat16 logits would be off by about 1e-2
    torch.testing.assert_close(value.double(), expected_value, rtol=1e-4, atol=1e-6)
    for got, wanted in zip(case.grads(loss), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_the_incoming_gradient_scales_the_result():
    case = Case()
    once = case.grads(case.fused("jsd")[0])
    thrice = case.grads(3.0 * case.fused("jsd")[0])
    for got, expected in zip(thrice, once, strict=True):
        torch.testing.assert_close(got, 3.0 * expected, rtol=1e-14, atol=0)


def test_a_second_scaled_backward_is_refused_rather_than_wrong():
    case = Case()
    loss = 3.0 * case.fused("jsd")[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_gradient_is_computed_without_grad_mode():
    case = Case()
    with torch.no_grad():
        loss, value = case.fused("jsd")
    assert not loss.requires_grad
    torch.testing.assert_close(value, case.naive("jsd")[1])


def test_no_tokens_give_zero():
    head = torch.eye(2, requires_grad=True)
    out = divergence(
        torch.zeros(0, 2), head, torch.zeros(0, 2), kind="jsd", weight_N=torch.zeros(0), vocab_size=2
    )
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert (head.grad == 0).all()


def test_bad_arguments_are_refused():
    case = Case()
    for options, error, text in (
        ({"vocab_size": 17}, UsageError, "head has 16 rows"),
        ({"vocab_size": 14}, UsageError, "teacher covers 7 tokens x 13 ids"),
        ({"weight_N": torch.ones(6)}, UsageError, r"weight_N has shape \(6,\)"),
        ({"teacher": torch.zeros(6, V)}, UsageError, "teacher covers 6 tokens"),
        ({"chunk": 0}, ConfigError, "chunk=0"),
        ({"beta": 1.0}, ConfigError, "zero for every pair"),
        ({"kd_temperature": 0.0}, ConfigError, "must be positive"),
    ):
        with pytest.raises(error, match=text):
            case.fused("jsd", **options)
    with pytest.raises(UsageError, match="do not fit"):
        divergence(
            case.hidden[:, :3], case.head, case.teacher, kind="jsd", weight_N=case.weight, vocab_size=V
        )
