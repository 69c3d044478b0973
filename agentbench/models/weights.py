"""Copy weights into a model and fingerprint them. Leaves out opening a model (`loading`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from ..errors import ContractError


def copy_weights(model: Any, named_tensors: Iterable[tuple[str, Any]]) -> None:
    """Overwrite a model's weights in place; tied weights stay tied, and may be given under either name.

    Raises: ContractError: a name or shape does not fit, or a weight was left out; the weights are then a mixture.
    """
    import torch

    own = dict(model.state_dict(keep_vars=True))
    given: set[int] = set()
    with torch.no_grad():
        for name, tensor in named_tensors:
            if name not in own:
                raise ContractError(f"the model has no weight {name!r}; one it has is {next(iter(own))!r}")
            target = own[name]
            if target.shape != tensor.shape:
                raise ContractError(
                    f"weight {name!r} has shape {tuple(tensor.shape)} and needs {tuple(target.shape)}"
                )
            if target.data_ptr() != tensor.data_ptr():
                target.copy_(tensor)
            given.add(id(target))
    left_out = [name for name, parameter in model.named_parameters() if id(parameter) not in given]
    if left_out:
        raise ContractError(f"{len(left_out)} weights were not given, such as {left_out[0]!r}")


def weights_digest(model: Any) -> str:
    """Fingerprint of the weights: sha256 over the name, shape and up to 64 evenly spaced values of each.

    Cheap, and different after any training step that touches a sampled value; it does not prove that two models are
    equal everywhere.
    """
    return samples_digest((name, tuple(p.shape), some_values(p)) for name, p in model.named_parameters())


def some_values(tensor: Any) -> Any:
    """Up to 64 evenly spaced values of a tensor, float32 on the CPU."""
    import torch

    flat = tensor.detach().reshape(-1)
    index = torch.linspace(0, flat.numel() - 1, min(64, flat.numel()), dtype=torch.float64).long()
    return flat[index.to(flat.device)].float().cpu()


def samples_digest(samples: Iterable[tuple[str, tuple[int, ...], Any]]) -> str:
    """`weights_digest` of what was picked from each weight: its name, its shape and `some_values` of it, in order."""
    digest, picked = hashlib.sha256(), []
    for name, shape, values in samples:
        digest.update(f"{name} {shape}\n".encode())
        picked.append(values.numpy().tobytes())
    digest.update(b"".join(picked))
    return digest.hexdigest()[:16]
