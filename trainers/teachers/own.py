"""The student as its own teacher: itself as it stands, or an average of its past.

Such a teacher knows more than the student only by what it reads (`contexts`). Under FSDP neither is offered: the
student's weights lie in shards, and every look at them would have to be taken by all processes at once.
Leaves out models of their own (`local`).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from agentbench.errors import CorruptData, UsageError

from ..batch.micro import Micro
from ..kernels.fused import LinearHead
from ..student.student import Student
from .local import ModelTeacher


class StudentTeacher(ModelTeacher):
    """The student with its weights of this moment; nothing it says carries a gradient."""

    def __init__(self, student: Student) -> None:
        """Look at the student.

        Raises: UsageError: its weights are sharded.
        """
        _require_whole(student, "student")
        super().__init__(student.net, student)

    def _read(self, micro: Micro) -> LinearHead:
        """Hidden states and head, as the student acts: what training alone switches on stays off."""
        training = any(module.training for module in self.net.switched)
        self.net.train(False)
        try:
            return super()._read(micro)
        finally:
            self.net.train(training)


class MovingAverage(ModelTeacher):
    """An exponential moving average of the student's weights, which starts as the student.

    After every step that changed the student, `theta' <- (1 - rate) theta' + rate theta`, in float32, from weights that
    are equal on all processes. It is saved in checkpoints and restored to the bit.
    """

    def __init__(self, student: Student, rate: float) -> None:
        """Copy what is trained; frozen weights are shared.

        Args:
            student: whose `averages` it joins, so that it follows, is saved and restored with it.
            rate: weight of the newest student, in (0, 1].
        Raises: UsageError: its weights are sharded.
        """
        _require_whole(student, "ema")
        frozen = {id(p): p for p in student.net.parameters() if not p.requires_grad}
        net = copy.deepcopy(student.net, frozen)  # deepcopy takes what its memo holds as copied already
        super().__init__(net.requires_grad_(False).eval(), student)
        self.student, self.rate = student, rate
        student.averages.append(self)

    @torch.no_grad()
    def follow(self) -> None:
        """Take one step towards the student."""
        for name, theirs in self._trained().items():
            self._own[name].lerp_(theirs.detach(), self.rate)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by name, whole."""
        return {name: self._own[name].detach().cpu().clone() for name in self._trained()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises: CorruptData: it is of another model.
        """
        wanted = {name: tuple(p.shape) for name, p in self._trained().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if wanted != found:
            odd = sorted(wanted.items() ^ found.items())[0][0]
            raise CorruptData(f"the averaged teacher of this checkpoint does not fit the model at {odd!r}")
        for name, tensor in state.items():
            self._own[name].copy_(tensor)

    @property
    def _own(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.net.named_parameters())

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.student.net.named_parameters() if p.requires_grad}


def _require_whole(student: Student, backend: str) -> None:
    if student.processes.fsdp:
        raise UsageError(
            f"teachers.backend {backend!r} reads the student's own weights, which fsdp keeps in shards; set fsdp: false"
        )
