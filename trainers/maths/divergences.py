"""Divergences between a student and a teacher distribution, one value per position.

Owns: forward KL, reverse KL and the generalised Jensen-Shannon divergence over the full vocabulary, over a
top-K support, and the sampled-token estimator of reverse KL. With q the student and p the teacher:

    forward_kl = sum_v p log(p/q)                                   mass-covering
    reverse_kl = sum_v q log(q/p)                                   mode-seeking
    jsd        = beta KL(p||m) + (1-beta) KL(q||m),  m = beta p + (1-beta) q

Published code disagrees on these names; here the first word always says whose samples the teacher's KL would
need (forward: the teacher's, reverse: the student's). Raw values of different kinds are not comparable.

Leaves out: reductions and masks (`reductions`), and the form that never holds full logits (`kernels.divergence`).
In names, `X` stands for any leading axes, `V` for the vocabulary and `K` for a support of K ids.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
TailMode = Literal["renormalise", "tail", "ignore"]


def check_kind(kind: str, beta: float) -> None:
    """Refuse an unknown divergence name or a JSD mixture at which the divergence is zero everywhere.

    Raises: ConfigError: the name is not a `Kind`, or kind is "jsd" and beta is not inside (0, 1).
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"no divergence {kind!r}; choose one of {', '.join(get_args(Kind))}")
    if kind == "jsd" and not 0.0 < beta < 1.0:
        raise ConfigError(
            f"beta={beta} makes the JSD zero for every pair of distributions; use 0 < beta < 1, "
            "or name 'forward_kl' / 'reverse_kl' (some projects spell those beta=0 and beta=1)"
        )


def full_vocabulary(
    student_XV: Tensor, teacher_XV: Tensor, *, kind: Kind, beta: float = 0.5, kd_temperature: float = 1.0
) -> Tensor:
    """Measure the divergence over the whole vocabulary.

    Args:
        student_XV: log-probabilities, normalised over the last axis; -inf marks a forbidden or padding entry.
        teacher_XV: same shape; treated as a constant.
        kind: which divergence.
        beta: weight of the teacher in the mixture; read by "jsd" alone.
        kd_temperature: both distributions are flattened to softmax(log-prob / kd_temperature).
    Returns: [X] nats, unreduced; +inf where the definition is infinite.
    Raises: UsageError: the two shapes differ. ConfigError: bad kind, beta or temperature.
    """
    check_kind(kind, beta)
    _check_shapes(student_XV, teacher_XV)
    student_XV, teacher_XV = (
        _flatten(student_XV, kd_temperature),
        _flatten(teacher_XV.detach(), kd_temperature),
    )
    return _divergence(student_XV, teacher_XV, kind, beta)


def on_support(
    student_XK: Tensor,
    teacher_XK: Tensor,
    *,
    kind: Kind,
    tail: TailMode,
    beta: float = 0.5,
    kd_temperature: float = 1.0,
) -> Tensor:
    """Measure the divergence on K chosen ids; `tail` says what becomes of all the others.

    - "renormalise": both are conditioned on the support (local support matching). Mass outside is invisible:
      it has neither loss nor gradient, so watch `support_mass`.
    - "tail": all other ids form one bucket. A lower bound of the full divergence that sees escaping mass.
    - "ignore": the bare sum over the support. Not a divergence (it can be negative); a published ablation
      that collapses.

    Args:
        student_XK: log-probabilities under the student's *full* softmax; ids must not repeat, and -inf in
            both tensors removes an entry.
        teacher_XK: same ids; treated as a constant.
        kind: which divergence.
        tail: see above.
        beta: weight of the teacher in the mixture; read by "jsd" alone.
        kd_temperature: only with "renormalise"; the other modes would need the full normaliser.
    Returns: [X] nats, unreduced.
    Raises: UsageError: shapes differ. ConfigError: bad kind, tail, beta or temperature.
    Source: local support matching, arXiv:2603.25562; tail bucket, arXiv:2605.12652 (released code).
    """
    check_kind(kind, beta)
    _check_shapes(student_XK, teacher_XK)
    teacher_XK = teacher_XK.detach()
    if tail == "renormalise":
        student_XK = torch.log_softmax(_scaled(student_XK, kd_temperature), dim=-1)
        teacher_XK = torch.log_softmax(_scaled(teacher_XK, kd_temperature), dim=-1)
        return _divergence(student_XK, teacher_XK, kind, beta)
    if tail not in get_args(TailMode):
        raise ConfigError(f"no tail mode {tail!r}; choose one of {', '.join(get_args(TailMode))}")
    if kd_temperature != 1.0:
        raise ConfigError(
            f"kd_temperature={kd_temperature} with tail={tail!r}: the normaliser outside the support is "
            "unknown; use tail='renormalise' or the full vocabulary"
        )
    if tail == "tail":
        student_XK, teacher_XK = _with_bucket(student_XK), _with_bucket(teacher_XK)
    return _divergence(student_XK, teacher_XK, kind, beta)


def _divergence(student_XV: Tensor, teacher_XV: Tensor, kind: Kind, beta: float) -> Tensor:
    if kind == "forward_kl":
        return _weighted_gap(teacher_XV, student_XV)
    if kind == "reverse_kl":
        return _weighted_gap(student_XV, teacher_XV)
    absent = torch.isneginf(student_XV) & torch.isneginf(teacher_XV)
    mixture_XV = torch.logaddexp(
        teacher_XV.masked_fill(absent, 0.0) + math.log(beta),
        student_XV.masked_fill(absent, 0.0) + math.log1p(-beta),
    )
    teacher_part = _weighted_gap(teacher_XV, mixture_XV)
    return beta * teacher_part + (1.0 - beta) * _weighted_gap(student_XV, mixture_XV)


def _weighted_gap(a_XV: Tensor, b_XV: Tensor) -> Tensor:
    """Sum exp(a) (a - b), with 0 log 0 = 0 in the value and in the gradient."""
    absent = torch.isneginf(a_XV)
    a_XV = a_XV.masked_fill(absent, 0.0)
    gap_XV = a_XV - b_XV.masked_fill(absent, 0.0)
    return (a_XV.exp() * gap_XV).sum(dim=-1)


def _with_bucket(logp_XK: Tensor) -> Tensor:
    """Append the log-probability of everything outside the support.

    The bucket is floored at machine epsilon: below it 1 - sum is rounding noise whose log has an unbounded
    gradient, and a support that covers the vocabulary would leave log 0.
    """
    floor = torch.finfo(logp_XK.dtype).eps
    inside_X = torch.logsumexp(logp_XK, dim=-1, keepdim=True).clamp(max=math.log1p(-floor))
    return torch.cat([logp_XK, torch.log(-torch.expm1(inside_X))], dim=-1)


def _flatten(logp_XV: Tensor, kd_temperature: float) -> Tensor:
    if kd_temperature == 1.0:
        return logp_XV
    return torch.log_softmax(_scaled(logp_XV, kd_temperature), dim=-1)


def _scaled(logp_X: Tensor, kd_temperature: float) -> Tensor:
    if not kd_temperature > 0.0:
        raise ConfigError(
            f"kd_temperature={kd_temperature} must be positive; 1 leaves the models as they are"
        )
    return logp_X / kd_temperature


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise UsageError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} log-probs differ in shape; "
            "cut both to the tokenizer's real vocabulary and to the same positions"
        )
