"""First process of a worker: enters the isolation and becomes the zygote by exec. Leaves out the zygote's work.

Runs as `python -I -S -c "... from inside.boot import main; main()" JSON`, before any code of a task is near.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from . import kernel

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_HIDDEN = ("site-packages", "dist-packages")
_FLAGS = (
    (1, 1),
    (2, 2),
    (4, 4),
    (8, 8),
    (1024, 1024),
    (2048, 2048),
    (4096, 1 << 21),
)  # ST_* of statvfs to MS_*
_OLD = "/.old"

Settings = Mapping[str, Any]


def main() -> None:
    """Isolate this process as its settings say, then start the zygote in its place; failures go to the host."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    try:
        _enter(settings)
    except (OSError, ValueError) as error:
        control.send(json.dumps({"ready": False, "error": str(error)}).encode())
        sys.exit(3)


def _enter(settings: Settings) -> None:
    way = settings["way"]
    os.umask(0o022)
    if way in ("root", "user"):
        _leave_namespaces(way)
        child = os.fork()  # the first process of the new pid namespace
        if child:
            os.close(settings["control"])
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        _build_root(settings)
    else:
        os.chdir("/")
    if way == "root" or (way == "landlock" and os.geteuid() == 0):
        _become_nobody()
    if way != "unsafe":
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    _start_zygote(settings)


def _leave_namespaces(way: str) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if way == "root" and uid != 0:
        raise OSError("not running as root")
    if way == "user" and uid == 0:
        raise OSError("running as root, whose processes no limit counts, not even in a user namespace")
    flags = (
        kernel.CLONE_NEWNS
        | kernel.CLONE_NEWPID
        | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWIPC
        | kernel.CLONE_NEWUTS
    )
    if way == "root":
        kernel.unshare(flags)
        return
    kernel.unshare(flags | kernel.CLONE_NEWUSER)
    # Not 0 to 0: the limit of processes does not count for the real root under any name.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"writing {name}: {error.strerror}") from error


def _build_root(settings: Settings) -> None:
    """Make a root that holds the interpreter, the allowed packages and shared libraries, all read-only."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount(
        "tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=4096,mode=755"
    )
    os.mkdir("/tmp" + _OLD)
    kernel.syscall("pivot_root", b"/tmp", b"/tmp" + _OLD.encode())
    os.chdir("/")
    for source, target in settings["binds"]:
        _bind(source, target)
    for device in DEVICES:
        _bind(device, device, device=True)
    for path in settings["hidden"]:
        if os.path.isdir(path):
            kernel.mount("tmpfs", path, "tmpfs", kernel.MS_RDONLY, "size=4k,nr_inodes=1,mode=755")
    for link, target in settings["links"]:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if not os.path.lexists(link):
            os.symlink(target, link)
    os.makedirs("/tmp", exist_ok=True)
    kernel.unmount(_OLD)
    os.rmdir(_OLD)
    flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_REMOUNT
    kernel.mount("none", "/", None, flags | (kernel.MS_BIND if settings["way"] == "user" else 0))


def _bind(source: str, target: str, *, device: bool = False) -> None:
    old = _OLD + source
    if not os.path.exists(old):
        return
    if os.path.isdir(old):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    kernel.mount(old, target, None, kernel.MS_BIND)
    # In a user namespace flags that the outer mount has are locked: repeat them.
    kept = sum(flag for seen, flag in _FLAGS if os.statvfs(target).f_flag & seen)
    flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID | kept
    kernel.mount("none", target, None, flags if device else flags | kernel.MS_NODEV)


def _become_nobody() -> None:
    """Take a user id of this worker's own, so that its limit of processes counts nobody else's."""
    os.setgroups([])
    for uid in (1_900_000_000 + os.getpid(), 60_000 + os.getpid() % 5_000):
        try:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return
        except OSError as error:
            refused = error
    raise OSError(refused.errno, f"setresuid: {refused.strerror}")


def _start_zygote(settings: Settings) -> None:
    python = settings["python"]
    code = "import sys; sys.path.append(sys.argv[1]); from inside.zygote import main; main()"
    flags = ("-s", "-S", "-P", "-B") if settings["python_minor"] >= 11 else ("-s", "-S", "-B")
    os.set_inheritable(settings["control"], True)
    words = (python, *flags, "-c", code, settings["inside"], json.dumps(settings))
    try:
        os.execve(python, words, settings["environment"])
    except PermissionError as error:
        raise OSError(
            error.errno,
            f"the interpreter {python} cannot be read without the privileges of its owner "
            "(it lies below a private folder); name one that everybody can read with `python`",
        ) from error
