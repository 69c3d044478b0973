"""How a model's head turns hidden states into logits, found by trying and not by the architecture's name.

The decoder's output is exchanged for hidden states of our own, from tiny to huge, and the model's own path from there
to the logits is compared with `cap * tanh(scale * (h W^T + b) / cap)`: a fresh model's small logits would hide a soft
cap. The numbers are measured, then taken from the configuration where one of its numbers fits, so that they are exact.
What fits no such form is refused. Leaves out computing with it (`kernels.head`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentbench.errors import UsageError

_SIZES = (0.03, 1.0, 10.0, 100.0, 10000.0)
"""Largest product h W^T of each trial; the first tells the scale, the last the cap."""

_ROWS = 4096
"""Rows of the head that are tried: enough, and a large head is not copied to float32."""


@dataclass(frozen=True)
class HeadForm:
    """Scale and soft cap of the logits, as in `kernels.head.Head`."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, product: Tensor) -> Tensor:
        """Logits of products h W^T + b."""
        scaled = self.scale * product
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


@torch.no_grad()
def head_form(model: Any, name: str) -> HeadForm:
    """Find the form of a model's head.

    Raises: UsageError: there is no head, or its logits have another form.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise UsageError(f"model {name!r} has no language-model head; load a causal language model")
    was_training = model.training
    model.eval()
    try:
        hidden_PD = _trial_states(head.weight)
        try:
            product_PV, logits_PV = _product(head, hidden_PD), _own_logits(model, hidden_PD)
        except (RuntimeError, TypeError, AttributeError) as caught:  # such as a dense layer before the head
            if isinstance(caught, torch.OutOfMemoryError):
                raise
            raise UsageError(
                f"the head of model {name!r} ({type(model).__name__}) does not take its decoder's hidden states "
                f"({str(caught).splitlines()[0]}): something else is done between the two; choose another architecture"
            ) from caught
        tolerance = 1e-4 if head.weight.dtype in (torch.float32, torch.float64) else 0.03
        errors = {
            form: _error(form(product_PV), logits_PV) for form in _candidates(model, product_PV, logits_PV)
        }
        form = next((form for form, error in errors.items() if error <= tolerance), None)
        error = min(errors.values()) if form is None else _error(*_whole_path(model, head, form))
    finally:
        model.train(was_training)
    if form is None or not error <= max(tolerance, 0.01):
        raise UsageError(
            f"the logits of model {name!r} ({type(model).__name__}) are not its hidden states times its head (off by "
            f"{error:.3g} of their size): a bias, a scale and a soft cap are understood, something else is done here; "
            "choose another architecture"
        )
    return form


def decoder_of(model: Any) -> Any:
    """The part of a causal language model below its head."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or decoder is model:
        decoder = getattr(model, model.base_model_prefix, None) or getattr(model, "model", None)
    if decoder is None or decoder is model:
        raise UsageError(
            f"cannot find the decoder of {type(model).__name__}: it has no get_decoder(), "
            f"{model.base_model_prefix!r} or model attribute"
        )
    return decoder


def _trial_states(weight_VD: Tensor) -> Tensor:
    """Random hidden states whose largest products with the head have the wanted sizes."""
    generator = torch.Generator().manual_seed(0)
    states_PD = torch.randn(len(_SIZES), weight_VD.shape[1], generator=generator, dtype=torch.float32)
    states_PD = states_PD.to(weight_VD.device)
    largest_P = (states_PD @ weight_VD[:_ROWS].float().T).abs().amax(dim=1).clamp(min=1e-12)
    wanted_P = torch.tensor(_SIZES, device=weight_VD.device, dtype=torch.float32)
    return (states_PD * (wanted_P / largest_P)[:, None]).to(weight_VD.dtype)


def _product(head: Any, hidden_PD: Tensor) -> Tensor:
    product_PV: Tensor = hidden_PD.float() @ head.weight[:_ROWS].float().T
    bias = getattr(head, "bias", None)
    if bias is not None:
        product_PV += bias[:_ROWS].float()
    return product_PV


def _own_logits(model: Any, hidden_PD: Tensor) -> Tensor:
    """The model's logits [P, V] when its decoder says `hidden_PD`."""

    def exchange(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (hidden_PD[None], *output[1:])
        output[next(iter(output.keys()))] = hidden_PD[None]
        return output

    hook = decoder_of(model).register_forward_hook(exchange)
    try:
        ids_BT = torch.arange(len(hidden_PD), device=hidden_PD.device)[None]
        logits_PV: Tensor = model(input_ids=ids_BT, use_cache=False).logits[0, :, :_ROWS].float()
    finally:
        hook.remove()
    return logits_PV


def _whole_path(model: Any, head: Any, form: HeadForm) -> tuple[Tensor, Tensor]:
    """Our logits and the model's own on a few tokens: its decoder must give the same hidden states alone."""
    ids_BT = torch.arange(4, device=head.weight.device)[None] % len(head.weight)
    hidden_TD = decoder_of(model)(input_ids=ids_BT, use_cache=False)[0][0]
    return form(_product(head, hidden_TD)), model(input_ids=ids_BT, use_cache=False).logits[
        0, :, :_ROWS
    ].float()


def _candidates(model: Any, product_PV: Tensor, logits_PV: Tensor) -> Iterator[HeadForm]:
    """Forms that the numbers suggest, the likeliest first."""
    product_PV, logits_PV = product_PV.double(), logits_PV.double()
    scale = float((product_PV[0] * logits_PV[0]).sum() / (product_PV[0] ** 2).sum())
    largest = float(logits_PV[-1].abs().max())
    capped = largest < 0.5 * abs(scale) * float(product_PV[-1].abs().max())
    numbers = sorted(set(_numbers(model.config)))
    for exact in (True, False):
        if exact:
            near = [1.0, *numbers, *(1.0 / number for number in numbers)]
            yield HeadForm(_nearest(scale, near), _nearest(largest, numbers) if capped else None)
        else:
            yield HeadForm(scale, largest if capped else None)


def _nearest(measured: float, numbers: list[float]) -> float:
    """The number within a hundredth of a measured one; the measured one where there is none."""
    best = min(numbers, key=lambda number: abs(number - measured), default=measured)
    return best if abs(best - measured) <= 0.01 * abs(measured) else measured


def _numbers(config: Any) -> Iterator[float]:
    """Every finite number in a configuration, those of its parts too."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    for value in values.values():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            number = float(value)
            if math.isfinite(number):
                yield number


def _error(ours_PV: Tensor, theirs_PV: Tensor) -> float:
    """Largest difference, in units of the largest logit of its row (at least 1)."""
    size_P1 = theirs_PV.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    return float(((ours_PV - theirs_PV).abs() / size_P1).max())
