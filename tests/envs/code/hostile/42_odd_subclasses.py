# function | subclasses of int, str, dict and list that lie when they are read
class Int(int):
    def __int__(self):
        return 5

    __index__ = __trunc__ = __int__


class Text(str):
    def __str__(self):
        return "5"


class Rows(list):
    def __iter__(self):
        yield from (1, 2, 3)


class Table(dict):
    def items(self):
        return [("a", 1)]


kinds = [Int(0), Text("x"), Rows([9]), Table(b=2)]


def add(a, b):
    return kinds[(a * 7 + b) % 4]
