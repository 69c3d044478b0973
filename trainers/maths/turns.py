"""From tokens to turns and back: sums, means, spreading a turn's value over its tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def turn_sum(x_BT: Tensor, turn_BT: Tensor, n: int) -> Tensor:
    """Sum a token column over each of n turns; context and padding are left out. Differentiable."""
    inside_BT = turn_BT >= 0
    return x_BT.new_zeros(n).index_add(0, turn_BT[inside_BT], x_BT[inside_BT])


def turn_mean(x_BT: Tensor, turn_BT: Tensor, n: int) -> Tensor:
    """Average a token column over each of n turns; 0 for a turn without tokens. Differentiable."""
    return turn_sum(x_BT, turn_BT, n) / turn_sum(torch.ones_like(x_BT), turn_BT, n).clamp(min=1)


def per_token(x_N: Tensor, turn_BT: Tensor) -> Tensor:
    """Spread a turn column over its tokens; 0 on context and padding."""
    return torch.where(turn_BT >= 0, x_N[turn_BT.clamp(min=0)], x_N.new_zeros(()))
