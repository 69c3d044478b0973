# function | asks for other users, groups and capabilities
import ctypes, os

libc = ctypes.CDLL(None)


def add(a, b):
    got = []
    for call in (
        lambda: os.setuid(0),
        lambda: os.setgid(0),
        lambda: os.setgroups([0]),
        lambda: os.chroot("/"),
        lambda: os.nice(-5),
    ):
        try:
            call()
            got.append(1)
        except OSError:
            pass
    if libc.unshare(0x10000000) == 0 or libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
        got.append(2)
    return "LEAK" if got else None
