import pytest
import torch
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.trainers.kernels.tokens import logprob, token_loss

N, D, V, PADDED = 7, 4, 11, 16


class Case:
    """Seven sampled tokens and a head padded beyond 11 real ids."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        self.head = (
            torch.randn(PADDED, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        )
        self.token = torch.randint(V, (N,), generator=generator)
        self.old = -torch.rand(N, generator=generator, dtype=torch.float64)
        self.advantage = torch.randn(N, generator=generator, dtype=torch.float64)

    def naive(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        logp = (self.hidden.double() @ self.head.double()[:V].T / temperature).log_softmax(-1)
        return logp[torch.arange(N), self.token], -(logp.exp() * logp).sum(-1)

    def surrogate(self, logp: Tensor, rows: slice = slice(None)) -> Tensor:
        """Clipped surrogate: a loss whose slope depends on the log-prob itself."""
        ratio = (logp - self.old[rows].to(logp.dtype)).exp()
        advantage = self.advantage[rows].to(logp.dtype)
        return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)

    def grads(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        return torch.autograd.grad(loss, (self.hidden, self.head))


def test_two_token_log_prob_entropy_and_gradient_by_hand():
    # logits (log 3, 0): q = (3/4, 1/4); token 1: log 1/4 = -1.3862944
    # entropy = -(3/4 log 3/4 + 1/4 log 1/4) = 0.2157616 + 0.3465736 = 0.5623351; d logp / d z = (-3/4, 3/4)
    hidden = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log().requires_grad_()
    logp, entropy = logprob(hidden, torch.eye(2).double(), torch.tensor([1]), vocab_size=2)
    logp.sum().backward()
    assert logp.item() == pytest.approx(-1.3862944, abs=1e-7)
    assert entropy.item() == pytest.approx(0.5623351, abs=1e-7)
    torch.testing.assert_close(hidden.grad, torch.tensor([[-0.75, 0.75]]).double())


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("chunk", [1, 3, 100, None])
def test_logprob_equals_the_naive_form_in_float64(temperature, chunk):
    case = Case()
    logp, entropy = logprob(
        case.hidden, case.head, case.token, vocab_size=V, temperature=temperature, chunk=chunk
    )
    expected_logp, expected_entropy = case.naive(temperature)
    torch.testing.assert_close(logp, expected_logp, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-12, atol=1e-14)
    assert not entropy.requires_grad
    expected = case.grads(case.surrogate(expected_logp).sum())
    for got, wanted in zip(case.grads(case.surrogate(logp).sum()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("chunk", [1, 3, 100, None])
def test_token_loss_equals_the_naive_form_in_float64(temperature, chunk):
    case = Case()
    out = token_loss(
        case.hidden, case.head, case.token, case.surrogate, vocab_size=V, temperature=temperature, chunk=chunk
    )
    logp, entropy = case.naive(temperature)
    expected = case.surrogate(logp).sum()
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(out.logp_N, logp.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(out.entropy_N, entropy.detach(), rtol=1e-12, atol=1e-14)
    for got, wanted in zip(case.grads(out.loss), case.grads(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13)


def test_gradchecks():
    case = Case()
    assert torch.autograd.gradcheck(
        lambda h, w: logprob(h, w, case.token, vocab_size=V, chunk=3)[0], (case.hidden, case.head)
    )
    assert torch.autograd.gradcheck(
        lambda h, w: token_loss(h, w, case.token, lambda x, _: x.exp(), vocab_size=V, chunk=3).loss,
        (case.hidden, case.head),
    )


def test_ascending_the_log_prob_raises_the_sampled_token():
    hidden = torch.zeros(1, 3, requires_grad=True)
    logprob(hidden, torch.eye(3), torch.tensor([2]), vocab_size=3)[0].sum().backward()
    assert hidden.grad[0, 2] > 0 > hidden.grad[0, 0]


def test_padding_rows_get_no_gradient_and_have_no_say():
    case = Case()
    logp, _ = logprob(case.hidden, case.head, case.token, vocab_size=V)
    loss = token_loss(case.hidden, case.head, case.token, case.surrogate, vocab_size=V).loss
    for total in (logp.sum(), loss):
        grad = case.grads(total)[1]
        assert (grad[V:] == 0).all()
        assert (grad[:V] != 0).any()
    with torch.no_grad():
        case.head[V:] = 1e3
    assert torch.equal(logprob(case.hidden, case.head, case.token, vocab_size=V)[0], logp)


def test_a_frozen_head_gets_no_gradient():
    case = Case()
    expected = case.grads(case.surrogate(case.naive()[0]).sum())[0]
    case.head.requires_grad_(False)
    for loss in (
        case.surrogate(logprob(case.hidden, case.head, case.token, vocab_size=V)[0]).sum(),
        token_loss(case.hidden, case.head, case.token, case.surrogate, vocab_size=V).loss,
    ):
        torch.testing.assert_close(
            torch.autograd.grad(loss, case.hidden)[0], expected, rtol=1e-10, atol=1e-13
        )


def test_half_precision_stays_near_float64():
    case = Case(torch.bfloat16)
    expected = case.grads(case.surrogate(case.naive()[0]).sum())
    logp, _ = logprob(case.hidden, case.head, case.token, vocab_size=V)
    assert logp.dtype == torch.float32
    fused = token_loss(case.hidden, case.head, case.token, case.surrogate, vocab_size=V).loss
    for loss in (case.surrogate(logp).sum(), fused):
        for got, wanted in zip(case.grads(loss), expected, strict=True):
            assert got.dtype == torch.bfloat16
            assert (got.double() - wanted).norm() < 0.03 * wanted.norm()


def test_autocast_does_not_reach_inside():
    case = Case(torch.float32)
    expected_logp, expected_entropy = case.naive()
    expected = case.grads(expected_logp.sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp, entropy = logprob(case.hidden, case.head, case.token, vocab_size=V)
        grads = case.grads(logp.sum())
    torch.testing.assert_close(logp.double(), expected_logp, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-4, atol=1e-6)
    for got, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_loss_without_slope_gives_zero_gradient():
    case = Case()
    out = token_loss(case.hidden, case.head, case.token, lambda x, _: torch.ones_like(x), vocab_size=V)
    assert out.loss.item() == N
    assert all((grad == 0).all() for grad in case.grads(out.loss))


def test_bad_arguments_are_refused():
    case = Case()
    with pytest.raises(UsageError, match=r"must lie in 0\.\.10"):
        logprob(case.hidden, case.head, torch.full((N,), V), vocab_size=V)
    with pytest.raises(UsageError, match="6,\\) tokens for 7 hidden"):
        logprob(case.hidden, case.head, case.token[:6], vocab_size=V)
    with pytest.raises(UsageError, match="unreduced"):
        token_loss(case.hidden, case.head, case.token, lambda x, _: x.sum(), vocab_size=V)
