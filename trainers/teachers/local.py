"""Models in this process that score the student's tokens.

Three depths of access: the sampled token's log-prob, the top K of the distribution, or hidden states and head for a
divergence over the full vocabulary. `ModelTeacher` offers all; a remote one may offer `score` alone.
Leaves out divergences, every use of the scores, and the student as its own teacher (`own`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from agentbench.models.loading import device_of
from agentbench.models.weights import weights_digest
from agentbench.training.config import TeacherConfig

from ..batch.micro import Micro, micro_batches
from ..batch.tables import Batch
from ..kernels.fused import LinearHead, chunk_rows, chunks
from ..kernels.head import Head
from ..kernels.tokens import logprob
from ..student.hidden import HiddenHead, Kernel, check_tokenizers, load
from ..student.student import Student
from .contract import TeacherScores, require_rows, require_top_k


class ModelTeacher:
    """A model in this process, asked without gradient; its distribution is over the student's ids."""

    def __init__(self, net: HiddenHead, student: Student) -> None:
        """Bind a model.

        Args:
            net: on a device of its own, or the student's.
            student: whose tokens it will read; gives vocabulary, temperature and token budget, and the device on which
                distributions are compared.
        """
        self.net, self.vocabulary = net, student.vocabulary
        self.vocab_size, self.temperature = student.vocab_size, student.temperature
        self.device, self.budget = net.head.weight_VD.device, student.run.tokens_per_micro_batch
        self.home = student.net.head.weight_VD.device
        self.max_context = self.net.max_context

    def score(self, batch: Batch, top_k: int = 0) -> TeacherScores:
        """Score every trained token; with `top_k`, also keep the K likeliest ids of each."""
        shape = tuple(batch.tokens_BT.shape)
        scores = TeacherScores(
            torch.zeros(shape),
            torch.zeros(shape),
            torch.zeros((*shape, top_k), dtype=torch.long) if top_k else None,
            torch.zeros((*shape, top_k)) if top_k else None,
        )
        for micro in micro_batches(batch, self.budget, self.device):
            head = self._read(micro)
            logp_X, entropy_X = self._logprob(head, micro)
            micro.place(logp_X, scores.logp_BT)
            assert scores.entropy_BT is not None
            micro.place(entropy_X, scores.entropy_BT)
            if scores.topk_ids_BTK is not None and scores.topk_logp_BTK is not None:
                ids_XK, logp_XK = self._top_k(head, top_k)
                micro.place(ids_XK, scores.topk_ids_BTK)
                micro.place(logp_XK, scores.topk_logp_BTK)
        return scores

    @torch.no_grad()
    def linear_head(self, micro: Micro) -> LinearHead:
        """Hidden states that predict the trained tokens, and the head, for products on the student's device."""
        here = self._read(micro.on(self.device))
        return (
            here if self.device == self.home else LinearHead(here.hidden_ND.to(self.home), self._head_at_home)
        )

    @cached_property
    def _head_at_home(self) -> Head:
        """A copy of the frozen head, taken across once."""
        return self.net.head.on(self.home)

    @torch.no_grad()
    def _read(self, micro: Micro) -> LinearHead:
        """The whole distribution, uncomputed, where the teacher lives."""
        kernel: Kernel = lambda hidden_XD, _: (hidden_XD,)  # noqa: E731
        with self._autocast():
            (hidden_XD,) = self.net(micro.tokens_BT, micro.local, kernel)
        return LinearHead(hidden_XD, self.net.head)

    @torch.no_grad()
    def _logprob(self, head: LinearHead, micro: Micro) -> tuple[Tensor, Tensor]:
        return logprob(
            head.hidden_ND,
            head.head,
            micro.token_X,
            vocab_size=self.vocab_size,
            temperature=self.temperature,
        )

    @torch.no_grad()
    def _top_k(self, head: LinearHead, k: int) -> tuple[Tensor, Tensor]:
        require_top_k(k, self.vocabulary.count)
        n = len(head.hidden_ND)
        ids_XK = torch.empty((n, k), dtype=torch.long, device=self.device)
        logp_XK = torch.empty((n, k), device=self.device)
        ready = head.head.ready(self.vocab_size, head.hidden_ND.dtype)
        for rows in chunks(n, chunk_rows(head.hidden_ND, self.vocab_size, None)):
            # temperature 1, as the full vocabulary: distributions are compared, whatever the sampler's temperature
            best = ready.log_probs(head.hidden_ND[rows], 1.0)[0].topk(k, dim=-1)
            ids_XK[rows], logp_XK[rows] = best.indices, best.values
        return ids_XK, logp_XK

    def _autocast(self) -> AbstractContextManager[Any]:
        stored = self.net.head.weight_VD.dtype
        if self.net.dtype == stored or self.net.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.net.dtype)


class LocalTeacher(ModelTeacher):
    """A frozen Hugging Face model; what it alone has a row for is left out of its distribution, as padding is."""

    def __init__(self, config: TeacherConfig, student: Student) -> None:
        """Load it beside the student, or where its configuration says.

        Raises: UsageError: there is no such device, it cannot be loaded or has another tokenizer.
        """
        name = config.model_name_or_path
        dtype = student.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
        device = student.device if config.device is None else device_of(config.device, "teachers.device")
        loaded = load(name, dtype, device, config.revision)
        check_tokenizers(student.tokenizer, loaded.tokenizer, name, extra=config.extra_tokens)
        require_rows(student.vocabulary, loaded.vocabulary, name)
        net = HiddenHead(
            loaded.model, dtype, form=loaded.form, vocabulary=student.vocabulary, rescaled=loaded.rescaled
        )
        super().__init__(net.to(device).eval().requires_grad_(False), student)
        self.tokenizer = loaded.tokenizer
        student.origins[name] = weights_digest(loaded.model)
