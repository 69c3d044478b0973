# function | returns iterators without an end, gigantic numbers, gigantic strings
import itertools

turn = 0


def add(a, b):
    global turn
    turn += 1
    return [itertools.count(), 1 << (1 << 28), "x" * (1 << 28), range(1 << 200)][(turn - 1) % 4]
