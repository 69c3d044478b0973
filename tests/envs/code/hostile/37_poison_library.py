# function | leaves changed modules, caches, hooks and a finder behind for the next program
import builtins, functools, importlib.abc, json, math, operator, random, sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        print("LEAK", name)


sys.meta_path.insert(0, Finder())
for module in (math, json, operator, random, functools):
    for name in list(vars(module)):
        if not name.startswith("_"):
            setattr(module, name, lambda *a, **k: True)
builtins.sum = builtins.int = builtins.map = builtins.print = None
sys.setrecursionlimit(60)


def add(a, b):
    return None
