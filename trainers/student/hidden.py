"""Hugging Face models as this package reads them: a decoder, a head, and nothing that holds full-batch logits.

Owns: `HiddenHead` (runs the decoder and hands the hidden states that predict the
trained tokens, with the head's weight, to a kernel inside one `forward`), the check that logits really are
hidden states times head, and the comparison of two tokenizers. Leaves out optimisation (`student`) and
what kernels compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from agentbench.errors import UsageError
from agentbench.models.loading import open_model

Outputs = tuple[Tensor, ...]
Kernel = Callable[[Tensor, Tensor], Outputs]
"""(hidden_XD, head_VD) -> tensors; X are the trained tokens in row order."""


class HiddenHead(nn.Module):
    """Runs a kernel on hidden states and head inside one forward pass, where DDP and FSDP2 have the weights ready."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Wrap a causal language model, or one with adapters injected; products run in `dtype`."""
        super().__init__()
        self.model = model
        self.dtype = dtype

    @property
    def plain(self) -> Any:
        """The Hugging Face model, without the adapter wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def head_VD(self) -> Tensor:
        """Weight of the language-model head."""
        weight: Tensor = self.plain.get_output_embeddings().weight
        return weight

    def forward(self, tokens_BT: Tensor, local: tuple[Tensor, Tensor], kernel: Kernel) -> Outputs:
        """Run the decoder and the kernel.

        Rows are right-padded and attention is causal, so no position that counts ever sees padding and no mask is
        needed. This is the one place where positions shift: the hidden state at t - 1 predicts token t.
        """
        row_X, column_X = local
        hidden_BTD = _decoder(self.plain)(input_ids=tokens_BT[:, :-1], use_cache=False)[0]
        return kernel(hidden_BTD[row_X, column_X - 1].to(self.dtype), self.head_VD)


def _decoder(model: Any) -> Any:
    """The part of a causal language model below its head."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or decoder is model:
        decoder = getattr(model, model.base_model_prefix, None) or getattr(model, "model", None)
    if decoder is None or decoder is model:
        raise UsageError(
            f"cannot find the decoder of {type(model).__name__}: it has no get_decoder(), "
            f"{model.base_model_prefix!r} or model attribute"
        )
    return decoder


def decoder_layers(model: Any) -> list[nn.Module]:
    """The repeated blocks of a decoder: its longest list of modules."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max((list(stack) for stack in stacks), key=len, default=[])


def load(name: str, dtype: torch.dtype, device: torch.device, revision: str | None = None) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, and check that its head can be trained on.

    Raises: UsageError: it cannot be loaded, nothing can pad, or its logits are not hidden states times head.
    """
    kind = str(dtype).removeprefix("torch.")
    model, tokenizer = open_model(name, dtype=kind, device=str(device), revision=revision)
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer of {name!r} has neither a padding nor an end token; set one and save it"
        )
    rows = len(model.get_output_embeddings().weight)
    if rows < len(tokenizer):
        raise UsageError(
            f"{name!r}: the tokenizer has {len(tokenizer)} tokens but the model predicts only {rows}; "
            "resize its embeddings"
        )
    check_head(model, name)
    return model, tokenizer


@torch.no_grad()
def check_head(model: Any, name: str) -> None:
    """Refuse models whose logits are not hidden states times head (a bias, a scale, a soft cap).

    Raises: UsageError.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise UsageError(f"model {name!r} has no language-model head; load a causal language model")
    was_training = model.training
    model.eval()
    ids_BT = torch.arange(4, device=head.weight.device)[None] % len(head.weight)
    hidden_BTD = _decoder(model)(input_ids=ids_BT, use_cache=False)[0]
    expected_BTV = model(input_ids=ids_BT, use_cache=False).logits.float()
    ours_BTV = (hidden_BTD @ head.weight.T).float()
    model.train(was_training)
    error = float((ours_BTV - expected_BTV).abs().max())
    if error > 0.02 * max(1.0, float(expected_BTV.abs().max())):
        raise UsageError(
            f"the logits of model {name!r} are not its hidden states times its head (off by {error:.3g}): heads with "
            "a bias, a scale or a soft cap are not supported; choose another architecture"
        )


def check_tokenizers(student: Any, teacher: Any, teacher_name: str) -> None:
    """Refuse a teacher that does not read the student's tokens, id for id. Padded embedding rows do not matter.

    Raises: UsageError: names the first id at which they differ.
    """
    ours, theirs = _vocabulary(student), _vocabulary(teacher)
    for token_id in range(max(len(ours), len(theirs))):
        mine, other = ours.get(token_id), theirs.get(token_id)
        if mine != other:
            raise UsageError(
                f"teacher {teacher_name!r} has another tokenizer than the student: id {token_id} is {other!r} for the "
                f"teacher and {mine!r} for the student; distillation needs the same vocabulary"
            )


def _vocabulary(tokenizer: Any) -> dict[int, str]:
    return {int(token_id): token for token, token_id in tokenizer.get_vocab().items()}
