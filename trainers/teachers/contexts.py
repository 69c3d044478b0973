"""Private contexts: the student's own reply, scored by a teacher after a prompt that only the teacher reads.

One training step: an algorithm says for each turn which text its teacher may read beside the student's prompt (a skill,
a debate, what a peer tried). `TeacherReader` writes those prompts, `private_rows` makes rows of them (prompt, then the
very ids the student said; a prompt that goes on where the last one ended shares its row), and `PrivateTeacher` puts
what a teacher says of these rows back to where the same tokens stand in the student's table, so that every objective
works as with any teacher. Nothing of the student's changes: its rows, its prompts, its log-probs. A turn without a text
has no teacher signal: give `signal_BT` to `Algorithm.descend` as `keep_BT`, and it counts in neither loss nor
denominator.

Leaves out what the texts say (the algorithms) and who scores (`local`, `own`, `server`, `vllm`).
Letters: B, T the student's table; P, S the private one; X trained tokens of one of the student's micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from agentbench.dialogue.render import Renderer, Where, scene_of
from agentbench.dialogue.segment import CONTEXT
from agentbench.errors import ContractError, TrainingError, UsageError
from agentbench.registry import env_spec
from agentbench.trainer import Trainer
from agentbench.training.authors import student_renderer
from agentbench.training.config import TrainConfig
from agentbench.types import Group, Trajectory, Turn

from ..batch.micro import Micro, idle_micro, micro_batches
from ..batch.tables import Batch
from ..kernels.fused import LinearHead
from .contract import Teacher, TeacherScores, WholeTeacher

Texts = Mapping[tuple[str, int], str]
"""(trajectory id, turn index) -> what only the teacher reads; a turn that is absent has no teacher signal."""


class TeacherReader:
    """Writes the prompt that a teacher reads in place of the student's own.

    The student's messages up to the turn, with the private text put into one of them, through the student's chat
    template and its options. A growing conversation keeps the ids on record; a fresh prompt is written again.
    """

    def __init__(self, renderer: Renderer, *, where: Where = "after", opening: bool = False) -> None:
        """Read as `renderer` does.

        Args:
            renderer: the one that wrote the student's prompts.
            where: on which side of the student's message the private text stands.
            opening: put it into the message that opens the conversation instead of the turn's own. A text that is the
                same for all turns of an episode then makes prompts that extend each other, and the episode is read
                once. In prompts that are written anew at every turn the two are one.
        """
        self.renderer, self.where = renderer, where
        self.opening = opening and renderer.prompt.layout != "fresh"

    def prompt_ids(self, trajectory: Trajectory, turn: Turn, text: str) -> list[int]:
        """Token ids of the teacher's prompt for a turn on record; with an empty text they are the student's own.

        Raises: TrainingError: the student's prompt on record is another one than this reader would write.
        """
        scene = scene_of(trajectory, turn.index)
        own = self.renderer.render(scene)
        if own.context_ids != list(turn.context_ids) or own.fresh != turn.fresh:
            raise TrainingError(
                f"{_named(trajectory, turn)}: the prompt on record is not the one that env.prompt "
                f"({self.renderer.prompt.name!r}) writes for it, so a teacher's cannot be written either; train on "
                "episodes that were played with this prompt, template and history"
            )
        if not text:
            return own.prompt_ids
        if not self.opening:
            return self.renderer.render(scene, text, where=self.where).prompt_ids
        opened = self.renderer.render(scene_of(trajectory, 0), text, where=self.where).prompt_ids
        return [*opened, *own.prompt_ids[len(trajectory.turns[0].context_ids) :]]


def teacher_reader(
    run: TrainConfig, trainer: Trainer, *, where: Where = "after", opening: bool = False
) -> TeacherReader:
    """The reader that belongs to a run: its environment's prompt in the student's tokens."""
    spec = env_spec(run.env.name).under(run.env.options)
    return TeacherReader(student_renderer(run, spec, trainer), where=where, opening=opening)


def require_room(run: TrainConfig, longest: int, limit: int, what: str, advice: str) -> None:
    """Refuse at the start a private text that can grow so long that no student's prompt fits beside it.

    How long the student's prompts are is not known yet; one that does not fit after all is an error of its turn.

    Args:
        run: says how long replies may be.
        longest: most tokens of the private text.
        limit: most tokens that the teacher may read.
        what: the text is made of.
        advice: how to make it shorter.
    Raises: UsageError: text and reply alone fill the teacher's context.
    """
    reply = run.rollout.max_new_tokens
    if longest + reply >= limit:
        raise UsageError(
            f"{what} may have {longest} tokens; with a reply of {reply} (rollout.max_new_tokens) that leaves no room "
            f"for the student's prompt in the {limit} tokens that the teacher may read. {advice}, or take a teacher "
            "with a longer context"
        )


@dataclass(frozen=True)
class PrivateRows:
    """The same replies after other prompts, built once for each step and teacher.

    Attributes:
        batch: for every turn that has a text and trained tokens the teacher's prompt, then the reply; turns whose
            prompts extend each other share a row. It shares the student's tables of turns and trajectories; nobody
            sampled under these prompts, so `behaviour_BT` is 0.
        signal_BT: bool on the student's table, trained tokens that have a teacher signal.
        number_BT: int64 on the student's table: which trained token of `batch` it is, counted row by row; -1 without
            signal.
    """

    batch: Batch
    signal_BT: Tensor
    number_BT: Tensor

    def to_student(self, x_PS: Tensor) -> Tensor:
        """Put values of the private tokens [P, S, ...] where they stand in the student's table; 0 elsewhere."""
        x_BT = x_PS.new_zeros((*self.signal_BT.shape, *x_PS.shape[2:]))
        x_BT[self.signal_BT] = x_PS[self.batch.mask_BT][self.number_BT[self.signal_BT]]
        return x_BT

    def read(self, texts: Texts) -> Texts:
        """The texts that were read: those of turns that have a row."""
        batch = self.batch
        turns = set(batch.turn_BT[batch.mask_BT].tolist())
        keys = ((batch.ids_M[int(batch.traj_N[n])], int(batch.index_N[n])) for n in sorted(turns))
        return {key: texts[key] for key in keys}

    def prompt_tokens(self) -> Tensor:
        """Tokens of each row that no reply with a signal has, int64 [P]."""
        return self.batch.length_B - self.batch.mask_BT.sum(dim=1)


def private_rows(
    groups: Sequence[Group], batch: Batch, texts: Texts, reader: TeacherReader, limit: int
) -> PrivateRows:
    """Write the rows of all turns that have a text.

    Args:
        groups: the episodes of `batch`.
        batch: the student's tables.
        texts: what the teacher reads beside the student's prompt; "" is a signal from the student's own prompt.
        reader: writes the prompts.
        limit: most tokens of a row, prompt and reply; the teacher's `max_context` or less.
    Raises:
        ContractError: a text belongs to no turn of the groups.
        TrainingError: a prompt does not fit, or cannot be written; it is never cut.
    """
    turns = {(m.id, turn.index): (m, turn) for group in groups for m in group.members for turn in m.turns}
    strangers = texts.keys() - turns.keys()
    if strangers:
        raise ContractError(f"a private text belongs to no turn of this step: {min(strangers)}")
    number_BT, count = torch.full_like(batch.turn_BT, -1), 0
    rows: list[_Row] = []
    for n, (row_X, column_X) in _places(batch).items():
        name = (batch.ids_M[int(batch.traj_N[n])], int(batch.index_N[n]))
        if name not in texts:
            continue
        trajectory, turn = turns[name]
        ids = [*reader.prompt_ids(trajectory, turn, texts[name]), *turn.action.token_ids]
        if len(ids) > limit:
            raise TrainingError(
                f"{_named(trajectory, turn)}: the teacher's prompt and the reply have {len(ids)} tokens, more than "
                f"the {limit} that it may read, and are never cut; shorten the private text or the student's prompt "
                "(env.history), or take a teacher with a longer context"
            )
        source = int(row_X[0])
        if not (rows and rows[-1].goes_on(ids, source)):
            rows.append(_Row(source))
        # of a reply without any context the student's table trains all tokens but the first
        rows[-1].ids = ids
        rows[-1].spans.append((n, len(ids) - len(row_X), len(ids)))
        number_BT[row_X, column_X] = torch.arange(count, count + len(row_X))
        count += len(row_X)
    return PrivateRows(_table(batch, rows), number_BT >= 0, number_BT)


@dataclass
class _Row:
    """A private row in the making.

    Attributes:
        source: the student's row whose turns it holds; of one row only, so that its micro-batch is all that needs it.
        ids: its tokens.
        spans: (turn, first trained token, end).
    """

    source: int
    ids: list[int] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)

    def goes_on(self, ids: list[int], source: int) -> bool:
        """Whether tokens from the same row of the student extend it."""
        return source == self.source and ids[: len(self.ids)] == self.ids


def _places(batch: Batch) -> dict[int, tuple[Tensor, Tensor]]:
    """(row, column) of the trained tokens of every turn that has some, in order."""
    row_X, column_X = batch.mask_BT.nonzero(as_tuple=True)
    turn_X = batch.turn_BT[row_X, column_X]
    order_X = turn_X.argsort(stable=True)
    end, places = 0, {}
    for n, count in enumerate(torch.bincount(turn_X).tolist()):
        at, end = order_X[end : end + count], end + count
        if count:
            places[n] = (row_X[at], column_X[at])
    return places


def _table(batch: Batch, rows: Sequence[_Row]) -> Batch:
    """Private rows beside the student's other tables."""
    lengths = [len(row.ids) for row in rows]
    tokens_PS = torch.full((len(rows), max([2, *lengths])), batch.pad_id, dtype=torch.long)
    turn_PS = torch.full_like(tokens_PS, CONTEXT)
    for p, row in enumerate(rows):
        tokens_PS[p, : len(row.ids)] = torch.tensor(row.ids)
        for n, start, end in row.spans:
            turn_PS[p, start:end] = n
    return replace(
        batch,
        tokens_BT=tokens_PS,
        turn_BT=turn_PS,
        behaviour_BT=torch.zeros(tokens_PS.shape),
        length_B=torch.tensor(lengths, dtype=torch.long),
    )


class PrivateTeacher:
    """A teacher that reads private rows and speaks of the student's table, as any `Teacher`."""

    def __init__(self, teacher: Teacher, rows: PrivateRows) -> None:
        """Bind a step's rows.

        Args:
            teacher: scores them.
            rows: of the batch that will be scored.
        """
        self.teacher, self.rows = teacher, rows
        self.max_context = teacher.max_context

    def score(self, batch: Batch, top_k: int = 0) -> TeacherScores:
        """Score the trained tokens that have a signal; 0 elsewhere."""
        scores, place = self.teacher.score(self.rows.batch, top_k), self.rows.to_student
        return TeacherScores(
            place(scores.logp_BT),
            None if scores.entropy_BT is None else place(scores.entropy_BT),
            None if scores.topk_ids_BTK is None else place(scores.topk_ids_BTK),
            None if scores.topk_logp_BTK is None else place(scores.topk_logp_BTK),
        )

    @property
    def budget(self) -> int:
        """Tokens of its micro-batches."""
        return self._whole.budget

    @property
    def _whole(self) -> WholeTeacher:
        if not isinstance(self.teacher, WholeTeacher):
            kind = type(self.teacher).__name__
            raise UsageError(
                f"a divergence over the whole vocabulary needs a teacher in this process, not a {kind}"
            )
        return self.teacher

    def linear_head(self, micro: Micro) -> LinearHead:
        """Hidden states that predict the trained tokens of the student's micro-batch, and the head.

        Tokens without signal have hidden states of 0: give them no coefficient. A turn lies in one row, so the private
        rows that a micro-batch needs hold no token of another one.
        """
        rows, private = self.rows, self.rows.batch
        number_X = rows.number_BT[micro.at]
        signal_X = number_X >= 0
        row_X, column_X = private.mask_BT.nonzero(
            as_tuple=True
        )  # of private tokens, in order of their numbers
        place_X = torch.full((len(row_X),), -1, dtype=torch.long)
        place_X[number_X[signal_X]] = signal_X.nonzero()[:, 0]
        number_PS = torch.full_like(private.turn_BT, -1)
        number_PS[row_X, column_X] = torch.arange(len(row_X))
        device = micro.tokens_BT.device
        needed_P = torch.zeros(len(private.tokens_BT), dtype=torch.bool)
        needed_P[row_X[number_X[signal_X]]] = True
        rows_R = needed_P.nonzero()[:, 0]
        parts = micro_batches(private, self.budget, device, rows_R) or [idle_micro(private.pad_id, device)]
        hidden_XD = None
        for part in parts:
            head = self._whole.linear_head(part)
            if hidden_XD is None:
                hidden_XD = head.hidden_ND.new_zeros((len(number_X), head.hidden_ND.shape[1]))
            hidden_XD[place_X[number_PS[part.at]].to(device)] = head.hidden_ND
        assert hidden_XD is not None
        return replace(head, hidden_ND=hidden_XD)


def _named(trajectory: Trajectory, turn: Turn) -> str:
    return f"task {trajectory.task!r}, episode {trajectory.id!r}, turn {turn.index}"
