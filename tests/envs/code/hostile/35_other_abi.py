# function | the numbers of the x32 interface, which a filter by number alone would let through
import ctypes

libc = ctypes.CDLL(None)


def add(a, b):
    for number in (57, 59, 41, 62):
        if libc.syscall(0x40000000 + number, 0, 0, 0, 0, 0, 0) >= 0:
            return "LEAK"
    return None
