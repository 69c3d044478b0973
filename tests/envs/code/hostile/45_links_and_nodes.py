# function | links, nodes, modes, times, renames, truncation, directories
import os


def add(a, b):
    done = []
    for call in (
        lambda: os.symlink("/etc/passwd", "/tmp/x"),
        lambda: os.link(os.__file__, "/tmp/y"),
        lambda: os.mkfifo("/tmp/f"),
        lambda: os.mkdir("/tmp/d"),
        lambda: os.chmod(os.__file__, 0o777),
        lambda: os.utime(os.__file__),
        lambda: os.rename(os.__file__, "/tmp/z"),
        lambda: os.truncate(os.__file__, 0),
        lambda: os.chown("/tmp", 0, 0),
        lambda: os.rmdir("/tmp"),
    ):
        try:
            call()
            done.append(1)
        except OSError:
            pass
    return "LEAK" if done else None
