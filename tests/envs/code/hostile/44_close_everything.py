# function | closes every descriptor, then goes on computing nothing
import os


def add(a, b):
    os.closerange(0, 1000)
    return None
