"""Hugging Face models as this package reads them: a decoder, a head, and nothing that holds full-batch logits.

Owns: opening a model for training or scoring, `HiddenHead` (runs the decoder and hands the hidden states that predict
the trained tokens, with the head, to a kernel inside one `forward`), and the comparison of two tokenizers. Leaves out
the head's form (`form`), optimisation (`student`) and what kernels compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agentbench.errors import UsageError
from agentbench.models.loading import open_model
from agentbench.models.positions import Rescaling, rescaling
from agentbench.models.vocabulary import Vocabulary, embedded_rows, vocabulary_of

from ..kernels.head import Head
from .form import HeadForm, decoder_of, head_form

Outputs = tuple[Tensor, ...]
Kernel = Callable[[Tensor, Head], Outputs]
"""(hidden_XD, head) -> tensors; X are the trained tokens in row order."""


@dataclass(frozen=True)
class Loaded:
    """A causal language model and what has to be known of it.

    Attributes:
        vocabulary: ids that the tokenizer has a token and the model a row for.
        form: of its head.
        rescaled: rotary positions that change in long calls; None where they never do.
    """

    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    form: HeadForm
    rescaled: Rescaling | None


def load(name: str, dtype: torch.dtype, device: torch.device, revision: str | None = None) -> Loaded:
    """Load a causal language model and its tokenizer, and find out how its head works.

    Raises: UsageError: it cannot be loaded, nothing can pad, or its logits cannot be computed from hidden states.
    """
    exact = dtype == torch.float64  # no checkpoint is
    kind = "float32" if exact else str(dtype).removeprefix("torch.")
    model, tokenizer = open_model(name, dtype=kind, device=str(device), revision=revision)
    model = model.double() if exact else model
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer of {name!r} has neither a padding nor an end token; set one and save it"
        )
    form = head_form(model, name)
    return Loaded(
        model,
        tokenizer,
        vocabulary_of(tokenizer, embedded_rows(model), name),
        form,
        rescaling(model.config.get_text_config(decoder=True)),
    )


class HiddenHead(nn.Module):
    """Runs a kernel on hidden states and head inside one forward pass, where DDP and FSDP2 have the weights ready.

    Never in training mode as a whole: dropout would make the scored policy another one than the one that acts. What
    `switched` holds is the exception.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        *,
        form: HeadForm = HeadForm(),  # noqa: B008  (frozen)
        vocabulary: Vocabulary | None = None,
        rescaled: Rescaling | None = None,
    ) -> None:
        """Wrap a causal language model, or one with adapters injected.

        Args:
            model: on its device.
            dtype: products run in it.
            form: of its head.
            vocabulary: ids that exist, of the student, also for a teacher; None takes every row.
            rescaled: positions that change in long calls; longer rows are refused.
        """
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.form, self.rescaled = form, rescaled
        self.switched: list[nn.Module] = []
        self._absent_V: Tensor | None = None
        if vocabulary is not None and vocabulary.holes.size:
            rows = len(self.plain.get_output_embeddings().weight)
            absent_V = torch.zeros(rows, dtype=torch.bool)
            absent_V[torch.from_numpy(vocabulary.absent(rows))] = True
            self._absent_V = absent_V.to(model.device)  # no buffer: DDP would send it round at every step

    @property
    def plain(self) -> Any:
        """The Hugging Face model, without the adapter wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def max_context(self) -> int:
        """Most tokens in a row that the model was made for."""
        longest = getattr(self.plain.config.get_text_config(decoder=True), "max_position_embeddings", None)
        limit = 2**31 if self.rescaled is None else self.rescaled.limit
        return min(int(longest or 2**31), limit)

    @property
    def head(self) -> Head:
        """The language-model head."""
        module = self.plain.get_output_embeddings()
        bias_V = getattr(module, "bias", None)
        return Head(module.weight, bias_V, self.form.scale, self.form.cap, self._absent_V)

    def train(self, mode: bool = True) -> HiddenHead:
        """Switch what is switched by training; everything else stays in evaluation mode."""
        super().train(False)
        for module in self.switched:
            module.training = mode
        return self

    def forward(self, tokens_BT: Tensor, local: tuple[Tensor, Tensor], kernel: Kernel) -> Outputs:
        """Run the decoder and the kernel.

        Rows are right-padded and attention is causal, so no position that counts ever sees padding and no mask is
        needed. This is the one place where positions shift: the hidden state at t - 1 predicts token t.

        Raises: UsageError: a row is so long that the positions of its batch mates would be rescaled.
        """
        row_X, column_X = local
        length = tokens_BT.shape[1] - 1
        if self.rescaled is not None and length > self.rescaled.limit:
            raise UsageError(
                f"a row of {length} tokens is longer than {self.rescaled.limit}, from where this model's "
                f"{self.rescaled.kind} positions are rescaled for all rows of a batch; set "
                f"rollout.engine_options.max_context: {self.rescaled.limit}"
            )
        hidden_BTD = decoder_of(self.plain)(input_ids=tokens_BT[:, :-1], use_cache=False)[0]
        return kernel(hidden_BTD[row_X, column_X - 1].to(self.dtype), self.head)


def decoder_layers(model: Any) -> list[nn.Module]:
    """The repeated blocks of a decoder: its longest list of modules."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max((list(stack) for stack in stacks), key=len, default=[])


def check_tokenizers(
    student: Any, teacher: Any, teacher_name: str, *, extra: Literal["refuse", "ignore"] = "refuse"
) -> None:
    """Refuse a teacher that does not read the student's tokens, id for id. Padded embedding rows do not matter.

    Args:
        student: its tokenizer.
        teacher: its tokenizer.
        teacher_name: for the error.
        extra: what becomes of ids that the teacher alone has: with "ignore" they are left out of its distribution,
            which is then normalised over the student's ids.
    Raises: UsageError: names the first id at which they differ.
    """
    ours, theirs = _vocabulary(student), _vocabulary(teacher)
    for token_id in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(token_id), theirs.get(token_id)
        if mine == other or (mine is None and extra == "ignore"):
            continue
        advice = ""
        if mine is None:
            count = len(theirs.keys() - ours.keys())
            advice = (
                f"; the teacher has {count} ids that the student lacks, set teachers.extra_tokens: ignore to leave "
                "them out of its distribution"
            )
        raise UsageError(
            f"teacher {teacher_name!r} has another tokenizer than the student: id {token_id} is {other!r} for the "
            f"teacher and {mine!r} for the student; distillation needs the same vocabulary{advice}"
        )


def _vocabulary(tokenizer: Any) -> dict[int, str]:
    return {int(token_id): token for token, token_id in tokenizer.get_vocab().items()}
