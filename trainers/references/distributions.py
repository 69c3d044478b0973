"""References of the losses between whole distributions: gkd, lsm, opad, mad_opd, mopd; and of behaviour cloning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import torch
import yaml
from torch import Tensor

from agentbench.registry import env_spec
from agentbench.training.config import TrainConfig
from agentbench.types import Group, Trajectory

from .reader import Reader, ReadTurn, average
from .sampled import importance


def gkd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A divergence over the whole vocabulary, or on the teacher's K likeliest ids."""

    def loss(turn: ReadTurn) -> Tensor:
        assert turn.teacher_AV is not None
        return _compared(turn.student_AV, turn.teacher_AV, settings, settings.divergence)

    return _gradient(run, groups, settings.reduction, loss)


def lsm(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """Reverse KL on K ids, conditioned on them, with the sampled token as a member or as the tail's sample."""

    def position(q_V: Tensor, p_V: Tensor, y: int) -> Tensor:
        ids = (p_V if settings.support == "teacher" else q_V).topk(settings.k).indices.tolist()
        if settings.sampled_token == "tail":
            head = (q_V[ids].exp() * (q_V[ids] - p_V[ids])).sum()
            # an on-policy sample: its value, and the score function times it
            return head if y in ids else head + q_V[y] - p_V[y] + (q_V[y] - p_V[y]).detach() * q_V[y]
        ids = [*ids, y] if settings.sampled_token == "member" and y not in ids else ids
        q_K, p_K = q_V[ids].log_softmax(-1), p_V[ids].log_softmax(-1)
        return (q_K.exp() * (q_K - p_K)).sum()

    reader = Reader(run)
    format_ids = [reader.tokenizer.encode(text, add_special_tokens=False) for text in settings.masked_tokens]

    def loss(turn: ReadTurn) -> Tensor:
        said = list(turn.turn.action.token_ids)
        masked = {said.index(token) for (token,) in format_ids if token in said}  # the first occurrence
        q_AV, p_AV = _pair(turn, 1.0)
        rows = enumerate(zip(q_AV, p_AV, turn.said_A.tolist(), strict=True))
        kept = [position(q_V, p_V, y) for place, (q_V, p_V, y) in rows if place not in masked]
        return torch.stack(kept) if kept else q_AV.new_zeros(0)

    return _gradient(run, groups, settings.reduction, loss, reader)


def opad(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A divergence over the whole vocabulary at the decisions from each state on."""
    kind = _chosen(run, settings)
    states = {
        (m.parent.trajectory if m.parent else m.id, g.anchor) for g in groups for m in g.members if m.ok
    }
    per_root = len(states) / len({root for root, _ in states}) if settings.step_reduce == "sum" else 1.0

    def loss(turn: ReadTurn) -> Tensor:
        return per_root * _divergence(*_pair(turn, 1.0), kind, settings.beta)

    return _gradient(run, groups, settings.reduction, loss)


def mad_opd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """sum_k w_k D(p_k, q) or D(sum_k w_k p_k, q); p_k after the debate, w_k from its confidence."""
    kind, answer = _chosen(run, settings), _answer(run, settings)
    readers = [Reader(run.model_copy(update={"teachers": (teacher,)})) for teacher in run.teachers]

    def loss(episode: Trajectory, turns: Sequence[ReadTurn]) -> Tensor | None:
        """Of one turn, as each reader has read it; the first one's student has the gradient."""
        turn, logits = turns[0].turn, [read.teacher_AV for read in turns]
        weights = [1.0 / len(turns)] * len(turns)
        if settings.rounds:
            weights = _confidence_weights(turn.notes["confidence"], settings.confidence_temperature)
            texts = [
                answer.substitute(me=me, transcript=turn.notes["debate"], state="", action="").strip()
                for me, _ in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", readers, strict=False)
            ]
            logits = [
                reader.after(text, episode, turn, "after") if w else None
                for reader, text, w in zip(readers, texts, weights, strict=True)
            ]
        heard = [(w, p_AV) for w, p_AV in zip(weights, logits, strict=True) if w and p_AV is not None]
        if not heard:
            return None
        student_AV = turns[0].student_AV
        if settings.combine == "mixture":
            t = settings.kd_temperature
            mixed_AV = torch.stack([w * (p_AV / t).softmax(-1) for w, p_AV in heard]).sum(0).log()
            return _divergence((student_AV / t).log_softmax(-1), mixed_AV, kind, settings.beta)
        return torch.stack([w * _compared(student_AV, p_AV, settings, kind) for w, p_AV in heard]).sum(0)

    losses = []
    for same in zip(*(reader.episodes(groups) for reader in readers), strict=True):
        values = [loss(same[0][0], turns) for turns in zip(*(turns for _, turns in same), strict=True)]
        losses.append([value for value in values if value is not None])
    return readers[0].gradient(average(settings.reduction, losses))


def mopd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A divergence on the student's K likeliest ids and all others as one; p after the peers, where there are some."""
    reader = Reader(run)
    losses = []
    for episode, turns in reader.episodes(groups):
        mine = []
        for turn in turns:
            if "peers" not in turn.turn.notes:
                continue
            p_AV = reader.after(
                turn.turn.notes["peers"], episode, turn.turn, "after", opening=True
            ).log_softmax(-1)
            q_AV = turn.student_AV.log_softmax(-1)
            best_AK = q_AV.topk(settings.k, dim=-1).indices
            q_AL, p_AL = (_with_rest(x_AV.gather(1, best_AK)) for x_AV in (q_AV, p_AV))
            value_A = _divergence(q_AL, p_AL, settings.divergence, settings.beta)
            cap = settings.importance_cap
            mine.append(value_A if cap is None else importance(run, turn, cap) * value_A)
        losses.append(mine)
    return reader.gradient(average(settings.reduction, losses))


def sft(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """Minus the log-likelihood of the demonstrated commands."""
    authors = {"takeover": ("expert",), "mixture": ("mixture", "expert")}.get(settings.mode)
    if authors is None or settings.observations:
        raise NotImplementedError(f"mode {settings.mode!r} with observations {settings.observations}")
    reader = Reader(run)
    losses = [[-turn.log_q(1.0) for turn in turns] for _, turns in reader.episodes(groups, authors)]
    return reader.gradient(average(settings.reduction, losses))


def _gradient(
    run: TrainConfig,
    groups: Sequence[Group],
    reduction: str,
    loss: Callable[[ReadTurn], Tensor],
    reader: Reader | None = None,
) -> dict[str, Any]:
    reader = reader or Reader(run)
    return reader.gradient(
        average(reduction, [[loss(turn) for turn in turns] for _, turns in reader.episodes(groups)])
    )


def _chosen(run: TrainConfig, settings: Any) -> str:
    """JSD for actions and reverse KL for programs, where nothing is said."""
    if settings.divergence != "auto":
        return str(settings.divergence)
    return "reverse_kl" if env_spec(run.env.name).replies == "programs" else "jsd"


def _answer(run: TrainConfig, settings: Any) -> Template:
    """What a teacher reads of a debate when it scores the reply."""
    texts = settings.debate
    if not isinstance(texts, Mapping):
        programs = env_spec(run.env.name).replies == "programs"
        name = ("code" if programs else "agent") if texts == "auto" else texts
        file = resources.files("agentbench.prompts").joinpath("debate", f"{name}.yaml")
        texts = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Template(texts["answer"])


def _confidence_weights(note: str, temperature: float) -> list[float]:
    """exp(c_k / 100 / T) over their sum, of a note such as "A 90.0, B none, C absent".

    One that gave no number makes all equal; one that is absent has no weight.
    """
    said = [part.split()[1] for part in note.split(", ")]
    present = [word != "absent" for word in said]
    equal = "none" in said
    raw = [
        0.0 if not here else 1.0 if equal else math.exp(float(word) / 100.0 / temperature)
        for word, here in zip(said, present, strict=True)
    ]
    return [x / sum(raw) if any(present) else 0.0 for x in raw]


def _pair(turn: ReadTurn, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs of student and teacher, [A, V] each."""
    assert turn.teacher_AV is not None
    return (turn.student_AV / temperature).log_softmax(-1), (turn.teacher_AV / temperature).log_softmax(-1)


def _compared(student_AV: Tensor, teacher_AV: Tensor, settings: Any, kind: str) -> Tensor:
    """A divergence from logits, over the whole vocabulary or on the teacher's K likeliest ids."""
    t = settings.kd_temperature
    if settings.support == "full":
        return _divergence(
            (student_AV / t).log_softmax(-1), (teacher_AV / t).log_softmax(-1), kind, settings.beta
        )
    q_AV, p_AV = student_AV.log_softmax(-1), teacher_AV.log_softmax(-1)
    best_AK = p_AV.topk(settings.k, dim=-1).indices
    q_AK, p_AK = q_AV.gather(1, best_AK), p_AV.gather(1, best_AK)
    if settings.tail == "renormalise":
        q_AK, p_AK = (q_AK / t).log_softmax(-1), (p_AK / t).log_softmax(-1)
    elif settings.tail == "tail":
        q_AK, p_AK = _with_rest(q_AK), _with_rest(p_AK)
    return _divergence(q_AK, p_AK, kind, settings.beta)


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
