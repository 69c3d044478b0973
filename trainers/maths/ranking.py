"""How well a score tells two kinds apart. Leaves out where scores come from."""

from __future__ import annotations

import torch
from torch import Tensor


def auc(score_M: Tensor, positive_M: Tensor) -> float | None:
    """Chance that a positive scores above a negative, ties counting half; None where one kind is missing.

    Args:
        score_M: any unit; NaN has no place here.
        positive_M: bool.
    """
    ups, downs = score_M[positive_M], score_M[~positive_M].sort().values
    if not len(ups) or not len(downs):
        return None
    below = torch.searchsorted(downs, ups, right=False)
    not_above = torch.searchsorted(downs, ups, right=True)
    return float((below + not_above).double().mean() / (2 * len(downs)))
