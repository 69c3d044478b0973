"""Open the teacher that a configuration names."""

from __future__ import annotations

from agentbench.errors import UsageError
from agentbench.training.config import TeacherConfig

from ..student.student import Student
from .contract import Teacher, require_top_k
from .local import LocalTeacher


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
    return LocalTeacher(config, student)


def open_whole_teacher(config: TeacherConfig, student: Student) -> LocalTeacher:
    """Open a teacher whose whole distribution is wanted.

    Raises: UsageError: as `open_teacher`, or it is not in this process.
    """
    if config.backend != "hf":
        raise UsageError(
            "a divergence over the whole vocabulary needs a teacher with backend 'hf', not "
            f"{config.backend!r}, which gives single log-probs; use trainer.support: top_k, or algorithm: opd"
        )
    return LocalTeacher(config, student)
