"""Replaces the weights inside a vLLM worker, wherever that worker runs.

`WeightLoader` is a vLLM worker extension: its methods are called by name, in this process by the engine `vllm`, in a
server through `--worker-extension-cls agentbench.engines.vllm.worker.WeightLoader`. Weights are checked
against the architecture before the first one is touched. Leaves out who calls and when caches are dropped (`vllm`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import ContractError, CorruptData
from ...models.weights import samples_digest, some_values


class Blueprint:
    """Names and shapes of an architecture's weights, in the order of `named_parameters`.

    Attributes:
        shapes: by the first name of each weight; tied weights have one entry.
        first: any name of a weight to its first name.
    """

    def __init__(self, config: Any, *, trust_remote_code: bool = False) -> None:
        """Lay out the model of a Hugging Face configuration without memory for its weights."""
        import torch
        from transformers import AutoModelForCausalLM

        auto: Any = AutoModelForCausalLM
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=trust_remote_code)
        own = {id(parameter): name for name, parameter in model.named_parameters()}
        self.shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        state = model.state_dict(keep_vars=True)
        # persistent buffers (a router's bias) travel with the weights, but an update may leave them as they are
        self._buffers = {name: tuple(value.shape) for name, value in state.items() if id(value) not in own}
        self.first = {name: own.get(id(value), name) for name, value in state.items()}

    def check(self, shapes: Iterable[tuple[str, tuple[int, ...]]], error: type[Exception]) -> None:
        """Refuse weights of other names or shapes, and incomplete ones."""
        given = set()
        for name, shape in shapes:
            if name not in self.first:
                raise error(f"the model has no weight {name!r}; one it has is {next(iter(self.shapes))!r}")
            needed = self.shapes.get(self.first[name]) or self._buffers[name]
            if shape != needed:
                raise error(f"weight {name!r} has shape {shape} and needs {needed}")
            given.add(self.first[name])
        missing = [name for name in self.shapes if name not in given]
        if missing:
            raise error(f"{len(missing)} weights were not given, such as {missing[0]!r}")

    def digest(self, samples: Mapping[str, Any]) -> str:
        """`loading.weights_digest` of the model, from `some_values` of each weight by its first name."""
        return samples_digest((name, shape, samples[name]) for name, shape in self.shapes.items())

    def read(self, folder: Path | str) -> Iterator[tuple[str, Any]]:
        """Open a safetensors folder; its weights come under their first names, one at a time.

        Raises: CorruptData: at once, when the folder does not hold exactly this model.
        """
        from safetensors import safe_open

        paths = sorted(Path(folder).glob("*.safetensors"))
        if not paths:
            raise CorruptData(f"{str(folder)!r} holds no *.safetensors; save the model with save_pretrained")
        files: list[Any] = [safe_open(path, "pt") for path in paths]
        where = {name: file for file in files for name in file.keys()}  # noqa: SIM118  (no mapping)
        found = ((name, tuple(file.get_slice(name).get_shape())) for name, file in where.items())
        self.check(found, CorruptData)
        return ((self.first[name], file.get_tensor(name)) for name, file in where.items())


class WeightLoader:
    """Methods that vLLM adds to its worker."""

    model_runner: Any  # of vLLM's worker
    _known: Blueprint | None = None

    def load_from(self, folder: str, version: int) -> dict[str, Any]:
        """Load the weights of a safetensors folder; the caller resets the prefix cache afterwards.

        Args:
            folder: a Hugging Face folder of the served architecture, readable by this process.
            version: echoed, so that the caller can tell which push was answered.
        Returns: {"version": version, "weights": fingerprint as in `loading.weights_digest`}.
        Raises: CorruptData: the folder does not hold exactly this model; the old weights are still in place.
        """
        blueprint = self._blueprint()
        return self._load(blueprint, blueprint.read(folder), version)

    def load_named(self, named: Iterable[tuple[str, Any]], version: int) -> dict[str, Any]:
        """Load tensors given under their Hugging Face names; otherwise as `load_from`.

        Raises: ContractError: a name or shape does not fit, or a weight is left out; nothing was changed.
        """
        blueprint = self._blueprint()
        tensors = dict(named)
        blueprint.check(((name, tuple(tensor.shape)) for name, tensor in tensors.items()), ContractError)
        return self._load(
            blueprint, ((blueprint.first[name], tensor) for name, tensor in tensors.items()), version
        )

    def keep_ids(self, width: int, holes: list[int]) -> None:
        """Give other ids no probability, in replies and in scored prompts alike: both come from `compute_logits`.

        Args:
            width: ids from here on are padding of the head.
            holes: ids below that no token has.
        """
        import torch

        model = self.model_runner.get_model()
        compute, index = model.compute_logits, torch.tensor(holes, dtype=torch.long)

        def existing(*inputs: Any, **options: Any) -> Any:
            logits = compute(*inputs, **options)
            if logits is not None:  # a rank of a pipeline that has no head
                logits[..., width:] = float("-inf")
                logits[..., index.to(logits.device)] = float("-inf")
            return logits

        model.compute_logits = existing

    def digest_of(self, folder: str) -> str:
        """Fingerprint of the weights in a folder, without loading them."""
        blueprint = self._blueprint()
        return blueprint.digest({name: some_values(tensor) for name, tensor in blueprint.read(folder)})

    def _load(self, blueprint: Blueprint, named: Iterable[tuple[str, Any]], version: int) -> dict[str, Any]:
        samples: dict[str, Any] = {}

        def passing() -> Iterator[tuple[str, Any]]:
            for name, tensor in named:
                samples[name] = some_values(tensor)
                yield name, tensor

        self.model_runner.reload_weights(weights_iterator=passing())
        repack_heads(self.model_runner.get_model())
        return {"version": version, "weights": blueprint.digest(samples)}

    def _blueprint(self) -> Blueprint:
        if self._known is None:
            config = self.model_runner.model_config
            self._known = Blueprint(config.hf_config, trust_remote_code=config.trust_remote_code)
        return self._known


def repack_heads(model: Any) -> None:
    """Rebuild the packed copies of language-model heads that vLLM multiplies with on CPU.

    A reload renews the embedding, but not the copy packed from it for a tied head, which goes on giving the old
    logits without any error.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
