"""What algorithms refuse before a model is loaded: groups of one, sampling that their maths does not allow."""

from __future__ import annotations

from typing import Protocol

from agentbench.errors import UsageError
from agentbench.training.config import TrainConfig


def require_groups(run: TrainConfig) -> None:
    """Refuse groups of one: nothing to compare with."""
    if run.rollout.group_size < 2:
        raise UsageError(
            f"{run.algorithm} compares the episodes of one task; rollout.group_size is {run.rollout.group_size}, "
            "use 2 or more"
        )


def require_one_teacher(run: TrainConfig, *, private: bool = False) -> None:
    """Refuse a run without exactly one teacher, or with one that can say nothing new.

    Args:
        run: names the teachers.
        private: whether the teacher reads more than the student.
    """
    if len(run.teachers) != 1:
        raise UsageError(f"{run.algorithm} needs exactly one teacher, the run names {len(run.teachers)}")
    backend = run.teachers[0].backend
    if backend in ("student", "ema") and not private:
        raise UsageError(
            f"the teacher of {run.algorithm} reads what the student reads, so the student itself (teachers.backend "
            f"{backend!r}) could teach it nothing; name a model"
        )


def require_plain_sampling(run: TrainConfig) -> None:
    """Refuse truncated sampling: log q - log p of a sampled token estimates a divergence only for samples of q."""
    rollout = run.rollout
    if rollout.top_p != 1.0 or rollout.top_k != 0:
        raise UsageError(
            f"{run.algorithm} credits sampled tokens with log p - log q, which is biased under truncated sampling; set "
            f"rollout.top_p: 1.0 (is {rollout.top_p}) and rollout.top_k: 0 (is {rollout.top_k})"
        )


def require_comparable(run: TrainConfig, importance_cap: float | None) -> None:
    """Refuse importance weights where engine and trainer speak of different distributions."""
    rollout = run.rollout
    if importance_cap is not None and (rollout.guided or rollout.top_p != 1.0 or rollout.top_k != 0):
        raise UsageError(
            "trainer.importance_cap compares the probabilities of trainer and engine, but the engine's are those of a "
            f"truncated distribution (rollout.top_p {rollout.top_p}, top_k {rollout.top_k}, guided {rollout.guided}); "
            "set top_p: 1.0, top_k: 0 and guided: false, or leave importance_cap out"
        )


class Weighed(Protocol):
    """Settings of a method whose tokens may be weighed by importance."""

    @property
    def importance_cap(self) -> float | None: ...


def require_rewards(run: TrainConfig, settings: Weighed) -> None:
    """Refuse what cannot work where rewards of a group are compared."""
    require_groups(run)
    require_comparable(run, settings.importance_cap)


def require_sampled_distillation(run: TrainConfig, settings: Weighed) -> None:
    """Refuse what cannot work where one teacher's word on sampled tokens is the advantage."""
    require_one_teacher(run)
    require_plain_sampling(run)
    require_comparable(run, settings.importance_cap)
