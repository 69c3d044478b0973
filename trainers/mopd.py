"""MOPD: multi-rollout on-policy distillation. The teacher has read how other attempts at the same task ended.

Every reply is scored again under a prompt that shows up to two peers that succeeded and one that failed, by a moving
average of the student or by another model; the student is drawn towards that distribution on the ids it favours itself.
Source: Multi-Rollout On-Policy Distillation via Peer Successes and Failures, arXiv:2605.12652, and its released code:

    L = mean_t w_t D( q(. | x, y_<t), p(. | x, C_i, y_<t) ),    C_i made of the other rollouts of x

with D the JSD over the student's 100 likeliest ids and a bucket for the rest. Not to be confused with distillation from
several teachers of the same name. Leaves out how contexts are written (`teachers.peers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.errors import UsageError
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .base import Algorithm, Descent
from .batch.tables import Batch
from .maths.divergences import Kind, check_kind
from .maths.losses import truncated_importance
from .maths.ranking import auc
from .maths.reductions import Reduction
from .maths.turns import per_token, turn_sum
from .objectives import OwnTopK
from .preconditions import require_comparable, require_groups, require_one_teacher
from .references import distributions
from .teachers.contexts import PrivateRows, PrivateTeacher, private_rows, require_room, teacher_reader
from .teachers.open import open_whole_teacher
from .teachers.peers import PeerConfig, PeerContext, longest_context, peer_contexts


class MopdConfig(PeerConfig):
    """Keys of `mopd`, beside those that choose the peers.

    Attributes:
        k: ids of the support, the student's likeliest.
        divergence: "jsd", or "reverse_kl" as for mathematics; `beta` is the teacher's weight in "jsd".
        ratio_cap: largest weight of a token for having become likelier since it was scored; matters from the second
            optimizer step on a batch on.
        importance_cap: largest weight for a token that the trainer finds likelier than the engine; None leaves it out.
        max_prompt_tokens: a longer teacher's prompt is refused.
        reduction: mean over all tokens that have a context, as released.
    """

    k: int = Field(default=100, ge=1)
    divergence: Kind = "jsd"
    beta: float = 0.5
    ratio_cap: float = Field(default=2.0, ge=1)
    importance_cap: float | None = Field(default=2.0, ge=1)
    max_prompt_tokens: int = Field(default=10240, ge=1)
    reduction: Reduction = "token_mean"

    @model_validator(mode="after")
    def _used(self) -> MopdConfig:
        check_kind(self.divergence, self.beta)
        return self


class Mopd(Algorithm):
    """Distillation under peer contexts; see `MopdConfig`."""

    def __init__(self, run: TrainConfig, settings: MopdConfig) -> None:
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_whole_teacher(run.teachers[0], self.student)
        self.reader = teacher_reader(run, self, where="after", opening=True)
        self.limit = min(settings.max_prompt_tokens + run.rollout.max_new_tokens, self.teacher.max_context)
        require_room(
            run,
            longest_context(settings, self.tokenizer),
            self.limit,
            f"the peers that the teacher reads (up to {settings.most_blocks} blocks of trainer.block_tokens)",
            "Lower trainer.block_tokens or trainer.successes",
        )
        if settings.k > self.student.vocabulary.count:
            raise UsageError(
                f"trainer.k = {settings.k} exceeds the {self.student.vocabulary.count} ids there are"
            )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One step of distillation; attempts without a context are masked."""
        settings, batch = self.settings, self.collate(groups)
        contexts = peer_contexts(groups, settings, self.tokenizer, seed=self.run.seed, step=step)  # C_i
        texts = {
            (member.id, turn.index): contexts[member.id].text
            for group in groups
            for member in group.members
            if member.id in contexts
            for turn in member.turns
        }
        rows = private_rows(groups, batch, texts, self.reader, self.limit)
        old = self.student.score(batch) if self._weighs else self.probe(batch)
        cap = settings.importance_cap
        objective = OwnTopK(
            PrivateTeacher(self.teacher, rows),
            settings.k,
            settings.divergence,
            settings.beta,
            weight_BT=None if cap is None else truncated_importance(old.logp_BT, batch.behaviour_BT, cap),
            old_BT=old.logp_BT if self.run.updates_per_step > 1 else None,
            ratio_cap=settings.ratio_cap,
        )
        descent = self.descend(
            batch, objective, reduction=settings.reduction, step=step, keep_BT=rows.signal_BT
        )  # the average follows
        won_M = torch.tensor([settings.succeeded(m) for group in groups for m in group.members])
        told = self._told_apart(batch, rows.signal_BT, descent.columns["teacher_logp"], won_M)
        _measure_strata(descent, batch, rows.signal_BT, won_M)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            columns={"divergence": descent.columns["divergence"]},
            figures={
                **_context_figures(batch, rows, contexts),
                "teacher_logp": descent.columns["teacher_logp"],
                # the paper's evidence: does the teacher score good attempts higher?
                **({} if told is None else {"teacher_auc": told}),
            },
            keep_BT=rows.signal_BT,
            notes={"peers": rows.read(texts)},
        )

    @property
    def _weighs(self) -> bool:
        """Whether tokens have weights, which need the scores of all of them."""
        return self.settings.importance_cap is not None or self.run.updates_per_step > 1

    def _told_apart(self, batch: Batch, signal_BT: Tensor, spoken_BT: Tensor, won_M: Tensor) -> float | None:
        """AUC of the teacher's mean log-prob of an attempt against its success, over all processes."""
        table = batch.only(signal_BT).turn_BT
        sums_MC = torch.zeros((len(won_M), 2), dtype=torch.float64)
        for column, x_BT in enumerate((spoken_BT, torch.ones_like(spoken_BT))):
            sums_MC[:, column].index_add_(0, batch.traj_N, turn_sum(x_BT.double(), table, batch.turns))
        seen_M = sums_MC[:, 1] > 0
        mean_M = sums_MC[seen_M, 0] / sums_MC[seen_M, 1]
        pairs = self.team.gather(list(zip(mean_M.tolist(), won_M[seen_M].tolist(), strict=True)))
        if not pairs:
            return None
        scores, wins = zip(*pairs, strict=True)
        return auc(torch.tensor(scores, dtype=torch.float64), torch.tensor(wins, dtype=torch.bool))


def _context_figures(
    batch: Batch, rows: PrivateRows, contexts: Mapping[str, PeerContext]
) -> dict[str, Tensor]:
    """What was read: one number for each attempt, turn or block, so that processes may be averaged over."""
    shown = list(contexts.values())
    read, trained = (set(table.turn_BT[table.mask_BT].tolist()) for table in (rows.batch, batch))
    return {
        "context_share": torch.tensor([float(name in contexts) for name in batch.ids_M]),
        "masked_share": torch.tensor([float(n not in read) for n in trained]),
        "failure_block_share": torch.tensor([float(context.failed) for context in shown]),
        "cut_block_share": torch.tensor([float(n < c.cut) for c in shown for n in range(c.blocks)]),
        "teacher_prompt_tokens": rows.prompt_tokens().double(),
    }


def _measure_strata(descent: Descent, batch: Batch, signal_BT: Tensor, won_M: Tensor) -> None:
    """Groups in which all, some or none succeeded: how many, and how far teacher and student are apart in each."""
    groups = int(batch.group_M.max()) + 1
    healthy_G = torch.zeros(groups, dtype=torch.long).index_add(0, batch.group_M, batch.ok_M.long())
    won_G = torch.zeros(groups, dtype=torch.long).index_add(0, batch.group_M, won_M.long())
    some_G = healthy_G > 0
    strata = {
        "none": some_G & (won_G == 0),
        "all": some_G & (won_G == healthy_G),
        "mixed": (won_G > 0) & (won_G < healthy_G),
    }
    for name, in_G in strata.items():
        descent.meters.mean(f"groups_succeeding/{name}", in_G, some_G)
        here_N = in_G[batch.group_M][batch.traj_N]
        where_BT = signal_BT & (per_token(here_N.float(), batch.turn_BT) > 0)
        descent.meters.mean(f"divergence/groups_{name}", descent.columns["divergence"], where_BT)


def refuse(run: TrainConfig, settings: MopdConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run, private=True)
    require_groups(run)
    require_comparable(run, settings.importance_cap)
    if run.teachers[0].backend in ("server", "vllm"):
        raise UsageError(
            f"mopd compares distributions on ids that the student chooses, of which a teacher with backend "
            f"{run.teachers[0].backend!r} says nothing; use hf, ema or student"
        )
    if run.updates_per_step > 1 and run.rollout.temperature != 1.0:
        raise UsageError(
            f"mopd weighs later steps on a batch by probabilities at temperature 1, but rollout.temperature is "
            f"{run.rollout.temperature}; set it to 1, or updates_per_step: 1"
        )


SPEC = TrainerSpec(
    id="mopd",
    reference=distributions.mopd,
    config=MopdConfig,
    build=Mopd,
    needs=frozenset({"teacher"}),
    refuse=refuse,
    paper="MOPD (multi-rollout), arXiv:2605.12652",
)
