import pytest
import torch

from agentbench.trainers.maths.ranking import auc


def test_hand_worked():
    # positives 0.9 and 0.3 against the negative 0.8: one above, one below
    assert auc(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([True, False, True])) == 0.5
    # 3 > 1, 3 > 2, 2 > 1, 2 = 2: (1 + 1 + 1 + 0.5) / 4
    assert auc(torch.tensor([3.0, 2.0, 1.0, 2.0]), torch.tensor([True, True, False, False])) == 0.875


def test_perfect_reversed_and_missing_kinds():
    score = torch.tensor([1.0, 2.0, 3.0])
    assert auc(score, torch.tensor([False, False, True])) == 1.0
    assert auc(-score, torch.tensor([False, False, True])) == 0.0
    assert auc(score, torch.tensor([True, True, True])) is None
    assert auc(score[:0], torch.zeros(0, dtype=torch.bool)) is None


def test_all_pairs():
    torch.manual_seed(0)
    score, positive = torch.randint(0, 9, (40,)).double(), torch.rand(40) < 0.4
    pairs = [
        1.0 if up > down else 0.5 if up == down else 0.0
        for up in score[positive].tolist()
        for down in score[~positive].tolist()
    ]
    assert auc(score, positive) == pytest.approx(sum(pairs) / len(pairs))
