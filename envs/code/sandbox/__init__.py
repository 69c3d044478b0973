"""A sandbox for untrusted Python programs: fails closed, starts warm, forks per program."""

from .ways import NoIsolation, Proof, Sandbox, choose, open_worker, survey
from .worker import Limits, Outcome, SandboxFailure, Worker

__all__ = [
    "Limits",
    "NoIsolation",
    "Outcome",
    "Proof",
    "Sandbox",
    "SandboxFailure",
    "Worker",
    "choose",
    "open_worker",
    "survey",
]
