"""The gradient of an update whose optimizer steps are held back. Leaves out what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .student import Student


def gradient_of(student: Student, update: Callable[[], object]) -> dict[str, Any]:
    """Run an update without changing a weight; returns its gradient by parameter, float64 in numpy.

    What several optimizer steps would have followed is added up. `max_grad_norm` clips it as always.
    """
    found = {
        name: torch.zeros_like(p, dtype=torch.float64) for name, p in student.net.plain.named_parameters()
    }

    def hold() -> None:
        for name, parameter in student.net.plain.named_parameters():
            if parameter.grad is not None:
                found[name] += parameter.grad.detach().double()

    optimizer: Any = student.optimizer
    step, optimizer.step = optimizer.step, hold
    try:
        update()
    finally:
        optimizer.step = step
    return {name: gradient.cpu().numpy() for name, gradient in found.items()}
