# function | every way to another process that the library knows
import ctypes, multiprocessing, os, subprocess, sys


def child():
    os.write(1, b"LEAK child\n")


def add(a, b):
    libc = ctypes.CDLL(None)
    for start in (
        lambda: os.fork() == 0 and os._exit(0),
        lambda: os.forkpty(),
        lambda: os.posix_spawn(sys.executable, ["python", "-c", "pass"], {}),
        lambda: subprocess.run(["true"]),
        lambda: os.system("true") == 0 or 1 / 0,
        lambda: multiprocessing.Process(target=child).start(),
        lambda: os.popen("true").read(),
    ):
        try:
            start()
        except Exception:
            continue
        return "LEAK" if start is not None and libc.vfork is None else None
    return None
