"""How much each of several teachers counts for one decision. Leaves out how they came to be confident (`debate`)."""

from __future__ import annotations

import torch
from torch import Tensor

from agentbench.errors import ConfigError


def confidence_weights(confidence_NK: Tensor, present_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Softmax of the teachers' confidences, w_k = exp(c_k / 100 / T) / sum_j exp(c_j / 100 / T).

    Args:
        confidence_NK: 0 to 100; NaN where a teacher gave none, and then all of that row count the same.
        present_NK: bool, False where a teacher failed: it has weight 0 and the others share it.
        temperature: T; large values make all teachers equal.
    Returns: float32 [N, K], of sum 1 in each row; rows without any teacher are 0.
    Raises: ConfigError: the temperature is not positive.
    Source: MAD-OPD, arXiv:2605.01347, Eqs. 6-7.
    """
    if not temperature > 0.0:
        raise ConfigError(f"confidence_temperature={temperature} must be positive; 1 is the paper's")
    silent_N1 = (confidence_NK.isnan() & present_NK).any(dim=1, keepdim=True)
    score_NK = torch.where(silent_N1 | ~present_NK, 0.0, confidence_NK / 100.0 / temperature)
    score_NK = score_NK.masked_fill(~present_NK, float("-inf"))
    weight_NK = torch.softmax(score_NK.double(), dim=1)
    return torch.where(present_NK, weight_NK, 0.0).float()  # a row without teachers is NaN up to here
