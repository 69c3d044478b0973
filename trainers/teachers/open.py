"""Open the teacher that a configuration names."""

from __future__ import annotations

from agentbench.training.config import TeacherConfig

from ..student.student import Student
from .contract import Teacher
from .local import LocalTeacher


def open_teacher(config: TeacherConfig, student: Student) -> Teacher:
    """Open the teacher that a configuration names.

    Raises: UsageError: it cannot be loaded or reached, or does not belong to the student's tokenizer.
    """
    if config.backend == "vllm":
        from .vllm import VLLMTeacher

        return VLLMTeacher(config, student)
    if config.backend == "server":
        from .server import ServerTeacher

        return ServerTeacher(config, student)
    return LocalTeacher(config, student)
