"""Puts adapters into a model, and refuses bases and adapters that would not be trained as they are served.

Leaves out their names and merging (`naming`) and optimisation (`student`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from agentbench.errors import UsageError
from agentbench.models.loading import quantisation
from agentbench.training.config import LoraSettings

from .naming import named_adapters


def refuse_quantised(name: str) -> None:
    """Refuse a base whose folder holds quantised weights: what is trained could not be saved in their form.

    Raises: UsageError: says how to have it in full.
    """
    if method := quantisation(name):
        raise UsageError(
            f"model {name!r} is quantised ({method}): it can act and teach, but what is trained could not be saved "
            "so that it can be read again; take its weights in bfloat16, float16 or float32"
        )


def refuse_loaded(model: Any, name: str) -> None:
    """Refuse a base whose folder also holds an adapter: transformers has put it in, under everything trained here.

    Raises: UsageError: says how to merge it.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(
            f"model {name!r} holds an adapter (adapter_config.json) beside its weights, which transformers applies; "
            "merge it first (peft's merge_and_unload, then save_pretrained to another folder), or remove it"
        )


def with_adapters(model: Any, settings: LoraSettings, *, dropout: bool) -> Any:
    """Wrap a model by peft.

    Args:
        model: to be wrapped.
        settings: of the adapters.
        dropout: whether `lora.dropout` makes sense to the algorithm.
    Raises: UsageError: they cannot be put there.
    """
    from peft import LoraConfig, get_peft_model

    if settings.dropout and not dropout:
        raise UsageError(
            f"lora.dropout = {settings.dropout}: this algorithm compares the log-probs of the policy that acts with "
            "those of the policy that learns, and dropout makes them two; set it to 0 (sft alone takes it)"
        )
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # of experts: peft writes ranks for parameters by pattern, and then misses modules of that name
            warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
            warnings.filterwarnings("ignore", "The following alpha_pattern keys", RuntimeWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(f"lora: {str(error).splitlines()[0]}") from error


def refuse_bypassed(
    model: Any, idle: Sequence[nn.Parameter], again: Callable[[], Sequence[nn.Parameter]]
) -> None:
    """Refuse adapters on layers whose weight the model reads itself: they would be served and never trained.

    An adapter may well be idle for a text, as that of an expert whom nobody chose; then so is the weight below it.

    Args:
        model: with adapters.
        idle: parameters without a gradient.
        again: repeats the pass and says the same.
    Raises: UsageError: names the layers.
    """
    known = {id(parameter) for parameter in idle}
    suspects: dict[str, nn.Parameter] = {}
    for name, layer in named_adapters(model):
        base = layer.get_base_layer()
        own = [p for p in layer.parameters() if p.requires_grad]
        weight = getattr(base, "weight", None)
        if own and isinstance(weight, nn.Parameter) and all(id(p) in known for p in own):
            suspects[name] = weight
    if not suspects:
        return
    for weight in suspects.values():
        weight.requires_grad_(True)
    try:
        still = {id(parameter) for parameter in again()}
    finally:
        for weight in suspects.values():
            weight.requires_grad_(False)
    read = sorted(name for name, weight in suspects.items() if id(weight) not in still)
    if read:
        kinds = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in read}))
        raise UsageError(
            f"lora: the model reads the weight of {read[0]!r} itself, so adapters on {kinds} would be served "
            "and never trained; name other layers in lora.target_modules, such as [q_proj, k_proj, v_proj, o_proj]"
        )
