"""Figures of debates among teachers. Leaves out the debates (`teachers.debate`) and what is learnt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..batch.micro import micro_batches
from ..batch.tables import Batch
from ..kernels.divergence import divergence
from ..student.student import Student
from ..teachers.contract import WholeTeacher
from ..teachers.debate import Debate, Key
from ..teachers.speaking import Speaker


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
def teachers_apart(
    teachers: Sequence[WholeTeacher], batch: Batch, rows_B: Tensor, keep_BT: Tensor, student: Student
) -> Tensor:
    """KL(a, b) + KL(b, a) of every pair of teachers at the tokens of some rows, nats; one list for all pairs.

    Args:
        teachers: K of them.
        batch: the student's tables.
        rows_B: which rows.
        keep_BT: bool, tokens of which every teacher speaks.
        student: gives vocabulary and device.
    """
    found: list[Tensor] = [torch.zeros(0)]
    for micro in micro_batches(batch, teachers[0].budget, student.device, rows_B):
        keep_X, no_weight_X = micro.pick(keep_BT), torch.zeros(len(micro.token_X), device=student.device)
        heads = [teacher.linear_head(micro) for teacher in teachers]
        for j, a in enumerate(heads):
            for b in heads[j + 1 :]:
                both = [
                    divergence(
                        one.hidden_ND,
                        one.head,
                        other,
                        kind="reverse_kl",
                        weight_N=no_weight_X,
                        vocab_size=student.vocab_size,
                    ).value_N
                    for one, other in ((a, b), (b, a))
                ]
                found.append((both[0] + both[1])[keep_X].cpu())
    return torch.cat(found)


def _values(items: object) -> Tensor:
    return torch.tensor([float(item) for item in items], dtype=torch.float64)  # type: ignore[attr-defined]
