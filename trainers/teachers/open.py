"""Open the teacher that a configuration names."""

from __future__ import annotations

from agentbench.errors import UsageError
from agentbench.training.config import TeacherConfig

from ..student.student import Student
from .contract import Teacher, require_top_k
from .local import LocalTeacher, ModelTeacher
from .own import MovingAverage, StudentTeacher

_RATE = 0.05
"""Weight of the newest student in a moving average: multi-rollout OPD, arXiv:2605.12652, released code."""


def open_teacher(config: TeacherConfig, student: Student, *, top_k: int = 0) -> Teacher:
    """Open the teacher that a configuration names.

    Args:
        config: names it.
        student: whose tokens it will read.
        top_k: likeliest ids that the algorithm will ask for; a teacher that cannot give so many is refused now.
    Raises: UsageError: it cannot be loaded or reached, or does not belong to the student's tokenizer.
    """
    require_top_k(top_k, student.vocabulary.count)
    if config.backend == "vllm":
        from .vllm import VLLMTeacher

        return VLLMTeacher(config, student)
    if config.backend == "server":
        from .server import ServerTeacher

        return ServerTeacher(config, student, top_k=top_k)
    return _in_process(config, student)


def open_whole_teacher(config: TeacherConfig, student: Student) -> ModelTeacher:
    """Open a teacher whose whole distribution is wanted.

    Raises: UsageError: as `open_teacher`, or it is not in this process.
    """
    require_whole(config)
    return _in_process(config, student)


def require_whole(*teachers: TeacherConfig) -> None:
    """Refuse teachers whose whole distribution cannot be had; needs no model.

    Raises: UsageError: one of them is not in this process.
    """
    for config in teachers:
        if config.backend in ("vllm", "server"):
            raise UsageError(
                "a divergence over the whole vocabulary needs a teacher with backend 'hf', not "
                f"{config.backend!r}, which gives single log-probs; use trainer.support: top_k (of lsm: teacher), or "
                "algorithm: opd"
            )


def _in_process(config: TeacherConfig, student: Student) -> ModelTeacher:
    if config.backend == "student":
        return StudentTeacher(student)
    if config.backend == "ema":
        return MovingAverage(student, _RATE if config.rate is None else config.rate)
    return LocalTeacher(config, student)
