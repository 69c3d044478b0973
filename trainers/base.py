"""What every algorithm shares, and the story of one training step.

The loop asks `plan(step)` which episodes the step needs and hands them to `update(groups, step)`. There

1. `collate` turns the episodes into tables: tokens [B, T], turns [N], trajectories [M];
2. `student.score` (and a teacher's `score`) give log-probs of the tokens on record, before anything changes;
3. the algorithm makes from them one number per token: an advantage, a weight, a target;
4. `descend` lowers the objective: it cuts the step into `updates_per_step` optimizer steps (or by rows) and each into
   micro-batches, with denominators counted over all of them and over all processes, so that no cut changes the result;
   a loss or gradient that is not finite stops the run before the weights are touched;
5. `report` measures what it is given and returns the step's figures and the turns' annotations.

Afterwards the loop takes `weights()` to the engine, and calls `save` when a checkpoint is due.
Leaves out objectives (`objectives`), policy gradients (`surrogate`), checkpoints on disk (`student.checkpoint`) and the
algorithms themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentbench.errors import TrainingError, UsageError
from agentbench.trainer import Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan, SamplingParams, derive_seed

from .batch.micro import Micro, micro_batches
from .batch.parts import rows_of_updates
from .batch.tables import Batch, collate
from .figures.alarms import Alarms
from .figures.measures import (
    measure_columns,
    measure_episodes,
    measure_figures,
    measure_groups,
    measure_student,
    measure_teacher,
)
from .figures.meters import Meters
from .maths.advantages import Standardised
from .maths.reductions import Reduction, reduction_denominator, token_coefficients
from .maths.schedules import Measured, Schedule, ScheduleConfig, from_config
from .maths.turns import turn_mean
from .objectives import Objective
from .student import checkpoint
from .student.processes import Processes
from .student.still import gradient_of
from .student.student import Scores, Student

_PROBE_SHARE = 16
"""One row in so many is scored to compare engine and trainer where an algorithm does not score the whole batch."""


def probe_rows(batch: Batch) -> Tensor:
    """The first rows, one in `_PROBE_SHARE` of all."""
    return torch.arange(-(-len(batch.tokens_BT) // _PROBE_SHARE))


@dataclass
class Descent:
    """What `descend` did.

    Attributes:
        loss: mean over the updates of this step, over all processes.
        grad_norm: mean norm before clipping.
        updates: optimizer steps taken.
        columns: token columns the objective reported, as seen by the update that used them.
        meters: figures of the step; `Algorithm.report` adds the others.
    """

    loss: float = 0.0
    grad_norm: float = 0.0
    updates: int = 0
    columns: dict[str, Tensor] = field(default_factory=dict)
    meters: Meters = field(default_factory=Meters)


class Algorithm:
    """Base of the trainers of this package: implement `update`, and `plan` where the default does not do.

    Attributes:
        takes_dropout: whether `lora.dropout` makes sense: the algorithm learns from given texts alone. Where log-probs
            of the policy that acts are compared with those of the policy that learns, dropout makes them two.
    """

    takes_dropout = False

    def __init__(self, run: TrainConfig, *, temperature: float | None = None) -> None:
        """Load the student.

        Args:
            run: the resolved configuration.
            temperature: at which log-probs are taken; None takes the rollout's.
        """
        self.run = run
        self.team = Processes(run.num_processes, fsdp=run.fsdp)
        torch.manual_seed(derive_seed(run.seed, "torch", self.team.index) % 2**63)
        at = run.rollout.temperature if temperature is None else temperature
        self.student = Student(run, self.team, temperature=at, dropout=self.takes_dropout)
        self.tokenizer = self.student.tokenizer
        self.alarms = Alarms(speaks=self.team.first)
        self.measured: dict[str, Measured] = {}
        self.updates = 0
        self.skipped = 0

    @property
    def one_update(self) -> bool:
        """Whether a step is one optimizer step, so that its data is the current policy's own."""
        return self.run.updates_per_step == 1 and self.run.rows_per_update is None

    # --- contract -----------------------------------------------------------------------------------------------------

    def plan(self, step: int) -> RolloutPlan:
        """Whole episodes by the student: `tasks_per_step` groups of `group_size`."""
        rollout = self.run.rollout
        return RolloutPlan(
            groups=rollout.tasks_per_step,
            members=rollout.group_size,
            max_turns=self.run.env.max_turns,
            sampling=SamplingParams(
                rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens
            ),
        )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Learn from this process's share of the step's groups."""
        raise NotImplementedError

    def weights(self) -> Iterable[tuple[str, Any]]:
        """Name and tensor of every student weight, adapters merged."""
        return self.student.weights()

    def score_tokens(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob in nats, at temperature 1, of each token but the first."""
        return self.student.score_tokens(token_ids)

    def gradient(self, groups: Sequence[Group], step: int = 0) -> dict[str, Any]:
        """What one update would follow, by parameter in numpy; no weight changes. For `agentbench check-objective`."""
        return gradient_of(self.student, lambda: self.update(groups, step))

    @property
    def origins(self) -> dict[str, str]:
        """Fingerprint of the weights of every model that the run started from, student and teachers, by name."""
        return dict(self.student.origins)

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder and everything needed to go on."""
        checkpoint.save(folder, self.student, self.state())

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, to the bit."""
        self.load_state(checkpoint.load(folder, self.student))

    def state(self) -> dict[str, Any]:
        """Plain values to keep in a checkpoint; subclasses add theirs."""
        return {
            "algorithm": self.run.algorithm,
            "updates": self.updates,
            "skipped": self.skipped,
            "alarms": self.alarms.state(),
            "schedules": {name: schedule.state() for name, schedule in self.measured.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        if state["algorithm"] != self.run.algorithm:
            raise UsageError(
                f"the checkpoint was written by algorithm {state['algorithm']!r}, this run uses {self.run.algorithm!r}"
            )
        self.updates, self.skipped = state["updates"], state["skipped"]
        self.alarms.load_state(state["alarms"])
        for name, schedule in self.measured.items():
            schedule.load_state(state["schedules"][name])

    def schedule(self, name: str, config: ScheduleConfig) -> Schedule:
        """Make the schedule of a key; one that follows measured figures sees those of every step and is saved."""
        made = from_config(config)
        if isinstance(made, Measured):
            self.measured[name] = made
        return made

    # --- parts of an update -------------------------------------------------------------------------------------------

    def collate(self, groups: Sequence[Group]) -> Batch:
        """Tables of the student's own turns."""
        return collate(groups, self.student.pad_id)

    def descend(
        self,
        batch: Batch,
        objective: Objective,
        *,
        reduction: Reduction,
        step: int,
        keep_BT: Tensor | None = None,
        balance: float = 1.0,
    ) -> Descent:
        """Minimise an objective on a batch in one optimizer step, or as many as the run asks for.

        Args:
            batch: this process's share.
            objective: makes the loss of a micro-batch.
            reduction: how tokens are averaged, counted over all processes.
            step: decides which trajectories share an update, and the learning rate.
            keep_BT: tokens that count among the trained ones; None keeps all.
            balance: alpha of the reduction "turn_balanced"; the others ignore it.
        Returns: with `updates` 0 when no token counts anywhere, or nothing has a gradient.
        Raises: TrainingError: a loss or gradient is not finite; the weights are those before this update.
        """
        result = Descent(columns={name: torch.zeros(batch.tokens_BT.shape) for name in objective.names})
        self.student.set_learning_rate(step)
        for rows_B in rows_of_updates(batch, self.run, step, self.team.gather):
            turn_BT = torch.full_like(batch.turn_BT, -1)
            turn_BT[rows_B] = batch.turn_BT[rows_B]
            counted = (turn_BT, batch.traj_N, batch.ok_M)
            total = self.team.sum(reduction_denominator(reduction, *counted, keep_BT=keep_BT))
            if total == 0:
                continue
            coef_BT = token_coefficients(
                reduction, *counted, keep_BT=keep_BT, denominator=total, balance=balance
            )
            result.loss += self._accumulate(batch, rows_B, objective, coef_BT, step, result.columns)
            norm = self._step(batch, rows_B, step)
            result.grad_norm += norm
            result.updates += norm > 0.0
        for average in self.student.averages if result.updates else ():
            average.follow()
        self.updates += result.updates
        result.loss /= max(1, result.updates)
        result.grad_norm /= max(1, result.updates)
        return result

    def _accumulate(
        self,
        batch: Batch,
        rows_B: Tensor,
        objective: Objective,
        coef_BT: Tensor,
        step: int,
        columns: dict[str, Tensor],
    ) -> float:
        """Add up the gradient of all micro-batches; returns the loss over all processes."""
        student, loss = self.student, 0.0
        student.net.train()
        student.optimizer.zero_grad(set_to_none=True)
        suspects: list[str] = []
        micros = student.micro_batches(batch, rows_B)
        for number, micro in enumerate(micros, start=1):
            with self.team.accumulate(student.runner, last=number == len(micros)):
                kernel = objective.kernel(micro, micro.pick(coef_BT), student)
                part, *reported = student.apply(micro, kernel)
                (part * self.team.count).backward()  # type: ignore[no-untyped-call]  # averaged again by DDP, FSDP2
            loss += float(part.detach())
            for name, x_X in zip(objective.names, reported, strict=True):
                micro.place(x_X, columns[name])
            if not torch.isfinite(part):
                suspects += self._suspects(batch, micro, objective, coef_BT)
        suspects = self.team.gather(suspects)
        if suspects:
            self._refuse("the loss", suspects, step)
        return self.team.sum(loss)

    @torch.no_grad()
    def _suspects(self, batch: Batch, micro: Micro, objective: Objective, coef_BT: Tensor) -> list[str]:
        """Trajectories of a micro-batch whose own loss is not finite; all of them where one alone cannot be run."""
        found, everyone = [], sorted(set(batch.traj_B[micro.at[0]].tolist()))
        for m in [] if self.team.fsdp else everyone:
            rows_B = torch.nonzero(batch.traj_B == m)[:, 0]
            for own in micro_batches(batch, self.run.tokens_per_micro_batch, self.student.device, rows_B):
                kernel = objective.kernel(own, own.pick(coef_BT), self.student)
                loss, *_ = self.student.net(own.tokens_BT, own.local, kernel)
                found += [] if torch.isfinite(loss) else [m]
        return [batch.ids_M[m] for m in found or everyone]

    def _step(self, batch: Batch, rows_B: Tensor, step: int) -> float:
        norm = self.student.clip_gradients()
        if not torch.isfinite(torch.tensor(norm)):
            self._refuse(
                "the gradient", [batch.ids_M[m] for m in sorted(set(batch.traj_B[rows_B].tolist()))], step
            )
        # Departure: no step is taken without a gradient; the optimizer would still decay weights and drift on momentum.
        if norm > 0.0:
            self.student.optimizer.step()
        return norm

    def _refuse(self, what: str, suspects: Sequence[str], step: int) -> None:
        self.student.optimizer.zero_grad(set_to_none=True)
        names = list(dict.fromkeys(suspects))
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise TrainingError(
            f"step {step}: {what} is not finite on trajectories {shown}; the weights were not touched by this update. "
            "Look at these episodes in rollouts/, and lower learning_rate before going on from the last checkpoint"
        )

    # --- reports ------------------------------------------------------------------------------------------------------

    def probe(self, batch: Batch) -> Scores:
        """Score a few rows before the update, for algorithms that need no scores of the whole batch."""
        return self.student.score(batch, probe_rows(batch))

    def report(
        self,
        step: int,
        batch: Batch,
        descent: Descent,
        *,
        old: Scores | None = None,
        teacher_BT: Tensor | None = None,
        episode: Standardised | None = None,
        columns: Mapping[str, Tensor] | None = None,
        figures: Mapping[str, float | Tensor] | None = None,
        keep_BT: Tensor | None = None,
        notes: Mapping[str, Mapping[tuple[str, int], str]] | None = None,
    ) -> Update:
        """Measure what an update hands over, raise alarms, and return it all as the step's `Update`.

        Args:
            step: of the run.
            batch: of this process.
            descent: what `descend` did.
            old: the student's scores before the update; the gap to the engine is measured on them.
            teacher_BT: the teacher's log-prob of the sampled tokens.
            episode: group-relative advantages of the episodes.
            columns: token [B, T] or turn [N] values that become annotations of the turns; tokens are averaged by turn.
            figures: further numbers, or token tables [B, T] of which the mean is reported.
            keep_BT: tokens of which the teacher, the columns and the figures speak; None where they speak of all.
            notes: what a teacher read and the student did not, by name and turn.
        """
        meters, columns = descent.meters, columns or {}
        spoken = batch if keep_BT is None else batch.only(keep_BT)
        measure_episodes(meters, batch)
        if old is not None:
            measure_student(meters, batch, old, comparable=self._comparable)
        if old is not None and teacher_BT is not None:
            measure_teacher(meters, spoken, old, teacher_BT)
        if episode is not None:
            measure_groups(meters, batch, episode)
        measure_columns(meters, spoken, columns)
        measure_figures(meters, spoken, figures or {})
        if descent.updates == 0:
            self.skipped += 1
        metrics = {
            **meters.result(self.team),
            "loss": descent.loss,
            "grad_norm": descent.grad_norm,
            "learning_rate": self.student.set_learning_rate(step),
            "updates": float(self.updates),
            "skipped_steps": float(self.skipped),
        }
        if self.student.merge_error is not None:  # of the weights that sampled this step
            metrics["merge_error"] = self.student.merge_error
        for schedule in self.measured.values():  # figures of all processes, so every process sees the same
            schedule.observe(metrics)
        by_turn = {
            name: turn_mean(x, spoken.turn_BT, batch.turns) if x.ndim == 2 else x
            for name, x in columns.items()
        }
        metrics |= self.alarms.check(metrics, step)
        return Update(metrics, spoken.columns(**by_turn), notes or {})

    @property
    def _comparable(self) -> bool:
        """Whether the engine's log-probs are of the distribution that the trainer sees."""
        rollout = self.run.rollout
        return not rollout.guided and rollout.top_p == 1.0 and rollout.top_k == 0
