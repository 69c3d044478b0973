"""Student and teacher in float64, read turn by turn through their full logits, and plain averages.

Owns what every reference needs: the trained turns of a batch with both models' logits, a teacher's logits after a
prompt that only it reads, the reductions, and the gradient of a loss by parameter. Leaves out the losses. Imports
nothing from the rooms that are checked; what a teacher read stands in the notes of a turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentbench.dialogue.render import Where, scene_of
from agentbench.models.loading import open_model
from agentbench.models.vocabulary import embedded_rows, vocabulary_of
from agentbench.registry import env_spec
from agentbench.training.authors import student_renderer
from agentbench.training.config import TrainConfig
from agentbench.types import Group, Trajectory, Turn


@dataclass(frozen=True)
class ReadTurn:
    """A trained turn.

    Attributes:
        student_AV: logits over the ids that exist at each of its A tokens, with gradient.
        teacher_AV: the teacher's, without; None where the run has none.
        said_A: the tokens, as places among those ids.
    """

    turn: Turn
    student_AV: Tensor
    teacher_AV: Tensor | None
    said_A: Tensor

    def log_q(self, temperature: float) -> Tensor:
        """Log-prob of each token under the student, [A]."""
        return (self.student_AV / temperature).log_softmax(-1).gather(1, self.said_A[:, None])[:, 0]

    def log_p(self, temperature: float) -> Tensor:
        """Log-prob of each token under the teacher, [A]."""
        assert self.teacher_AV is not None
        return (self.teacher_AV / temperature).log_softmax(-1).gather(1, self.said_A[:, None])[:, 0]


Episodes = list[tuple[Trajectory, list[ReadTurn]]]


class Reader:
    """The models of one run."""

    def __init__(self, run: TrainConfig) -> None:
        """Load them."""
        self.run = run
        self.student, self.tokenizer = open_model(run.model_name_or_path, dtype="float32")
        vocabulary = vocabulary_of(self.tokenizer, embedded_rows(self.student))
        self.student = self.student.double()
        self.ids_V = torch.from_numpy(np.flatnonzero(vocabulary.exists)).to(self.student.device)
        self.teacher = None
        if run.teachers:
            teacher = run.teachers[0]
            # an average of the student is the student before the first step
            own = teacher.backend in ("student", "ema")
            name = run.model_name_or_path if own else teacher.model_name_or_path
            self.teacher = open_model(name, dtype="float32")[0].double()

    def episodes(self, groups: Iterable[Group], authors: Collection[str] = ("student",)) -> Episodes:
        """Sound episodes with the turns from the group's anchor on that one of the authors said."""
        return [
            (episode, self._turns(episode, group.anchor, authors))
            for group in groups
            for episode in group.members
            if episode.ok
        ]

    def _turns(self, episode: Trajectory, anchor: int, authors: Collection[str]) -> list[ReadTurn]:
        """Walk the episode: a fresh prompt starts a row of tokens, every other one goes on with it."""
        read: list[ReadTurn] = []
        row: list[int] = []
        spans: list[tuple[Turn, int]] = []
        for turn in episode.turns:
            if turn.fresh and row:
                read += self._row(row, spans)
                row, spans = [], []
            row = [*row, *turn.context_ids]
            if turn.index >= anchor and turn.action.author in authors and turn.action.token_ids:
                spans.append((turn, len(row)))
            row = [*row, *turn.action.token_ids]
        return read + self._row(row, spans)

    def _row(self, row: list[int], spans: list[tuple[Turn, int]]) -> list[ReadTurn]:
        if not spans:
            return []
        tokens_1T = torch.tensor([row], device=self.ids_V.device)
        student_TV = self.student(input_ids=tokens_1T).logits[0][:, self.ids_V]
        teacher_TV = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher_TV = self.teacher(input_ids=tokens_1T).logits[0][:, self.ids_V]
        read = []
        for turn, start in spans:
            said_A = torch.searchsorted(self.ids_V, tokens_1T[0, start : start + len(turn.action.token_ids)])
            at = slice(start - 1, start - 1 + len(said_A))  # the token before predicts
            teacher_AV = None if teacher_TV is None else teacher_TV[at]
            read.append(ReadTurn(turn, student_TV[at], teacher_AV, said_A))
        return read

    def after(
        self, text: str, episode: Trajectory, turn: Turn, where: Where, *, opening: bool = False
    ) -> Tensor:
        """The teacher's logits [A, V] of a reply, after the student's prompt with a text on one side of its message.

        With `opening` the message is the one that opens a conversation which grows, and the ids after it stay.
        """
        assert self.teacher is not None
        spec = env_spec(self.run.env.name).under(self.run.env.options)
        renderer = student_renderer(self.run, spec, self)  # type: ignore[arg-type]  # its tokenizer is all that is read
        if opening and renderer.prompt.layout != "fresh":
            prompt = renderer.render(scene_of(episode, 0), text, where=where).prompt_ids
            for before, here in itertools.pairwise(episode.turns[: turn.index + 1]):
                prompt = [*prompt, *before.action.token_ids, *here.context_ids]
        else:
            prompt = renderer.render(scene_of(episode, turn.index), text, where=where).prompt_ids
        ids = [*prompt, *turn.action.token_ids]
        with torch.no_grad():
            logits_TV: Tensor = self.teacher(input_ids=torch.tensor([ids], device=self.ids_V.device)).logits[
                0
            ]
        return logits_TV[len(prompt) - 1 : -1][:, self.ids_V]

    def gradient(self, loss: Tensor) -> dict[str, Any]:
        """Gradient of a loss by parameter, float64 in numpy."""
        loss.backward()  # type: ignore[no-untyped-call]
        return {
            name: (torch.zeros_like(p) if p.grad is None else p.grad).cpu().numpy()
            for name, p in self.student.named_parameters()
        }


def average(kind: str, episodes: Sequence[Sequence[Tensor]], balance: float = 1.0) -> Tensor:
    """Make one number of token losses, given by episode and turn; turns and episodes without a token do not count.

    `balance` is alpha of "turn_balanced".
    """
    turns = [[loss_A for loss_A in episode if len(loss_A)] for episode in episodes]
    turns = [episode for episode in turns if episode]
    if kind == "token_mean":
        return torch.cat([loss_A for episode in turns for loss_A in episode]).mean()
    if kind == "turn_mean":
        return torch.stack([loss_A.mean() for episode in turns for loss_A in episode]).mean()
    if kind == "trajectory_mean":
        return torch.stack([torch.cat(episode).mean() for episode in turns]).mean()
    if kind == "turn_sum":
        sums = [torch.stack([loss_A.mean() for loss_A in episode]).sum() for episode in turns]
        return torch.stack(sums).mean()
    if kind == "turn_balanced":
        of_tokens = average("trajectory_mean", episodes)
        of_turns = torch.stack([torch.stack([x.mean() for x in episode]).mean() for episode in turns]).mean()
        return (1.0 - balance) * of_tokens + balance * of_turns
    raise NotImplementedError(f"reduction {kind!r}")
