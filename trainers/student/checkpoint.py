"""Checkpoints: a plain Hugging Face folder, and beside it what is needed to go on to the bit.

- config, `model.safetensors`, generation config, tokenizer: loads anywhere, adapters merged, in the dtype that the
  engine has, so that it plays as the student did;
- `adapter/`: the adapters alone, as peft keeps them, when there are any;
- `trainer_state.json`, `optimizer.pt`, `rng-<process>.pt`, and `averages.pt` where a teacher is an average of the
  student. With the optimizer's state stand the trained parameters in
  float32 (the "masters") wherever the folder's own weights are merged or rounded.

Process 0 writes all but its peers' random states. Leaves out when to save and how many
to keep (`agentbench.training.loop`).
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentbench.errors import CorruptData, UsageError
from agentbench.foreign import printable
from agentbench.models.loading import open_model, quiet_transformers

from .naming import Places
from .processes import whole
from .student import Student

_STATE, _OPTIMIZER, _ADAPTER, _AVERAGES = "trainer_state.json", "optimizer.pt", "adapter", "averages.pt"


def save(folder: Path, student: Student, state: dict[str, Any]) -> None:
    """Write a checkpoint; every process must call this.

    Args:
        folder: made when absent; whoever calls makes it appear whole (write beside, then rename).
        student: model, tokenizer and optimizer.
        state: plain values of the algorithm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu", student.kept_as(name, tensor), copy=True)
        for name, tensor in student.weights()
    }
    optimizer = {**_optimizer_state(student), "masters": _masters(student)}
    if student.processes.first:
        with quiet_transformers():
            student.net.plain.save_pretrained(folder, state_dict=weights)
        _state_dtype(folder, student.kept)
        student.tokenizer.save_pretrained(folder)
        if student.run.lora is not None:
            _save_adapter(folder / _ADAPTER, student, optimizer["masters"])
        torch.save(optimizer, folder / _OPTIMIZER)
        if student.averages:
            torch.save([average.state() for average in student.averages], folder / _AVERAGES)
        kept = {"num_processes": student.processes.count, "origins": student.origins}
        (folder / _STATE).write_text(json.dumps({**state, **kept}, indent=1) + "\n", encoding="utf-8")
    torch.save(_random_state(), folder / f"rng-{student.processes.index}.pt")


def _masters(student: Student) -> dict[str, Tensor] | None:
    """Trained parameters by name, exactly; None where the folder's weights are just these."""
    if student.run.lora is None and student.kept == torch.float32:
        return None
    return {
        name: whole(parameter.detach()).cpu()
        for name, parameter in student.net.plain.named_parameters()
        if parameter.requires_grad
    }


def _state_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Say in config.json what the weights are kept in; transformers writes what it trained in."""
    path, name = folder / "config.json", str(dtype).removeprefix("torch.")
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part is config or "dtype" in part:
            part["dtype"] = name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_adapter(folder: Path, student: Student, adapters: dict[str, Tensor]) -> None:
    """Write the adapters as peft does, in their own folder: beside config.json transformers would apply them again."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    wrapped = student.net.model
    config = copy.copy(wrapped.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = student.run.model_name_or_path, True
    config.save_pretrained(str(folder))
    state = get_peft_model_state_dict(
        wrapped, {f"base_model.model.{name}": tensor for name, tensor in adapters.items()}
    )
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})


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
        averages = (
            torch.load(folder / _AVERAGES, map_location="cpu", weights_only=True) if student.averages else []
        )
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
    _check_origins(folder, student, state.pop("origins", {}))
    _load_weights(folder, student, optimizer.pop("masters", None))
    _load_optimizer(student, optimizer)
    for average, kept in zip(student.averages, averages, strict=True):
        average.load_state(kept)
    _set_random_state(states)
    return state


def _check_origins(folder: Path, student: Student, origins: dict[str, str]) -> None:
    """Refuse to go on over models that changed since: the base under adapters, a teacher, a reference."""
    for name, digest in origins.items():
        now = student.origins.get(name, digest)
        if now != digest:
            raise UsageError(
                f"the weights of {name!r} are not those that the run of checkpoint {str(folder)!r} started with "
                f"(fingerprint {digest} then, {now} now); put the old ones back, or start a new run"
            )


def _load_weights(folder: Path, student: Student, masters: dict[str, Tensor] | None) -> None:
    saved = masters
    if saved is None or student.run.lora is None:  # the base under adapters was loaded from where it came
        model, _ = open_model(str(folder), dtype="float32", device="cpu")
        read = Places(model)
        saved = {**{name: read[name] for name in read.names}, **(masters or {})}
    trained = {name: p for name, p in student.net.plain.named_parameters() if p.requires_grad}
    own = trained if student.run.lora is not None else {n: student.places[n] for n in student.places.names}
    missing = [name for name in own if name not in saved]
    if missing:
        raise UsageError(
            f"checkpoint {str(folder)!r} has no weight {missing[0]!r}; it belongs to another model than "
            f"{student.run.model_name_or_path!r}, or to a run without these adapters"
        )
    with torch.no_grad():
        for name, target in own.items():
            if target.shape != saved[name].shape:
                raise UsageError(
                    f"weight {name!r} has shape {tuple(saved[name].shape)} in checkpoint {str(folder)!r} and "
                    f"{tuple(target.shape)} in the model"
                )
            target.copy_(_like(target, saved[name]))


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
