"""The processes that train together: who they are, sums and agreements among them, DDP and FSDP2.

Launching is accelerate's and torchrun's business; several launch paths silently train alone or twice, so the number
of processes is compared with what the run asked for. Leaves out what is computed.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import Tensor, nn

from agentbench.errors import UsageError

_PATIENCE = timedelta(hours=6)
"""How long a process waits for the others, who may be evaluating or playing a slow episode; a dead one is noticed at
once by whoever launched them."""


class Processes:
    """This process among all that train together."""

    def __init__(self, wanted: int, *, fsdp: bool = False) -> None:
        """Join the others.

        Args:
            wanted: number of processes the run asked for.
            fsdp: shard parameters, gradients and optimizer state (FSDP2) instead of copying them (DDP).
        Raises: UsageError: another number of processes was launched, or a launch that trains twice.
        """
        patience = InitProcessGroupKwargs(timeout=_PATIENCE)
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[patience])
        self.count = int(self.accelerator.num_processes)
        self.index = int(self.accelerator.process_index)
        self.device: torch.device = self.accelerator.device
        self.fsdp = fsdp and self.count > 1
        atexit.register(_leave)
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if self.count != launched:
            raise UsageError(
                f"{launched} processes were launched but each trains alone (accelerate found {self.count}); "
                "launch with: agentbench train CONFIG --num-processes N"
            )
        if self.count != wanted:
            raise UsageError(
                f"num_processes = {wanted}, but {self.count} process(es) were launched; set num_processes: "
                f"{self.count} or launch with: agentbench train CONFIG --num-processes {wanted}"
            )

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0

    def wait(self) -> None:
        """Let all processes catch up."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Tell every process whether any of them raised the flag."""
        return self.sum(float(flag)) > 0

    def sum(self, value: float) -> float:
        """Add a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        return float(self.accelerator.reduce(total.to(self.device), reduction="sum")[0])

    def max(self, value: int) -> int:
        """Largest of a number over all processes."""
        return value if self.count == 1 else max(self.gather([value]))

    def gather(self, items: list[Any]) -> list[Any]:
        """Concatenate lists of plain Python values over all processes, in order of process."""
        return items if self.count == 1 else list(gather_object(items))

    def concatenate(self, x_X: Tensor) -> Tensor:
        """Concatenate one-dimensional tensors of any lengths over all processes, in order of process."""
        return x_X if self.count == 1 else torch.cat(self.gather([x_X.cpu()])).to(x_X.device)

    def collect(self, items: list[Any]) -> list[Any]:
        """Concatenate lists of plain Python values on the first process, in order of process; [] on the others."""
        if self.count == 1:
            return items
        parts: list[Any] | None = [None] * self.count if self.first else None
        torch.distributed.gather_object(items, parts)
        return [item for part in parts or [] for item in part]

    def wrap(
        self, module: nn.Module, layers: list[nn.Module], dtype: torch.dtype, *, some_idle: bool = False
    ) -> nn.Module:
        """Make a module train together with its copies (DDP) or shards (FSDP2).

        Args:
            module: what `forward` and `backward` are called on; already on the device.
            layers: parts that FSDP2 gathers one at a time.
            dtype: of FSDP2's computation; gradients are reduced in float32.
            some_idle: whether a forward pass may leave trained parameters out; DDP then looks for them each time
                instead of waiting for their gradients.
        """
        if self.count == 1:
            return module
        if not self.fsdp:
            if some_idle:
                self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
            wrapped: nn.Module = self.accelerator.prepare_model(module)
            return wrapped
        # accelerate considers FSDP on accelerators only and falls back to DDP without a word, so torch is asked itself
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(module, mp_policy=policy)
        return module

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Exchange gradients after the last backward of an accumulation only."""
        if self.count == 1:
            yield
        elif self.fsdp:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]
            yield
        elif last:
            yield
        else:
            with self.accelerator.no_sync(module):
                yield


def _leave() -> None:
    """End gloo's threads before the interpreter goes: a thread still running then aborts the whole process."""
    # NCCL waits for the others when it is ended, who may be gone; its threads do no harm.
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; every process must call this. Others come back as they are."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()
