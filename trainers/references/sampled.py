"""References of the policy gradients: opd, tcod, guided-opd, sod, atod, grpo, gigpo, sdar.

All at the first update of a step, where the ratio is 1: no clip holds, and the gradient of ratio * A is A grad log q.
A penalty on leaving the initial model is 0 there, and so is its gradient.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentbench.training.config import TrainConfig
from agentbench.types import Group, Trajectory

from .reader import Episodes, Reader, ReadTurn, average

Worth = Mapping[tuple[str, int], float]
"""What a turn is worth, by (trajectory id, turn index)."""


def opd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A_t = c (log p - log q)."""
    reader = Reader(run)
    episodes = reader.episodes(groups)
    gaps = [[settings.coef * _gap(run, settings, turn) for turn in turns] for _, turns in episodes]
    return _gradient(reader, settings, episodes, gaps)


tcod = opd


def guided_opd(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """The same on the student's turns, and -b log q on those of the guide, averaged together."""
    reader = Reader(run)

    def loss(turn: ReadTurn) -> Tensor:
        if turn.turn.action.author == settings.guide:
            return -float(settings.imitation) * turn.log_q(run.rollout.temperature)
        return _policy_loss(run, settings, turn, settings.coef * _gap(run, settings, turn))

    episodes = reader.episodes(groups, ("student", settings.guide))
    return _averaged(reader, settings, [[loss(turn) for turn in turns] for _, turns in episodes])


def sod(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A_t = A_GRPO + c w_k (log p - log q), w_k = min(prod_u (d_u + eps) / (d_{u+1} + eps), 1 + delta)."""
    reader = Reader(run)
    episodes = reader.episodes(groups)
    worth = _episode_advantage(groups, settings) if settings.reward else {}
    advantages = []
    for episode, turns in episodes:
        product, before = 1.0, 0.0
        mine: list[Tensor] = []
        for turn in turns:
            d = _disagreement(run, turn) + 1e-6
            product = product * before / d if mine else 1.0
            before = d
            weight = min(product, 1.0 + settings.delta) if mine else 1.0
            own = worth.get((episode.id, turn.turn.index), 0.0)
            mine.append(settings.coef * weight * _gap(run, settings, turn) + own)
        advantages.append(mine)
    return _gradient(reader, settings, episodes, advantages)


def atod(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A_t = kappa(s) w_k (log p - log q) + rho(s) A_GRPO, w_k = 1 - (1 - d_k)(1 - h_k), at the first step."""
    kappa, rho = (_start(x, settings.first_step) for x in (settings.kappa, settings.rho))
    reader = Reader(run)
    episodes, worth = reader.episodes(groups), _episode_advantage(groups, settings)
    by_token = iter(_of_tokens(run, settings, episodes)) if settings.weights == "token" else None
    advantages = []
    for episode, turns in episodes:
        weights: Sequence[Any] = [next(by_token) for _ in turns] if by_token else _t_dur(run, settings, turns)
        advantages.append(
            [
                kappa * weight * _gap(run, settings, turn) + rho * worth[episode.id, turn.turn.index]
                for turn, weight in zip(turns, weights, strict=True)
            ]
        )
    return _gradient(reader, settings, episodes, advantages)


def grpo(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A_i = (R_i - mean) / (std + eps), the same on all tokens of the episode."""
    return _of_turns(run, settings, groups, _episode_advantage(groups, settings))


def gigpo(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """A = A_episode + w A_step; A_step compares discounted returns of turns that saw the same text."""
    buckets: dict[tuple[int, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for number, group in enumerate(groups):
        for episode in _sound(group):
            value = 0.0
            for turn in reversed(episode.turns[group.anchor :]):
                value = turn.reward + settings.gamma * value
                buckets[number, turn.observation][episode.id, turn.index] = value
    step: dict[tuple[str, int], float] = {}
    for bucket in buckets.values():
        alone = len(bucket) == 1
        step |= dict.fromkeys(bucket, 0.0) if alone else _standard(bucket, settings.divide_by_std)
    whole = _episode_advantage(groups, settings)
    worth = {key: whole[key] + settings.step_weight * step[key] for key in whole}
    return _of_turns(run, settings, groups, worth)


def sdar(run: TrainConfig, settings: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """-A_GRPO log q + lambda g (log p - log q), g = sigmoid(beta (log p - log q)) constant, p after the skills."""
    reader, worth = Reader(run), _episode_advantage(groups, settings)
    losses = []
    for episode, turns in reader.episodes(groups):
        mine = []
        for turn in turns:
            own = torch.full_like(turn.said_A, worth[episode.id, turn.turn.index], dtype=torch.float64)
            skilled = replace(
                turn,
                teacher_AV=reader.after(
                    turn.turn.notes["skills"], episode, turn.turn, "before", opening=True
                ),
            )
            gap_A = skilled.log_p(run.rollout.temperature) - turn.log_q(run.rollout.temperature)
            gate_A = 1.0 / (1.0 + (-settings.gate_beta * gap_A.detach()).exp())
            mine.append(_policy_loss(run, settings, turn, own) + settings.distill_coef * gate_A * gap_A)
        losses.append(mine)
    return _averaged(reader, settings, losses)


# --- parts ------------------------------------------------------------------------------------------------------------


def _of_turns(run: TrainConfig, settings: Any, groups: Sequence[Group], worth: Worth) -> dict[str, Any]:
    reader = Reader(run)
    episodes = reader.episodes(groups)
    advantages = [
        [
            torch.full_like(turn.said_A, worth[episode.id, turn.turn.index], dtype=torch.float64)
            for turn in turns
        ]
        for episode, turns in episodes
    ]
    return _gradient(reader, settings, episodes, advantages)


def _gradient(
    reader: Reader, settings: Any, episodes: Episodes, advantages: Sequence[Sequence[Tensor]]
) -> dict[str, Any]:
    losses = [
        [
            _policy_loss(reader.run, settings, turn, value_A)
            for turn, value_A in zip(turns, values, strict=True)
        ]
        for (_, turns), values in zip(episodes, advantages, strict=True)
    ]
    return _averaged(reader, settings, losses)


def _averaged(reader: Reader, settings: Any, losses: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
    balance = min(1.0, max(0.0, _start(settings.balance, 0)))
    return reader.gradient(average(settings.reduction, losses, balance))


def _policy_loss(run: TrainConfig, settings: Any, turn: ReadTurn, advantage_A: Tensor) -> Tensor:
    """- A log q, weighed down where the engine gave the token more than the trainer, less the entropy bonus."""
    log_q_A = turn.log_q(run.rollout.temperature)
    if settings.importance_cap is not None:
        advantage_A = advantage_A * importance(run, turn, settings.importance_cap)
    q_AV = (turn.student_AV / run.rollout.temperature).log_softmax(-1)
    bonus_A = float(settings.entropy_coef) * -(q_AV.exp() * q_AV).sum(-1)
    return -advantage_A.detach() * log_q_A - bonus_A


def importance(run: TrainConfig, turn: ReadTurn, cap: float) -> Tensor:
    """min(q / behaviour, cap) of each token, a constant."""
    log_q_A = turn.log_q(run.rollout.temperature).detach()
    behaviour_A = torch.tensor(turn.turn.action.logprobs, dtype=torch.float64).to(log_q_A.device)
    return (log_q_A - behaviour_A).exp().clamp(max=cap)


def _gap(run: TrainConfig, settings: Any, turn: ReadTurn) -> Tensor:
    """Log p - log q of each token, a constant."""
    gap_A = (turn.log_p(run.rollout.temperature) - turn.log_q(run.rollout.temperature)).detach()
    return gap_A if settings.gap_clip is None else gap_A.clamp(-settings.gap_clip, settings.gap_clip)


def _disagreement(run: TrainConfig, turn: ReadTurn) -> float:
    t = run.rollout.temperature
    return float((turn.log_p(t) - turn.log_q(t)).detach().abs().mean())


def _t_dur(run: TrainConfig, settings: Any, turns: Sequence[ReadTurn]) -> list[float]:
    d = [_disagreement(run, turn) for turn in turns]
    h = [float(-turn.log_q(run.rollout.temperature).detach().mean()) for turn in turns]
    if settings.weights == "none" or len(turns) < settings.min_turns or max(d) < settings.min_gap:
        return [1.0] * len(turns)
    weights = _soft_or(_spread(d), _spread(h), settings)
    if settings.mean_preserving:
        counts = [len(turn.said_A) for turn in turns]
        weights = [min(max(w, 0.5), 2.0) for w in _around_one(weights, counts)]
        weights = _around_one(weights, counts)
    return weights


def _of_tokens(run: TrainConfig, settings: Any, episodes: Episodes) -> list[Tensor]:
    """The same for single tokens, normalised over the batch, the surprise cut at its 0.98 quantile."""
    turns = [turn for _, found in episodes for turn in found]
    t = run.rollout.temperature
    d = [float(x) for turn in turns for x in (turn.log_p(t) - turn.log_q(t)).detach().abs()]
    h = [float(-x) for turn in turns for x in turn.log_q(t).detach()]
    cut = float(np.quantile(h, 0.98))
    weights = _soft_or(_spread(d), _spread([min(x, cut) for x in h]), settings)
    if max(d) < settings.min_gap:
        weights = [1.0] * len(weights)
    rest = iter(weights)
    return [
        torch.tensor([next(rest) for _ in turn.said_A], dtype=torch.float64, device=turn.said_A.device)
        for turn in turns
    ]


def _soft_or(d: list[float], h: list[float], settings: Any) -> list[float]:
    """1 - (1 - d)(1 - h), or one of them alone, raised by the smoothing."""
    d = d if settings.signal != "uncertainty" else [0.0] * len(d)
    h = h if settings.signal != "disagreement" else [0.0] * len(h)
    s = settings.smoothing
    return [(1.0 - s) * (1.0 - (1.0 - a) * (1.0 - b)) + s for a, b in zip(d, h, strict=True)]


def _around_one(weights: list[float], counts: list[int]) -> list[float]:
    """Divided by their mean over tokens."""
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    return [w / mean for w in weights]


def _spread(values: list[float]) -> list[float]:
    """Min-max normalised; constant values count a half."""
    low, high = min(values), max(values)
    return [0.5 if high - low < 1e-8 else (value - low) / (high - low) for value in values]


def _episode_advantage(groups: Sequence[Group], settings: Any) -> dict[tuple[str, int], float]:
    """GRPO's, of every turn from the anchor on."""
    worth: dict[tuple[str, int], float] = {}
    for group in groups:
        turns = [(episode, turn) for episode in _sound(group) for turn in episode.turns[group.anchor :]]
        if settings.group_stats == "trajectory":
            by_episode = _standard(
                {(episode.id, 0): episode.reward for episode in _sound(group)}, settings.divide_by_std
            )
            worth |= {(episode.id, turn.index): by_episode[episode.id, 0] for episode, turn in turns}
            continue
        free = {e.id: e.reward + sum(t.penalty for t in e.turns[group.anchor :]) for e in _sound(group)}
        scores = {(episode.id, turn.index): free[episode.id] - turn.penalty for episode, turn in turns}
        worth |= _standard(scores, settings.divide_by_std)
    return worth


def _standard(scores: Mapping[tuple[str, int], float], divide: bool) -> dict[tuple[str, int], float]:
    """(x - mean) / (unbiased std + 1e-6); 0 where all are equal; one alone has mean 0 and std 1."""
    values = list(scores.values())
    if len(values) == 1:
        mean, std = 0.0, 1.0
    else:
        mean, std = math.fsum(values) / len(values), statistics.stdev(values)
    if len(values) > 1 and min(values) == max(values):
        return dict.fromkeys(scores, 0.0)
    return {key: (value - mean) / (std + 1e-6 if divide else 1.0) for key, value in scores.items()}


def _sound(group: Group) -> list[Trajectory]:
    return [episode for episode in group.members if episode.ok]


def _start(schedule: Any, first: int) -> float:
    """A schedule's value at the first update: a number, or a line from start to end."""
    if not isinstance(schedule, Mapping):
        return float(schedule)
    if schedule["kind"] == "constant":
        return float(schedule["value"])
    if schedule["kind"] != "linear":
        raise NotImplementedError(f"a {schedule['kind']} schedule")
    start, end, steps = (float(schedule[key]) for key in ("start", "end", "steps"))
    return start + (end - start) * min(first / steps, 1.0)
