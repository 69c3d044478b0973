"""Figures of debates among teachers. Leaves out the debates (`teachers.debate`) and what is learnt from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..batch.micro import micro_batches
from ..batch.tables import Batch
from ..kernels.divergence import divergence
from ..kernels.fused import LinearHead
from ..kernels.tokens import logprob
from ..student.student import Student
from ..teachers.contract import WholeTeacher
from ..teachers.debate import Debate, Key
from ..teachers.speaking import Speaker

_UNLIKELY = math.log(1e-4)


def debate_figures(
    debates: Mapping[Key, Debate], confidence_DK: Tensor, weight_DK: Tensor
) -> dict[str, Tensor]:
    """What was said in a step's D debates, each figure a list of single values to be averaged.

    Args:
        debates: of the step.
        confidence_DK: NaN where none was given.
        weight_DK: 0 where a teacher is missing.
    """
    held = list(debates.values())
    present_DK = torch.tensor([debate.present for debate in held], dtype=torch.bool).reshape(weight_DK.shape)
    found: dict[str, Tensor] = {
        "debate/dropped_share": 1.0 * ~present_DK.any(dim=1),
        "debate/one_missing_share": 1.0 * (present_DK.any(dim=1) & ~present_DK.all(dim=1)),
        "debate/weight_spread": (weight_DK.amax(dim=1) - weight_DK.amin(dim=1))[present_DK.all(dim=1)],
    }
    for k in range(weight_DK.shape[1]):
        there_D, read_D = present_DK[:, k], ~confidence_DK[:, k].isnan()
        found |= {
            f"debate/missing_share/teacher_{k + 1}": 1.0 * ~there_D,
            f"debate/confidence_read_share/teacher_{k + 1}": 1.0 * read_D[there_D],
            f"debate/confidence/teacher_{k + 1}": confidence_DK[there_D & read_D, k],
            f"debate/weight/teacher_{k + 1}": weight_DK[there_D, k],
            f"debate/cut_share/teacher_{k + 1}": _values(
                said.cut for debate in held for messages in debate.rounds if (said := messages[k]) is not None
            ),
        }
    whole = [debate for debate in held if all(debate.present)]
    if weight_DK.shape[1] > 1:
        found["debate/agreement"] = _values(len(set(debate.proposals(0))) == 1 for debate in whole)
    if held and len(held[0].rounds) > 1:
        found["debate/changed_share"] = _values(
            first != last
            for debate in whole
            for first, last in zip(debate.proposals(0), debate.proposals(-1), strict=True)
        )
    return found


class Tally:
    """What speakers have spent since the last look."""

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        self.speakers = speakers
        self._before = torch.zeros(3, dtype=torch.long)

    def figures(self, debates: int, trained_tokens: int) -> dict[str, Tensor]:
        """Faults and answers that were known, by debate, and tokens said for each trained one, since the last call.

        As lists, so that their means over all processes are those of one.
        """
        now = torch.tensor(
            [(voice.faults.total(), voice.recalled, voice.tokens) for voice in self.speakers]
        ).sum(dim=0)
        faults, recalled, tokens = (now - self._before).tolist()
        self._before = now
        return {
            "debate/faults": torch.full((debates,), faults / max(1, debates)),
            "debate/recalled": torch.full((debates,), recalled / max(1, debates)),
            "debate/tokens_per_trained_token": torch.full((trained_tokens,), tokens / max(1, trained_tokens)),
        }


@torch.no_grad()
def probe_teachers(
    teachers: Sequence[WholeTeacher],
    batch: Batch,
    rows_B: Tensor,
    present_KBT: Sequence[Tensor],
    student: Student,
) -> dict[str, Tensor]:
    """What the teachers say at the student's tokens of some rows, each figure a list of single values.

    `unlikely_share`: the teacher gives the token less than 1e-4. `teachers_apart`: KL(a, b) + KL(b, a) in nats, of
    every pair of teachers.

    Args:
        teachers: K of them.
        batch: the student's tables.
        rows_B: which rows.
        present_KBT: for each teacher, the tokens of which it speaks.
        student: gives vocabulary and device.
    """
    found: dict[str, list[Tensor]] = {}
    for micro in micro_batches(batch, teachers[0].budget, student.device, rows_B):
        present_KX = [micro.pick(present_BT) for present_BT in present_KBT]
        heads = [teacher.linear_head(micro) for teacher in teachers]
        for k, (head, there_X) in enumerate(zip(heads, present_KX, strict=True)):
            logp_X, _ = logprob(head.hidden_ND, head.head, micro.token_X, vocab_size=student.vocab_size)
            found.setdefault(f"unlikely_share/teacher_{k + 1}", []).append(
                (logp_X < _UNLIKELY)[there_X].cpu()
            )
        for j, k in itertools.combinations(range(len(heads)), 2):
            apart_X = _distance(heads[j], heads[k], student) + _distance(heads[k], heads[j], student)
            found.setdefault("teachers_apart", []).append(apart_X[present_KX[j] & present_KX[k]].cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _distance(a: LinearHead, b: LinearHead, student: Student) -> Tensor:
    """KL(a, b) at each position."""
    none_X = a.hidden_ND.new_zeros(len(a.hidden_ND))
    return divergence(
        a.hidden_ND, a.head, b, kind="reverse_kl", weight_N=none_X, vocab_size=student.vocab_size
    ).value_N


def _values(items: object) -> Tensor:
    return torch.tensor([float(item) for item in items], dtype=torch.float64)  # type: ignore[attr-defined]
