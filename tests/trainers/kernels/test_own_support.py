import pytest
import torch

from agentbench.trainers.kernels.fused import LinearHead, fused_sum
from agentbench.trainers.kernels.head import Head
from agentbench.trainers.kernels.own_support import OwnSupportRule

N, D, V, K = 7, 6, 11, 4


def pieces(seed=0):
    torch.manual_seed(seed)
    student = (torch.randn(N, D, dtype=torch.float64), torch.randn(V, D, dtype=torch.float64))
    teacher = (torch.randn(N, D + 2, dtype=torch.float64), torch.randn(V, D + 2, dtype=torch.float64))
    return student, teacher, torch.randint(0, V, (N,)), torch.rand(N, dtype=torch.float64)


def naive(student, teacher, token_N, weight_N, old_N=None):
    """K ids of the student and one bucket, JSD by its definition, importance as a constant: with autograd."""
    q_NV = (student[0] @ student[1].T).log_softmax(-1)
    p_NV = (teacher[0] @ teacher[1].T).log_softmax(-1).detach()
    ids_NK = q_NV.detach().topk(K, dim=-1).indices
    q, p = q_NV.gather(1, ids_NK).exp(), p_NV.gather(1, ids_NK).exp()
    q, p = (torch.cat([x, 1.0 - x.sum(1, keepdim=True)], dim=1) for x in (q, p))
    m = 0.5 * (p + q)
    value_N = 0.5 * (p * (p / m).log()).sum(1) + 0.5 * (q * (q / m).log()).sum(1)
    ratio_N = 1.0
    if old_N is not None:
        token_logp_N = q_NV.gather(1, token_N[:, None])[:, 0].detach()
        ratio_N = (token_logp_N - old_N).exp().clamp(max=2.0)
    return (weight_N * ratio_N * value_N).sum(), value_N, p_NV.gather(1, token_N[:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("aged", [False, True])
def test_value_and_gradient_are_those_of_the_definition(chunk, aged):
    student, teacher, token_N, weight_N = pieces()
    # half of the tokens have become more than twice as likely
    q_NV = (student[0] @ student[1].T).log_softmax(-1)
    moved_N = torch.tensor([3.0, 1.5, 1.0, 0.2, 2.5, 0.9, 4.0], dtype=torch.float64).log()
    old_N = (q_NV.gather(1, token_N[:, None])[:, 0] - moved_N).detach() if aged else None
    for x in student:
        x.requires_grad_()
    loss, value_N, spoken_N = naive(student, teacher, token_N, weight_N, old_N)
    expected = torch.autograd.grad(loss, student)
    teacher_head = LinearHead(teacher[0], Head(teacher[1]))
    rule = OwnSupportRule(teacher_head, K, "jsd", 0.5, token_N, weight_N, old_N, 2.0)
    ours, first_N, second_N = fused_sum(rule, student[0], student[1], V, 1.0, chunk)
    found = torch.autograd.grad(ours, student)
    assert float(ours.detach()) == pytest.approx(float(loss.detach()), rel=1e-9)
    assert torch.allclose(first_N, value_N.detach(), atol=1e-9)
    assert torch.allclose(second_N, spoken_N, atol=1e-9)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-9)


def test_an_equal_teacher_has_no_loss_and_no_gradient():
    student, _, token_N, weight_N = pieces()
    head_VD = student[1].clone()
    rule = OwnSupportRule(LinearHead(student[0].clone(), Head(head_VD)), K, "jsd", 0.5, token_N, weight_N)
    for x in student:
        x.requires_grad_()
    loss, *_ = fused_sum(rule, student[0], student[1], V, 1.0, None)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    for grad in torch.autograd.grad(loss, student):
        assert float(grad.abs().max()) < 1e-12


def test_two_tokens_by_hand():
    """K = 1 of three ids. q = (.5, .25, .25), p = (.2, .5, .3): outcomes q (.5, .5), p (.2, .8), m (.35, .65)."""
    rows = torch.eye(3, dtype=torch.float64)
    q, p = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    rule = OwnSupportRule(
        LinearHead(p.log()[None], Head(rows)), 1, "jsd", 0.5, torch.tensor([1]), torch.ones(1).double()
    )
    loss, value_N, spoken_N = fused_sum(rule, q.log()[None], rows, 3, 1.0, None)
    # 0.5 (.2 ln .2/.35 + .8 ln .8/.65) + 0.5 (.5 ln .5/.35 + .5 ln .5/.65) = 0.5 (0.0541883 + 0.0471553)
    assert float(loss) == pytest.approx(0.0506718, abs=1e-6)
    assert float(value_N[0]) == float(loss)
    assert float(spoken_N[0]) == pytest.approx(-0.6931472)  # ln 0.5
