"""Three tables: how collected episodes become tensors, once, for every algorithm.

Tokens [B, T], turns [N] and trajectories [M] are joined by two foreign keys: `turn_BT` (token to turn) and `traj_N`
(turn to trajectory). Everything an algorithm computes per turn or per trajectory is then an index operation. Also
owns the cut into micro-batches by token budget. Leaves out segmentation (`agentbench.dialogue.segment`) and all maths.

Tables live on the CPU; a micro-batch carries what it needs to the device. Letters: B rows, T tokens, N turns,
M trajectories, X trained tokens of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from agentbench.dialogue.segment import CONTEXT, Segment, segment
from agentbench.errors import ContractError, UsageError
from agentbench.types import Action, Group, Trajectory, Turn


@dataclass(frozen=True)
class Batch:
    """The tables of one step; every `_BT` column is aligned with `tokens_BT`.

    Attributes:
        tokens_BT: int64, right-padded with `pad_id`.
        turn_BT: int64 row of the turn table; -1 on context, on padding and wherever nothing is trained.
        behaviour_BT: float32 nats, log-prob under which the token was sampled; 0 off trained tokens.
        length_B: tokens of the row.
        traj_N: row of the trajectory table; the turn table holds every turn from its group's anchor on.
        index_N: position of the turn in its episode.
        reward_N: float64, env unit.
        penalty_N: float64, the part that was taken off `reward_N` for an invalid reply.
        anchor_N: id of (task group, exact observation): equal ids started from the same text.
        truncated_N: the reply hit the token limit.
        score_M: float64, sum of the rewards of the whole episode, env unit.
        success_M: float64, 1 solved, 0 not; NaN where the env has no such verdict or the episode broke.
        group_M: row of the group.
        ok_M: free of infrastructure failures.
        ids_M: trajectory ids.
        author_N: who said the turn.
    """

    tokens_BT: Tensor
    turn_BT: Tensor
    behaviour_BT: Tensor
    length_B: Tensor
    traj_N: Tensor
    index_N: Tensor
    reward_N: Tensor
    penalty_N: Tensor
    anchor_N: Tensor
    truncated_N: Tensor
    score_M: Tensor
    success_M: Tensor
    group_M: Tensor
    ok_M: Tensor
    ids_M: tuple[str, ...]
    pad_id: int
    author_N: tuple[str, ...] = ()

    @property
    def mask_BT(self) -> Tensor:
        """Trained tokens."""
        return self.turn_BT >= 0

    @property
    def turns(self) -> int:
        """N."""
        return len(self.traj_N)

    @property
    def traj_B(self) -> Tensor:
        """Trajectory of each row."""
        return self.traj_N[self.turn_BT.amax(dim=1)]

    def only(self, keep_BT: Tensor) -> Batch:
        """The same tables with fewer trained tokens, for figures: rows may be left without any."""
        return replace(self, turn_BT=self.turn_BT.masked_fill(~keep_BT, CONTEXT))

    def columns(self, **x_N: Tensor) -> dict[str, dict[tuple[str, int], float]]:
        """Key turn values by (trajectory id, turn index), for the records; untrained turns are left out."""
        seen_N = torch.zeros(self.turns, dtype=torch.bool)
        seen_N[self.turn_BT[self.mask_BT]] = True
        rows = seen_N.nonzero()[:, 0].tolist()
        trajs, indices = self.traj_N.tolist(), self.index_N.tolist()
        keys = [(self.ids_M[trajs[n]], int(indices[n])) for n in rows]
        return {name: dict(zip(keys, x[rows].tolist(), strict=True)) for name, x in x_N.items()}


def collate(
    groups: Sequence[Group], pad_id: int, authors: Collection[str] = ("student",), *, labels: bool = False
) -> Batch:
    """Turn groups into tables.

    Trained are the tokens of turns from the group's anchor on, said by one of `authors`, in episodes that no
    infrastructure failure broke. The first token of a row is never trained: nothing predicts it.

    Args:
        groups: of one step; trajectory ids must not repeat.
        pad_id: fills rows up to the longest.
        authors: whose turns are trained.
        labels: train on the labels recorded with the turns (`Turn.label`) instead of on what was done;
            each label that differs from the deed makes a row of its own: the prompt up to there, then the label.
    Raises: UsageError: a trajectory id repeats, or labels are wanted and a turn has none.
    """
    table = _Table()
    for number, group in enumerate(groups):
        for member in group.members:
            table.add(group, number, member, authors, labels)
    return table.tensors(pad_id)


def with_context(batch: Batch) -> Batch:
    """Train every token of the rows, observations included; context counts to the turn that answers it.

    Tokens after a row's last reply are left out, and so is the first token, which nothing predicts.
    """
    turn_BT = batch.turn_BT.clone()
    for t in range(turn_BT.shape[1] - 2, 0, -1):
        here_B, next_B = turn_BT[:, t], turn_BT[:, t + 1]
        turn_BT[:, t] = torch.where(here_B >= 0, here_B, next_B)
    return replace(batch, turn_BT=turn_BT)


class _Table:
    """Lists that become a `Batch`."""

    def __init__(self) -> None:
        self.rows: list[tuple[Segment, int]] = []
        self.turns: list[tuple[int, int, float, float, int, bool]] = []
        self.authors: list[str] = []
        self.trajectories: list[tuple[float, float, int, bool]] = []
        self.ids: dict[str, int] = {}
        self.anchors: dict[tuple[str, str], int] = {}

    def add(
        self, group: Group, number: int, trajectory: Trajectory, authors: Collection[str], labels: bool
    ) -> None:
        if trajectory.id in self.ids:
            raise UsageError(f"trajectory id {trajectory.id!r} occurs twice in one batch")
        m = self.ids[trajectory.id] = len(self.ids)
        won = float("nan") if trajectory.success is None else float(trajectory.success)
        self.trajectories.append((trajectory.reward, won, number, trajectory.ok))
        first = len(self.turns) - group.anchor
        played = trajectory.turns[group.anchor :]
        for turn in played:
            place = self.anchors.setdefault((group.key, turn.observation), len(self.anchors))
            cut = turn.action.finish == "length"
            self.turns.append((m, turn.index, turn.reward, turn.penalty, place, cut))
            self.authors.append(turn.action.author)
        if not trajectory.ok:
            return
        if labels:
            segments = _label_rows(trajectory, group.anchor)
        else:
            segments = segment(trajectory, {turn.index for turn in played if turn.action.author in authors})
        self.rows.extend((row, first) for row in segments)

    def tensors(self, pad_id: int) -> Batch:
        width = max((len(row.token_ids) for row, _ in self.rows), default=2)
        shape = (len(self.rows), max(width, 2))
        tokens_BT = np.full(shape, pad_id, dtype=np.int64)
        turn_BT = np.full(shape, CONTEXT, dtype=np.int64)
        behaviour_BT = np.zeros(shape, dtype=np.float32)
        for b, (row, first) in enumerate(self.rows):
            end = len(row.token_ids)
            turns = np.asarray(row.turn_ids, dtype=np.int64)
            tokens_BT[b, :end] = row.token_ids
            turn_BT[b, :end] = np.where(turns >= 0, turns + first, CONTEXT)
            behaviour_BT[b, :end] = row.logprobs
        turn_BT[:, 0] = CONTEXT
        behaviour_BT[:, 0] = 0.0
        keep = (turn_BT >= 0).any(axis=1)  # a row of one sampled token and no prompt teaches nothing
        traj, index, reward, penalty, anchor, cut = zip(*self.turns, strict=True) if self.turns else [()] * 6
        score, won, group, ok = zip(*self.trajectories, strict=True) if self.trajectories else [()] * 4
        lengths = np.asarray([len(row.token_ids) for row, _ in self.rows], dtype=np.int64)
        return Batch(
            tokens_BT=torch.from_numpy(tokens_BT[keep]),
            turn_BT=torch.from_numpy(turn_BT[keep]),
            behaviour_BT=torch.from_numpy(behaviour_BT[keep]),
            length_B=torch.from_numpy(lengths[keep]),
            traj_N=torch.tensor(traj, dtype=torch.long),
            index_N=torch.tensor(index, dtype=torch.long),
            reward_N=torch.tensor(reward, dtype=torch.float64),
            penalty_N=torch.tensor(penalty, dtype=torch.float64),
            anchor_N=torch.tensor(anchor, dtype=torch.long),
            truncated_N=torch.tensor(cut, dtype=torch.bool),
            score_M=torch.tensor(score, dtype=torch.float64),
            success_M=torch.tensor(won, dtype=torch.float64),
            group_M=torch.tensor(group, dtype=torch.long),
            ok_M=torch.tensor(ok, dtype=torch.bool),
            ids_M=tuple(self.ids),
            pad_id=pad_id,
            author_N=tuple(self.authors),
        )


def _label_rows(trajectory: Trajectory, anchor: int) -> list[Segment]:
    """Rows that train the label of every turn; labels that agree with the deed share the episode's own rows."""
    agreed: set[int] = set()
    rows: list[Segment] = []
    for turn in trajectory.turns[anchor:]:
        said = _label(trajectory, turn)
        if tuple(said.token_ids) == tuple(turn.action.token_ids):
            agreed.add(turn.index)
            continue
        until = (*trajectory.turns[: turn.index], _with_action(turn, said))
        rows.extend(segment(_with_turns(trajectory, until), {turn.index}))
    return [*segment(trajectory, agreed), *rows]


def _label(trajectory: Trajectory, turn: Turn) -> Action:
    if turn.label is None or not turn.label.token_ids:
        raise ContractError(
            f"turn {turn.index} of trajectory {trajectory.id!r} has no label; the plan asked for labels"
        )
    return turn.label


def _with_action(turn: Turn, action: Action) -> Turn:
    return Turn(turn.index, turn.observation, action, None, 0.0, turn.context_ids, turn.fresh)


def _with_turns(trajectory: Trajectory, turns: Sequence[Turn]) -> Trajectory:
    return Trajectory(
        trajectory.id, trajectory.env, trajectory.task, trajectory.seed, turns, None, 0.0, "max_turns"
    )
