"""The model that learns: weights, tokenizer, optional adapters, optimizer, and log-probs of given tokens.

Log-probs go from hidden states through the head in chunks (`chunked_tokens`), so full-vocabulary logits never exist
for a batch. The learning rate is a pure function of the step. Leaves out losses (`objectives`), what an
update is (`base`) and checkpoints (`checkpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.training.config import LoraSettings, TrainConfig

from ..batch.micro import Micro, idle_micro, micro_batches
from ..batch.tables import Batch
from ..kernels.tokens import logprob
from .hidden import HiddenHead, Kernel, Outputs, decoder_layers, load
from .processes import Processes, whole


@dataclass(frozen=True)
class Scores:
    """Log-prob of each trained token and entropy of its distribution, float32 nats; 0 elsewhere.

    Attributes:
        rows_B: bool, which rows were scored; None means all.
    """

    logp_BT: Tensor
    entropy_BT: Tensor
    rows_B: Tensor | None = None


class Student:
    """The trained model."""

    def __init__(self, run: TrainConfig, processes: Processes, *, temperature: float = 1.0) -> None:
        """Load it and make its optimizer.

        Args:
            run: names the model and everything about its optimisation.
            processes: those that train together.
            temperature: logits are divided by it, as the sampler does.
        """
        self.run, self.processes, self.temperature = run, processes, temperature
        self.device = processes.device
        self.dtype = torch.bfloat16 if run.bf16 else torch.float32
        # Trained weights stay in float32 (bf16 is the dtype of products); frozen ones under adapters need not,
        # except that FSDP2 wants one dtype in a group.
        stored = self.dtype if run.lora is not None and not processes.fsdp else torch.float32
        model, self.tokenizer = load(run.model_name_or_path, stored, self.device)
        pad = self.tokenizer.pad_token_id
        self.pad_id = int(self.tokenizer.eos_token_id if pad is None else pad)
        self.vocab_size = len(self.tokenizer)
        if run.gradient_checkpointing:
            _checkpoint_activations(model)
        model = model if run.lora is None else _with_adapters(model, run.lora)
        self.net = HiddenHead(model, self.dtype).to(self.device)
        self.runner = processes.wrap(self.net, decoder_layers(self.net.plain), self.dtype)
        self.optimizer = _optimizer(self.net, run)

    # --- scoring ------------------------------------------------------------------------------------------------------

    def micro_batches(self, batch: Batch, rows_B: Tensor | None = None) -> list[Micro]:
        """Pack rows by token budget; every process gets the same number, since gradients are exchanged together."""
        micros = micro_batches(batch, self.run.tokens_per_micro_batch, self.device, rows_B)
        idle = self.processes.max(len(micros)) - len(micros)
        return micros + [idle_micro(self.pad_id, self.device)] * idle

    def apply(self, micro: Micro, kernel: Kernel) -> Outputs:
        """Run a kernel on the micro-batch's hidden states and the head."""
        with self._autocast():
            outputs: Outputs = self.runner(micro.tokens_BT, micro.local, kernel)
        return outputs

    def logprobs(self, micro: Micro) -> tuple[Tensor, Tensor]:
        """Score the trained tokens of a micro-batch: (logp_X with gradient, entropy_X without)."""
        logp_X, entropy_X = self.apply(
            micro,
            lambda hidden_XD, head_VD: logprob(
                hidden_XD,
                head_VD,
                micro.token_X,
                vocab_size=self.vocab_size,
                temperature=self.temperature,
            ),
        )
        return logp_X, entropy_X

    @torch.no_grad()
    def score(self, batch: Batch, rows_B: Tensor | None = None) -> Scores:
        """Score every trained token of a batch (or of some rows), without gradient."""
        self.net.eval()
        shape, scored_B = batch.tokens_BT.shape, None
        if rows_B is not None:
            scored_B = torch.zeros(len(batch.tokens_BT), dtype=torch.bool)
            scored_B[rows_B] = True
        scores = Scores(torch.zeros(shape), torch.zeros(shape), scored_B)
        for micro in self.micro_batches(batch, rows_B):
            logp_X, entropy_X = self.logprobs(micro)
            micro.place(logp_X, scores.logp_BT)
            micro.place(entropy_X, scores.entropy_BT)
        self._reshard()
        return scores

    @torch.no_grad()
    def score_tokens(self, token_ids: Sequence[int]) -> list[float]:
        """Score one sequence at temperature 1: log-prob in nats of each token but the first, [T - 1]."""
        self.net.eval()
        tokens_BT = torch.tensor([list(token_ids)], device=self.device)
        columns = torch.arange(1, tokens_BT.shape[1], device=self.device)
        at = (torch.zeros_like(columns), columns)
        micro = Micro(tokens_BT, at, at)
        logp_X, _ = self.apply(
            micro,
            lambda hidden_XD, head_VD: logprob(
                hidden_XD, head_VD, micro.token_X, vocab_size=self.vocab_size, temperature=1.0
            ),
        )
        self._reshard()
        scores: list[float] = logp_X.tolist()
        return scores

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.processes.fsdp or self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _reshard(self) -> None:
        """Put the root's weights back into shards: only a backward pass does so by itself."""
        if self.processes.fsdp:
            self.runner.reshard()  # type: ignore[operator]

    # --- optimisation -------------------------------------------------------------------------------------------------

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """Parameters that the optimizer changes."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_learning_rate(self, step: int) -> float:
        """Set the learning rate of this step and return it."""
        rate = learning_rate(self.run, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def clip_gradients(self) -> float:
        """Scale the gradient down to the run's largest norm; returns the norm it had."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.run.max_grad_norm)
        return float(whole(norm))

    # --- weights ------------------------------------------------------------------------------------------------------

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight by its Hugging Face name, whole and with adapters merged; all processes must iterate."""
        deltas = _adapter_deltas(self.net.plain)
        for name, parameter in self.net.plain.named_parameters():
            if "lora_" in name:
                continue
            name = name.replace(".base_layer.", ".")
            tensor = whole(parameter.detach())
            layer = deltas.get(name)
            if layer is not None:
                delta = layer.get_delta_weight("default").detach()
                tensor = (tensor.float() + whole(delta).float()).to(tensor.dtype)
            yield name, tensor


def learning_rate(run: TrainConfig, step: int) -> float:
    """Learning rate of a step: linear warm-up to the peak, then constant, linear or cosine to its floor.

    Step `s` of a warm-up of `w` steps has (s + 1) / w of the peak; the last step of the run reaches the floor
    `min_lr_ratio` of the peak.
    """
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    if run.lr_scheduler_type == "constant":
        return run.learning_rate
    progress = min(1.0, (step - run.warmup_steps) / max(1, run.max_steps - 1 - run.warmup_steps))
    share = (
        1.0 - progress if run.lr_scheduler_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    )
    return run.learning_rate * (run.min_lr_ratio + (1.0 - run.min_lr_ratio) * share)


def _optimizer(net: HiddenHead, run: TrainConfig) -> torch.optim.AdamW:
    """AdamW; vectors (norms, biases) do not decay."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": run.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=run.learning_rate,
        betas=(run.adam_beta1, run.adam_beta2),
        eps=run.adam_epsilon,
        fused=True,
    )


def _checkpoint_activations(model: Any) -> None:
    # renamed within the range of transformers versions that we support
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _with_adapters(model: Any, settings: LoraSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(f"lora: {str(error).splitlines()[0]}") from error


def _adapter_deltas(model: Any) -> dict[str, Any]:
    """Weight name -> the layer that holds its adapter."""
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
