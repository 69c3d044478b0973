# function | announces a frame of four gigabytes, then sends frames that decode to odd things
import os, struct


def add(a, b):
    for body in (
        b'{"v":{"o":["x",1e400]}}',
        b'{"v":{"T":"eval"}}',
        b'{"v":{"i":"zz"}}',
        b'{"v":{"d":[[[],1]]}}',
        b"[" * 10**5,
        b'{"e":{"name":1}}',
        b"null",
    ):
        try:
            os.write(4, struct.pack("<I", len(body)) + body)
        except OSError:
            pass
    os.write(4, b"\xff\xff\xff\xff")
    return None
