"""The model that learns: weights, tokenizer, optional adapters, optimizer, and log-probs of given tokens.

Log-probs go from hidden states through the head in chunks (`kernels.tokens`), so full-vocabulary logits never exist
for a batch. The learning rate is a pure function of the step. Leaves out losses (`objectives`), what an
update is (`base`), names of weights (`naming`) and checkpoints (`checkpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.models.loading import DTYPES, kept_dtype
from agentbench.models.weights import weights_digest
from agentbench.training.config import TrainConfig

from ..batch.micro import Micro, idle_micro, micro_batches
from ..batch.tables import Batch
from ..kernels.tokens import logprob
from .adapters import refuse_bypassed, refuse_loaded, refuse_quantised, with_adapters
from .form import decoder_of
from .hidden import HiddenHead, Kernel, Loaded, Outputs, decoder_layers, load
from .naming import Places
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


class Average(Protocol):
    """Something that follows the trained weights and is saved with them."""

    def follow(self) -> None:
        """Take one step towards the student, after an update that changed it."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What to keep in a checkpoint."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        ...


class Student:
    """The trained model.

    Attributes:
        vocabulary: ids that exist; `vocab_size` is its width.
        kept: dtype in which engines and checkpoints keep the weights: the engine's if the run sets one, else the
            source's. So an evaluation while training equals that of the checkpoint.
        places: its tensors by their names in the source.
        averages: of its weights, which follow it.
        origins: fingerprint of every model that the run started from, by name; compared on resume.
        merge_error: size of what rounding to `kept` took off the adapters' update, as a share of it, when weights were
            last handed out; None where nothing is rounded.
    """

    def __init__(
        self, run: TrainConfig, processes: Processes, *, temperature: float = 1.0, dropout: bool = False
    ) -> None:
        """Load it and make its optimizer.

        Args:
            run: names the model and everything about its optimisation.
            processes: those that train together.
            temperature: logits are divided by it, as the sampler does.
            dropout: whether `lora.dropout` makes sense to the algorithm: it learns from given texts and compares
                its log-probs with nobody's.
        Raises: UsageError: the model, its adapters or its positions cannot be trained as configured.
        """
        self.run, self.processes, self.temperature = run, processes, temperature
        self.device = processes.device
        # float32, or what torch was told to take: `agentbench check-objective` runs all of this in float64
        self.dtype = torch.bfloat16 if run.bf16 else torch.get_default_dtype()
        refuse_quantised(run.model_name_or_path)
        self.kept = _kept_dtype(run, self.device)
        loaded = load(run.model_name_or_path, self._stored(), self.device)
        model, self.tokenizer = loaded.model, loaded.tokenizer
        pad = self.tokenizer.pad_token_id
        self.pad_id = int(self.tokenizer.eos_token_id if pad is None else pad)
        self.vocabulary, self.vocab_size = loaded.vocabulary, loaded.vocabulary.width
        refuse_loaded(model, run.model_name_or_path)
        _check_positions(run, loaded)
        self.averages: list[Average] = []
        self.origins = {run.model_name_or_path: weights_digest(model)}
        self.places = Places(model)
        if run.gradient_checkpointing:
            _checkpoint_activations(model)
        if run.lora is not None:
            model = with_adapters(model, run.lora, dropout=dropout)
        self.net = HiddenHead(
            model, self.dtype, form=loaded.form, vocabulary=loaded.vocabulary, rescaled=loaded.rescaled
        ).to(self.device)
        if run.lora is not None:
            self.places.check_adapters(self.net.plain)
        self.net.switched = _switched(self.net)
        self.net.train(False)
        _freeze_unreachable(self.net)
        self.merge_error: float | None = None
        self.runner: torch.nn.Module = self.net
        some_idle = (processes.count > 1 or run.lora is not None) and self._leaves_some_idle()
        layers = decoder_layers(self.net.plain)
        self.runner = processes.wrap(self.net, layers, self.dtype, some_idle=some_idle)
        self.optimizer = _optimizer(self.net, run)

    def _stored(self) -> torch.dtype:
        """What the weights are held in while training.

        Trained ones in float32 (bf16 is the dtype of products). Frozen ones under adapters stay as the source has
        them where that loses nothing, except that FSDP2 wants one dtype in a group.
        """
        if self.run.lora is None or self.processes.fsdp or not self.run.bf16:
            return torch.get_default_dtype()
        source = kept_dtype(self.run.model_name_or_path, device=str(self.device))
        return torch.bfloat16 if source == "bfloat16" else torch.get_default_dtype()

    def _leaves_some_idle(self) -> bool:
        """Whether a text can leave a trained parameter without a gradient, such as an expert that nobody chose.

        Raises: UsageError: the model cannot run with adapters where they were put, or does not use one of them.
        """
        try:
            idle = self._idle()
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            if self.run.lora is None or isinstance(error, torch.OutOfMemoryError):
                raise
            raise UsageError(
                f"lora: the model does not run with adapters on {self.run.lora.target_modules!r} "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); name the modules in lora.target_modules, "
                "such as [q_proj, k_proj, v_proj, o_proj]"
            ) from error
        if idle and self.run.lora is not None:
            refuse_bypassed(self.net.plain, idle, self._idle)
        return bool(idle)

    def _idle(self) -> list[torch.nn.Parameter]:
        """Parameters to be trained that the shortest of texts, one token after another, gives no gradient."""
        ids = torch.from_numpy(np.flatnonzero(self.vocabulary.exists)[:2]).to(self.device)
        columns = torch.arange(1, len(ids), device=self.device)
        at = (torch.zeros_like(columns), columns)
        logp_X, _ = self.logprobs(Micro(ids[None], at, at))
        logp_X.sum().backward()  # type: ignore[no-untyped-call]
        idle = [p for p in self.net.parameters() if p.requires_grad and p.grad is None]
        self.net.zero_grad(set_to_none=True)
        return idle

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
            lambda hidden_XD, head: logprob(
                hidden_XD,
                head,
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
        self.reshard()
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
            lambda hidden_XD, head: logprob(
                hidden_XD, head, micro.token_X, vocab_size=self.vocab_size, temperature=1.0
            ),
        )
        self.reshard()
        scores: list[float] = logp_X.tolist()
        return scores

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.processes.fsdp or self.dtype != torch.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def reshard(self) -> None:
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
        """Yield every weight by its name in the source, whole and with adapters merged; all processes must iterate.

        Merged weights come in float32 and everything else as it is held here: whoever receives them rounds as it must.
        """
        lost = moved = 0.0
        for named in self.places.merged(self.net.plain):
            if named.base is not None:
                delta = named.tensor - named.base.float()
                rounded = named.tensor.to(self.kept_as(named.name, named.tensor)).float()
                lost += float((rounded - named.tensor).double().square().sum())
                moved += float(delta.double().square().sum())
            yield named.name, named.tensor
        self.merge_error = math.sqrt(lost / moved) if moved > 0.0 and self.kept != torch.float32 else None

    def kept_as(self, name: str, tensor: Tensor) -> torch.dtype:
        """The dtype in which engines and checkpoints keep this weight; some stay in float32 in every model."""
        if not tensor.is_floating_point():
            return tensor.dtype
        always = getattr(self.net.plain, "_keep_in_fp32_modules_strict", None) or ()
        return torch.float32 if set(always) & set(name.split(".")) else self.kept


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


def _kept_dtype(run: TrainConfig, device: torch.device) -> torch.dtype:
    asked = str(run.rollout.engine_options.get("dtype", "auto"))
    asked = asked if asked in DTYPES else "auto"  # an unknown one is the engine's to refuse
    kept: torch.dtype = getattr(torch, kept_dtype(run.model_name_or_path, asked=asked, device=str(device)))
    return kept


def _check_positions(run: TrainConfig, loaded: Loaded) -> None:
    """Refuse contexts in which positions are rescaled: log-probs would depend on batch mates and on later turns."""
    rescaled = loaded.rescaled
    if rescaled is None or run.rollout.engine not in ("hf", "vllm"):
        return
    config = loaded.model.config.get_text_config(decoder=True)
    longest = run.rollout.engine_options.get("max_context") or config.max_position_embeddings
    if longest > rescaled.limit:
        raise UsageError(
            f"model {run.model_name_or_path!r} rescales the positions of a whole batch ({rescaled.kind}) once a row "
            f"has more than {rescaled.limit} tokens, and rows may have {longest}; set "
            f"rollout.engine_options.max_context: {rescaled.limit} or less"
        )


def _checkpoint_activations(model: Any) -> None:
    # renamed within the range of transformers versions that we support
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _switched(net: HiddenHead) -> list[torch.nn.Module]:
    """Modules that training switches: adapters' dropout, and layers that recompute their activations.

    transformers recomputes in training mode only; such a layer is put there alone, without what it contains, and its
    own dropout rates are set to 0.
    """
    found: list[torch.nn.Module] = []
    for name, module in net.named_modules():
        if ".lora_dropout." in name and isinstance(module, torch.nn.Dropout):
            found.append(module)
        elif getattr(module, "gradient_checkpointing", False) is True:
            for key, value in vars(module).items():
                if "drop" in key and isinstance(value, float):
                    setattr(module, key, 0.0)
            found.append(module)
    return found


def _freeze_unreachable(net: HiddenHead) -> None:
    """Freeze what lies beside decoder and head (a vision tower, further heads): no loss here reaches it.

    Raises: UsageError: nothing is left to train.
    """
    plain = net.plain
    reached = {
        id(p) for part in (decoder_of(plain), plain.get_output_embeddings()) for p in part.parameters()
    }
    for parameter in net.parameters():
        if id(parameter) not in reached:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UsageError(
            "nothing would be trained: lora.target_modules names only parts that no loss reaches; name layers of the "
            "decoder, such as [q_proj, k_proj, v_proj, o_proj]"
        )
