"""References of the losses between whole distributions: gkd, lsm, opad, mad_opd; and of behaviour cloning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .reader import Reader, ReadTurn, average


def gkd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A divergence over the whole vocabulary, or on the teacher's K likeliest ids."""

    def loss(turn: ReadTurn) -> Tensor:
        q_AV, p_AV = _pair(turn, settings.kd_temperature if settings.support == "full" else 1.0)
        if settings.support == "full":
            return _divergence(q_AV, p_AV, settings.divergence, settings.beta)
        best_AK = p_AV.topk(settings.k, dim=-1).indices
        q_AK, p_AK = q_AV.gather(1, best_AK), p_AV.gather(1, best_AK)
        if settings.tail == "renormalise":
            t = settings.kd_temperature
            q_AK, p_AK = (q_AK / t).log_softmax(-1), (p_AK / t).log_softmax(-1)
        elif settings.tail == "tail":
            q_AK, p_AK = _with_rest(q_AK), _with_rest(p_AK)
        return _divergence(q_AK, p_AK, settings.divergence, settings.beta)

    return _gradient(run, groups, settings.reduction, loss)


def lsm(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """Reverse KL on K ids, conditioned on them, with the sampled token as a member or as the tail's sample."""
    if settings.masked_tokens:
        raise NotImplementedError("masked_tokens")

    def position(q_V: Tensor, p_V: Tensor, y: int) -> Tensor:
        ids = (p_V if settings.support == "teacher" else q_V).topk(settings.k).indices.tolist()
        if settings.sampled_token == "tail":
            head = (q_V[ids].exp() * (q_V[ids] - p_V[ids])).sum()
            # an on-policy sample: its value, and the score function times it
            return head if y in ids else head + q_V[y] - p_V[y] + (q_V[y] - p_V[y]).detach() * q_V[y]
        ids = [*ids, y] if settings.sampled_token == "member" and y not in ids else ids
        q_K, p_K = q_V[ids].log_softmax(-1), p_V[ids].log_softmax(-1)
        return (q_K.exp() * (q_K - p_K)).sum()

    def loss(turn: ReadTurn) -> Tensor:
        q_AV, p_AV = _pair(turn, 1.0)
        rows = zip(q_AV, p_AV, turn.said_A.tolist(), strict=True)
        return torch.stack([position(q_V, p_V, y) for q_V, p_V, y in rows])

    return _gradient(run, groups, settings.reduction, loss)


def opad(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A divergence over the whole vocabulary at the decisions from each state on."""
    if settings.divergence == "auto":
        raise NotImplementedError("divergence 'auto'; set trainer.divergence")

    def loss(turn: ReadTurn) -> Tensor:
        return _divergence(*_pair(turn, 1.0), settings.divergence, settings.beta)

    return _gradient(run, groups, settings.reduction, loss)


def mad_opd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """The mean of silent teachers' whole-vocabulary divergences, or one from the mean of their distributions."""
    if settings.rounds or settings.support != "full" or settings.divergence == "auto":
        raise NotImplementedError(
            "a debate, top-K or divergence 'auto'; set trainer.rounds: 0 and trainer.divergence"
        )
    readers = [Reader(run.model_copy(update={"teachers": (teacher,)})) for teacher in run.teachers]

    def loss(*turns: ReadTurn) -> Tensor:
        """Of one turn, as each reader has read it; the first one's student has the gradient."""
        q_AV, _ = _pair(turns[0], settings.kd_temperature)
        p_KAV = torch.stack([_pair(turn, settings.kd_temperature)[1] for turn in turns])
        if settings.combine == "mixture":
            return _divergence(q_AV, p_KAV.exp().mean(0).log(), settings.divergence, settings.beta)
        return torch.stack(
            [_divergence(q_AV, p_AV, settings.divergence, settings.beta) for p_AV in p_KAV]
        ).mean(0)

    read = zip(*(reader.episodes(groups) for reader in readers), strict=True)
    losses = [
        [loss(*same) for same in zip(*(turns for _, turns in episode), strict=True)] for episode in read
    ]
    return readers[0].gradient(average(settings.reduction, losses))


def sft(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """Minus the log-likelihood of the demonstrated commands."""
    authors = {"takeover": ("expert",), "mixture": ("mixture", "expert")}.get(settings.mode)
    if authors is None or settings.observations:
        raise NotImplementedError(f"mode {settings.mode!r} with observations {settings.observations}")
    reader = Reader(run)
    losses = [[-turn.log_q(1.0) for turn in turns] for _, turns in reader.episodes(groups, authors)]
    return reader.gradient(average(settings.reduction, losses))


def _gradient(
    run: TrainConfig, groups: Sequence[Group], reduction: str, loss: Callable[[ReadTurn], Tensor]
) -> dict[str, Any]:
    reader = Reader(run)
    return reader.gradient(
        average(reduction, [[loss(turn) for turn in turns] for _, turns in reader.episodes(groups)])
    )


def _pair(turn: ReadTurn, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs of student and teacher, [A, V] each."""
    assert turn.teacher_AV is not None
    return (turn.student_AV / temperature).log_softmax(-1), (turn.teacher_AV / temperature).log_softmax(-1)


def _divergence(q_AV: Tensor, p_AV: Tensor, kind: str, beta: float) -> Tensor:
    if kind == "forward_kl":
        return (p_AV.exp() * (p_AV - q_AV)).sum(-1)
    if kind == "reverse_kl":
        return (q_AV.exp() * (q_AV - p_AV)).sum(-1)
    m_AV = (beta * p_AV.exp() + (1 - beta) * q_AV.exp()).log()
    teacher_A = (p_AV.exp() * (p_AV - m_AV)).sum(-1)
    return beta * teacher_A + (1 - beta) * (q_AV.exp() * (q_AV - m_AV)).sum(-1)


def _with_rest(logp_AK: Tensor) -> Tensor:
    """All other ids as one more."""
    return torch.cat([logp_AK, (1 - logp_AK.exp().sum(-1, keepdim=True)).log()], dim=-1)
