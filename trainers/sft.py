"""Behaviour cloning: raise the likelihood of an expert's, a teacher's or a recording's commands.

Owns four ways to get them: the expert taking over from mixed behaviour, the expert's labels on states that the student
visits (DAgger), the mixed behaviour itself, and recorded episodes. Leaves out the expert and the mixture
(`agentbench.policies.demonstrations`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from agentbench.config import Section
from agentbench.errors import ConfigError
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Authors, Group, RolloutPlan, Trajectory, derive_seed

from .base import Algorithm
from .batch.recordings import draw, read_recording
from .batch.tables import Batch, collate, with_context
from .maths.reductions import Reduction
from .objectives import TokenObjective
from .references import distributions


class SftConfig(Section):
    """Keys of `sft`.

    Attributes:
        mode: "takeover": mixed behaviour acts first, then the expert to the end, and only the expert's turns are
            cloned (those within the mixed behaviour too);
            "dagger": the student acts and the expert labels every state; "mixture": the mixed behaviour is cloned;
            "file": recorded episodes are cloned.
        takeover: smallest and largest number of turns before the expert takes over; drawn per episode.
        path: run folder or episodes file, for "file".
        authors: whose turns of the file are cloned; empty clones all.
        successes_only: clone only successful episodes of the file.
        observations: learn every token of the transcripts, not only the commands, as pretraining does; for "mixture"
            and "file".
        reduction: how tokens are averaged.
    """

    mode: Literal["takeover", "dagger", "mixture", "file"] = "takeover"
    takeover: tuple[int, int] = (0, 14)
    path: str | None = None
    authors: tuple[str, ...] = ()
    successes_only: bool = False
    observations: bool = False
    reduction: Reduction = Field(default="token_mean")

    @model_validator(mode="after")
    def _used(self) -> SftConfig:
        """Refuse keys that the mode would ignore."""
        owner = {"takeover": "takeover", "path": "file", "authors": "file", "successes_only": "file"}
        for key in self.model_fields_set & owner.keys():
            if self.mode != owner[key]:
                raise ValueError(f"{key!r} is used by mode {owner[key]!r} only; mode is {self.mode!r}")
        if self.observations and self.mode not in ("mixture", "file"):
            raise ValueError(f"'observations' is used by modes 'mixture' and 'file'; mode is {self.mode!r}")
        if self.mode == "file" and not self.path:
            raise ValueError("mode 'file' needs 'path'")
        low, high = self.takeover
        if not 0 <= low <= high:
            raise ValueError("takeover needs 0 <= smallest <= largest")
        return self


class Sft(Algorithm):
    """Behaviour cloning; see `SftConfig`."""

    takes_dropout = True

    def __init__(self, run: TrainConfig, settings: SftConfig) -> None:
        """Load the student, and the recording if there is one."""
        mixed = settings.mode == "mixture" or (settings.mode == "takeover" and settings.takeover[1] > 0)
        if mixed and not run.rollout.behaviours:
            raise ConfigError(
                f"trainer.mode = {settings.mode!r} plays mixed behaviour; say which in rollout.behaviours, for "
                "instance {random: 0.3, half_random: 0.3, expert: 0.4}"
            )
        # Departure from the policy methods: demonstrations have no sampling temperature, so log-probs are at 1.
        super().__init__(run, temperature=1.0)
        self.settings = settings
        self.recorded: list[Trajectory] = []
        if settings.mode == "file":
            self.recorded = read_recording(
                str(settings.path), self.student.vocab_size, successes_only=settings.successes_only
            )

    def plan(self, step: int) -> RolloutPlan:
        """Say who acts: see `SftConfig.mode`."""
        plan, mode = super().plan(step), self.settings.mode
        if mode == "dagger":
            return replace(plan, labels="expert")
        if mode == "mixture":
            return replace(plan, authors=(((0, "mixture"),),))
        if mode == "file":
            return replace(plan, groups=0)
        low, high = self.settings.takeover
        rng = random.Random(derive_seed(self.run.seed, step, "takeover"))
        turns = [rng.randint(low, high) for _ in range(plan.groups * plan.members)]
        return replace(plan, authors=tuple(_hand_over(turn) for turn in turns))

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Take one step on -log q of the cloned tokens."""
        batch = self._batch(groups, step)
        objective = TokenObjective(_negative_log_likelihood)
        descent = self.descend(batch, objective, reduction=self.settings.reduction, step=step)
        seen = descent.columns
        return self.report(
            step, batch, descent, figures={"entropy": seen["entropy"], "perplexity_log": -seen["logp"]}
        )

    def _batch(self, groups: Sequence[Group], step: int) -> Batch:
        batch = self._commands(groups, step)
        return with_context(batch) if self.settings.observations else batch

    def _commands(self, groups: Sequence[Group], step: int) -> Batch:
        mode, pad = self.settings.mode, self.student.pad_id
        if mode == "dagger":
            # Departure: DAgger learns from all data ever collected; here a step learns from its own states only.
            return collate(groups, pad, labels=True)
        if mode == "file":
            drawn = self._draw(step)
            authors = self.settings.authors or {turn.action.author for item in drawn for turn in item.turns}
            return collate([Group("file", 0, drawn)], pad, authors)
        return collate(groups, pad, ("mixture", "expert") if mode == "mixture" else ("expert",))

    def _draw(self, step: int) -> list[Trajectory]:
        """This process's share of the step's recorded episodes."""
        count = self.run.rollout.tasks_per_step * self.run.rollout.group_size
        drawn = draw(self.recorded, count, step, self.run.seed)
        return drawn[self.team.index :: self.team.count]


def _negative_log_likelihood(logp_X: Tensor) -> Tensor:
    return -logp_X


def _hand_over(turn: int) -> Authors:
    return ((0, "mixture"), (turn, "expert")) if turn else ((0, "expert"),)


SPEC = TrainerSpec(
    id="sft",
    reference=distributions.sft,
    config=SftConfig,
    build=Sft,
    paper="behaviour cloning; DAgger, arXiv:1011.0686",
)
