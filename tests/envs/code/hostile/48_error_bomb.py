# function | raises errors whose name, message and text are traps
class Bomb(Exception):
    def __str__(self):
        raise MemoryError("LEA" + "K of the message")

    __repr__ = __str__


Bomb.__name__ = "AssertionError" * 1000
turn = 0


def add(a, b):
    global turn
    turn += 1
    if turn == 1:
        raise AssertionError
    if turn == 2:
        raise Bomb
    raise type("StopIteration", (BaseException,), {})("x" * 10**7)
