"""Every tensor of a model under the name it was read by: what is trained is what is saved and served.

Where a tensor lives is noted before adapters are put in, by its module: wrappers nest and rename, sharding exchanges
the parameters, but the module stays. Names are those of the model's own `state_dict`: parameters and persistent
buffers, tied ones once. Adapters are merged by peft itself, on a float32 copy of one layer at a time. Leaves out files.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agentbench.errors import UsageError

from .processes import whole


@dataclass(frozen=True)
class Named:
    """One tensor of a model.

    Attributes:
        name: as in the source's state_dict.
        tensor: whole, detached; float32 where an adapter was merged.
        base: the frozen weight below an adapter; None where there is none.
    """

    name: str
    tensor: Tensor
    base: Tensor | None = None


class Places:
    """Module and attribute of every tensor of a model, noted before adapters are put in.

    Attributes:
        names: in the order of the model's state_dict.
    """

    def __init__(self, model: Any) -> None:
        """Note them."""
        modules = dict(model.named_modules(remove_duplicate=False))
        self._at: dict[str, tuple[nn.Module, str]] = {}
        seen: set[int] = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not isinstance(tensor, Tensor) or id(tensor) in seen:
                continue  # a tied weight is given once, under its first name
            seen.add(id(tensor))
            owner, _, attribute = name.rpartition(".")
            self._at[name] = (modules[owner], attribute)

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._at)

    def __getitem__(self, name: str) -> Tensor:
        """The live tensor of a name; may be sharded."""
        module, attribute = self._at[name]
        tensor: Tensor = getattr(module, attribute)
        return tensor

    def merged(self, model: Any) -> Iterator[Named]:
        """Every tensor, adapters merged; with shards, all processes must iterate.

        Args:
            model: the same model, with adapters or without.
        """
        wrappers = adapter_layers(model)
        owner, merged = None, None
        for name, (module, attribute) in self._at.items():
            tensor = whole(getattr(module, attribute).detach())
            wrapper = wrappers.get(id(module))
            if wrapper is None:
                yield Named(name, tensor)
                continue
            if owner is not module:
                owner, merged = module, _merge(wrapper)
            yield Named(name, getattr(merged, attribute).detach(), tensor)

    def check_adapters(self, model: Any) -> None:
        """Refuse adapters that would not be trained, or could not be given to anybody.

        Args:
            model: with adapters.
        Raises: UsageError: names the module.
        """
        known = {id(module) for module, _ in self._at.values()}
        head, embedding = (_below(get()) for get in (model.get_output_embeddings, model.get_input_embeddings))
        tied = head.weight is embedding.weight
        for key, layer in named_adapters(model):
            base = layer.get_base_layer()
            if base is head or (tied and base is embedding):
                why = "shared with the head (tied)" if tied else "the head"
                raise UsageError(
                    f"lora.target_modules takes in {key.rsplit('.', 1)[-1]!r}, which is {why}: losses read the head's "
                    "own weight, so its adapter would not be trained; leave it out, or train without lora"
                )
            if id(base) not in known:
                raise UsageError(
                    f"lora: the adapter on {key!r} belongs to no weight of the model, so it could not be merged; name "
                    "others in lora.target_modules, such as [q_proj, k_proj, v_proj, o_proj]"
                )


def adapter_layers(model: Any) -> dict[int, Any]:
    """The outermost adapter around each module, by the module's id; {} without adapters."""
    found: dict[int, Any] = {}
    for _, layer in named_adapters(model):
        found.setdefault(id(layer.get_base_layer()), layer)  # modules come from outside in
    return found


def named_adapters(model: Any) -> Iterator[tuple[str, Any]]:
    """Every layer that holds adapters, with its name; from outside in."""
    for name, module in model.named_modules():
        if hasattr(module, "get_base_layer") and hasattr(module, "merged_adapters"):
            yield name, module


def _below(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _merge(wrapper: Any) -> Any:
    """Merge one layer's adapters on a float32 copy of it; returns the plain module.

    Low precision would lose most of a small update: the sum must not be rounded to the dtype of the frozen copy.
    """
    copies: dict[int, Any] = {
        id(parameter): nn.Parameter(
            whole(parameter.detach()).to(torch.float32, copy=True), requires_grad=False
        )
        for parameter in wrapper.parameters()
    }
    layer = copy.deepcopy(wrapper, copies)
    with torch.no_grad():
        if hasattr(layer, "unload_and_optionally_merge_module"):  # adapters on parameters are nested
            return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        layer.merge()
        return layer.get_base_layer()
