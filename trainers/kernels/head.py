"""A language-model head: how hidden states become logits and log-probs, and how gradients go back.

    z = h W^T + b        logits = cap * tanh(scale * z / cap)        (without a cap: scale * z)

Ids that no token has (padding rows, holes of the tokenizer) get the lowest number there is: no probability, no
gradient, and never a NaN in p log p. Leaves out finding these numbers for a model (`student.hidden`) and every loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """A head's weights and form.

    Attributes:
        weight_VD: rows may be more than the ids that exist.
        bias_V: added to the products; None where there is none.
        scale: multiplies the logits; of Granite, Cohere, FalconH1 and others.
        cap: soft limit of the logits' size; of Gemma and others. None has none.
        absent_V: bool, True for ids that do not exist; at least as long as the vocabulary that is asked for. None
            where all exist.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    absent_V: Tensor | None = None

    def ready(self, vocab_size: int, dtype: torch.dtype) -> Head:
        """A constant copy for products in `dtype`, without the rows beyond `vocab_size`; cast once, not per chunk."""
        absent_V = None if self.absent_V is None else self.absent_V[:vocab_size]
        return replace(
            self,
            weight_VD=self.weight_VD.detach()[:vocab_size].to(dtype),
            bias_V=None if self.bias_V is None else self.bias_V.detach()[:vocab_size].to(wide(dtype)),
            absent_V=absent_V,
        )

    def on(self, device: torch.device) -> Head:
        """A constant copy on a device."""
        tensors = {
            name: tensor.detach().to(device)
            for name in ("weight_VD", "bias_V", "absent_V")
            if (tensor := getattr(self, name)) is not None
        }
        return replace(self, **tensors)

    def log_probs(self, hidden_CD: Tensor, temperature: float) -> tuple[Tensor, Tensor | None]:
        """Log-softmax of one chunk's logits divided by the temperature, float32 or wider; of a `ready` head.

        Returns: (log-probs, d logits / d (scale z) where there is a cap).
        """
        logits_CV = (hidden_CD.detach() @ self.weight_VD.T).to(wide(hidden_CD.dtype))
        if self.bias_V is not None:
            logits_CV += self.bias_V
        if self.scale != 1.0:
            logits_CV *= self.scale
        slope_CV = None
        if self.cap is not None:
            logits_CV = logits_CV.div_(self.cap).tanh_()
            slope_CV = 1.0 - logits_CV * logits_CV  # of tanh, while its value is at hand
            logits_CV *= self.cap
        if temperature != 1.0:
            logits_CV /= temperature
        if self.absent_V is not None:
            logits_CV.masked_fill_(self.absent_V, lowest(logits_CV.dtype))
        return torch.log_softmax(logits_CV, dim=-1), slope_CV


def as_head(head: Tensor | Head) -> Head:
    """A bare weight is a head without further form."""
    return Head(head) if isinstance(head, Tensor) else head


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to accumulate in: float32, or float64 for float64 input."""
    return torch.promote_types(dtype, torch.float32)


def lowest(dtype: torch.dtype) -> float:
    """Log-prob of what cannot be; finite, so that 0 times it is 0, and differences of two stay finite."""
    return torch.finfo(dtype).min / 4
