"""Checkpoints: a plain Hugging Face folder, and beside it what is needed to go on to the bit.

- config, `model.safetensors`, generation config, tokenizer: loads anywhere, adapters merged;
- `adapter.pt`: the adapters alone, when there are any; merging cannot be undone exactly;
- `trainer_state.json`, `optimizer.pt`, `rng-<process>.pt`.

Process 0 writes all but its peers' random states. Leaves out when to save and how many
to keep (`agentbench.training.loop`).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentbench.errors import CorruptData, UsageError
from agentbench.foreign import printable
from agentbench.models.loading import quiet_transformers

from .hidden import load as load_model
from .processes import whole
from .student import Student

_STATE, _OPTIMIZER, _ADAPTER = "trainer_state.json", "optimizer.pt", "adapter.pt"


def save(folder: Path, student: Student, state: dict[str, Any]) -> None:
    """Write a checkpoint; every process must call this.

    Args:
        folder: made when absent; whoever calls makes it appear whole (write beside, then rename).
        student: model, tokenizer and optimizer.
        state: plain values of the algorithm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in student.weights()}
    adapters = {
        name: whole(parameter.detach()).cpu()
        for name, parameter in student.net.plain.named_parameters()
        if "lora_" in name
    }
    optimizer = _optimizer_state(student)
    if student.processes.first:
        with quiet_transformers():
            student.net.plain.save_pretrained(folder, state_dict=weights)
        student.tokenizer.save_pretrained(folder)
        if adapters:
            torch.save(adapters, folder / _ADAPTER)
        torch.save(optimizer, folder / _OPTIMIZER)
        text = json.dumps({**state, "num_processes": student.processes.count}, indent=1)
        (folder / _STATE).write_text(text + "\n", encoding="utf-8")
    torch.save(_random_state(), folder / f"rng-{student.processes.index}.pt")


def load(folder: Path, student: Student) -> dict[str, Any]:
    """Restore weights, optimizer and random states, and return the algorithm's state; every process must call this.

    Raises:
        UsageError: the folder is no training checkpoint, or of another number of processes.
        CorruptData: a file of it cannot be read.
    """
    if not (folder / _STATE).is_file():
        raise UsageError(f"{str(folder)!r} is not a training checkpoint: it has no {_STATE}")
    # Everything is read before anything is changed, so a damaged file leaves the trainer as it was.
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        written = state.pop("num_processes")
        optimizer = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)
        if written == student.processes.count:
            states = torch.load(folder / f"rng-{student.processes.index}.pt", weights_only=True)
    except (
        Exception
    ) as error:  # torn bytes make the unpickler raise anything, an empty file EOFError without a word
        reason = f"{type(error).__name__}: {printable(str(error), 300)}"
        raise CorruptData(f"checkpoint {str(folder)!r} is damaged and cannot be read: {reason}") from error
    if written != student.processes.count:
        raise UsageError(
            f"checkpoint {str(folder)!r} was written by {written} process(es), this run has {student.processes.count}; "
            "an exact resume needs the same number. To start anew from its weights, give it as model_name_or_path"
        )
    _load_weights(folder, student)
    _load_optimizer(student, optimizer)
    _set_random_state(states)
    return state


def _load_weights(folder: Path, student: Student) -> None:
    own = dict(student.net.plain.named_parameters())
    if student.run.lora is not None:
        # the base under the adapters never changes and was loaded from where it came
        try:
            saved = torch.load(folder / _ADAPTER, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {printable(str(error), 300)}"
            raise CorruptData(f"checkpoint {str(folder)!r}: {_ADAPTER} cannot be read: {reason}") from error
    else:
        saved = dict(load_model(str(folder), torch.float32, torch.device("cpu"))[0].named_parameters())
    missing = [name for name in own if name not in saved and (student.run.lora is None or "lora_" in name)]
    if missing:
        raise UsageError(
            f"checkpoint {str(folder)!r} has no weight {missing[0]!r}; it belongs to another model than "
            f"{student.run.model_name_or_path!r}, or to a run without these adapters"
        )
    with torch.no_grad():
        for name, tensor in saved.items():
            if own[name].shape != tensor.shape:
                raise UsageError(
                    f"weight {name!r} has shape {tuple(tensor.shape)} in checkpoint {str(folder)!r} and "
                    f"{tuple(own[name].shape)} in the model"
                )
            own[name].copy_(_like(own[name], tensor))


def _optimizer_state(student: Student) -> dict[str, Any]:
    """The optimizer's state with whole tensors, so that a sharded run writes what a single process would."""
    state = student.optimizer.state_dict()
    whole_state = {
        number: {
            name: whole(value).cpu() if isinstance(value, Tensor) else value for name, value in values.items()
        }
        for number, values in state["state"].items()  # new mappings: these are the optimizer's own
    }
    return {**state, "state": whole_state}


def _load_optimizer(student: Student, state: dict[str, Any]) -> None:
    for number, parameter in enumerate(student.trained):
        for name, value in state["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state["state"][number][name] = _like(parameter, value)
    student.optimizer.load_state_dict(state)


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Put a whole tensor where the parameter is: its device, and its shards if it has any."""
    mesh = getattr(parameter, "device_mesh", None)
    tensor = tensor.detach().to(parameter.device)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, parameter.placements)  # type: ignore[attr-defined]


def _random_state() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
