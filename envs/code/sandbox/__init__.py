"""A sandbox for untrusted Python programs: fails closed, starts warm, forks per program."""

from .limits import Limits, Outcome, SandboxFailure
from .run import run_script, run_tests
from .ways import NoIsolation, Proof, Sandbox, choose, open_worker, survey
from .worker import Worker

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
    "run_script",
    "run_tests",
    "survey",
]
