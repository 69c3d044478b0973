"""Local support matching: reverse KL on a support S of K ids, alone or with the token that was sampled.

Owns the variants of arXiv:2603.25562, Table A3, with q the student, p the teacher, y the sampled token:

    unused    sum_S q^ log(q^ / p^), q^ and p^ conditioned on S                                  V1
    member    the same on S and y                                                                V2, V3
    tail      sum_S q log(q / p) + [y not in S] (q(y) / q_old(y)) log(q(y) / p(y))               V4, V5

The tail's expectation over y ~ q_old is the rest of the sum, and so is its gradient's: "tail" estimates the full
reverse KL without bias, from K exact terms and one sample. Leaves out whose ids S are (`kernels.support`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .divergences import on_support

SampledToken = Literal["unused", "member", "tail"]


def local_support(
    student_XL: Tensor, teacher_XL: Tensor, inside_X: Tensor, old_X: Tensor, *, sampled_token: SampledToken
) -> Tensor:
    """Measure the divergence at each position.

    Args:
        student_XL: log-probs under the student's full softmax of the K ids of S and, last, of the sampled token.
        teacher_XL: the teacher's, of the same ids; a constant.
        inside_X: bool, the sampled token is one of S.
        old_X: log-prob under which the token was sampled; read by "tail" alone.
        sampled_token: see the module.
    Returns: [X] nats, unreduced; "tail" can be negative at single positions.
    """
    student_XK, student_X = student_XL[:, :-1], student_XL[:, -1]
    teacher_XK, teacher_X = teacher_XL.detach()[:, :-1], teacher_XL.detach()[:, -1]
    if sampled_token == "unused":
        return on_support(student_XK, teacher_XK, kind="reverse_kl", tail="renormalise")
    if sampled_token == "member":
        gone_X1 = inside_X[:, None]  # it counts once
        student_XL = torch.cat([student_XK, student_X[:, None].masked_fill(gone_X1, -torch.inf)], dim=1)
        teacher_XL = torch.cat([teacher_XK, teacher_X[:, None].masked_fill(gone_X1, -torch.inf)], dim=1)
        return on_support(student_XL, teacher_XL, kind="reverse_kl", tail="renormalise")
    head_X = on_support(student_XK, teacher_XK, kind="reverse_kl", tail="ignore")
    tail_X = (student_X - old_X.detach()).exp() * (student_X - teacher_X)
    return head_X + tail_X.masked_fill(inside_X, 0.0)
