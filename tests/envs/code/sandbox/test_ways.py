"""Choosing the isolation: the self-test can fail, and nothing but a way that passed it is used."""

import sys

import pytest

from agentbench.envs.code.sandbox import NoIsolation, Sandbox, SandboxFailure, choose, survey, ways
from agentbench.envs.code.sandbox.layout import boot_settings, interpreter
from agentbench.envs.code.sandbox.worker import Worker
from agentbench.errors import UsageError


def test_the_self_test_finds_what_is_open_without_isolation(monkeypatch):
    # Without those two, which would leave nobody to tell: a copy of the program, and another one in its place.
    lines = ways._PROBE.read_text().split("\n")
    start = next(place for place, line in enumerate(lines) if '"execute":' in line)
    end = next(place for place in range(start, len(lines)) if lines[place] == "    }")
    kept = [line for line in [*lines[:start], *lines[end:]] if '"fork":' not in line]
    monkeypatch.setattr(ways, "_probe_text", lambda: "\n".join(kept))
    worker = Worker(boot_settings("unsafe", sys.executable, (), preload=False))
    found = ways._self_test(worker, ())
    worker.close()
    for each in ("read a file of the host", "list the home folder", "open a socket", "signal the parent"):
        assert f"could {each}" in found


def test_auto_takes_the_first_way_that_holds_and_says_why_others_do_not(judge):
    proofs = {proof.way: proof.reason for proof in survey(Sandbox(packages=()))}
    assert tuple(proofs) == ways.WAYS
    first = next(way for way in ways.WAYS if not proofs[way])
    assert choose(Sandbox(packages=())).way == first


def test_when_no_way_holds_there_is_one_line_with_every_reason(monkeypatch):
    def broken(sandbox, way, **options):
        raise SandboxFailure(f"no {way} today")

    monkeypatch.setattr(ways, "open_worker", broken)
    ways._choose.cache_clear()
    with pytest.raises(
        NoIsolation, match=r"root: no root today; user: no user today; landlock: no landlock today"
    ):
        choose(Sandbox(packages=()))
    ways._choose.cache_clear()


def test_a_surprise_of_the_self_test_is_a_refusal(monkeypatch, judge):
    monkeypatch.setattr(ways, "_probe_text", lambda: "def surprises(*a): return ['could fly']")
    with pytest.raises(SandboxFailure, match="could fly"):
        ways.open_worker(Sandbox(packages=()), judge.proof.way)


def test_a_self_test_that_does_not_end_is_a_refusal(monkeypatch, judge):
    monkeypatch.setattr(ways, "_probe_text", lambda: "def surprises(*a): raise RuntimeError('broken')")
    with pytest.raises(SandboxFailure, match="did not come to its end: broken"):
        ways.open_worker(Sandbox(packages=()), judge.proof.way)


def test_unknown_isolation_and_interpreter_are_refused():
    with pytest.raises(UsageError, match=r"no isolation 'docker'; known: auto"):
        choose(Sandbox("docker"))
    with pytest.raises(UsageError, match="does not run"):
        interpreter("/nowhere/python3")


def test_a_package_that_is_missing_is_a_start_error():
    with pytest.raises(UsageError, match="'nosuchpackage', which is not installed"):
        choose(Sandbox(packages=("nosuchpackage",)))


def test_an_interpreter_that_the_dropped_user_cannot_read_is_refused_with_that_reason(tmp_path):
    import os

    if os.geteuid():
        pytest.skip("needs root")
    import shutil

    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    python = folder / "python3"
    shutil.copy(os.path.realpath(sys.executable), python)
    settings = boot_settings("landlock", sys.executable, (), preload=False) | {"python": str(python)}
    with pytest.raises(SandboxFailure, match="cannot be read without the privileges of its owner"):
        Worker(settings)


def test_only_the_machines_with_a_table_are_served(monkeypatch):
    from agentbench.envs.code.sandbox.inside import kernel

    monkeypatch.setattr(kernel.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match=r"no table of system calls for the machine 'riscv64'"):
        kernel.machine()


@pytest.mark.parametrize(("name", "x86", "arm"), [
    ("read", 0, 63), ("openat", 257, 56), ("clone", 56, 220), ("kill", 62, 129), ("clone3", 435, 435),
    ("exit_group", 231, 94), ("futex", 202, 98), ("mmap", 9, 222), ("prlimit64", 302, 261), ("getrandom", 318, 278),
])  # fmt: skip
def test_numbers_of_system_calls(name, x86, arm):  # from asm/unistd_64.h and asm-generic/unistd.h
    from agentbench.envs.code.sandbox.inside.kernel import NUMBERS

    assert NUMBERS[name] == (x86, arm)


def test_the_lists_hold_nothing_that_leads_out():
    from agentbench.envs.code.sandbox.inside.kernel import NUMBERS

    forbidden = (
        "fork vfork execve execveat socket socketpair connect bind ptrace unshare setns mount memfd_create shmget "
        "msgget semget io_uring_setup bpf perf_event_open keyctl chmod link symlink mknod rename unlink truncate "
        "personality userfaultfd process_vm_readv pidfd_open rt_sigqueueinfo tkill setrlimit seccomp"
    )
    assert not NUMBERS.keys() & set(forbidden.split())
