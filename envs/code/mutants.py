"""Wrong versions of right programs, one small change each: for training data with repairs, and to test the tests."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator

_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


def _negate(node: ast.AST) -> bool:
    if isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return True
    return False


def _return_none(node: ast.AST) -> bool:
    if isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Constant(None)
        return True
    return False


def _arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        node.op = _ARITHMETIC[type(node.op)]()
        return True
    return False


def _comparison(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        node.ops[0] = _COMPARISONS[type(node.ops[0])]()
        return True
    return False


def _constant(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        node.value += 1
        return True
    return False


CHANGES: dict[str, Callable[[ast.AST], bool]] = {
    "negated if": _negate,
    "return None": _return_none,
    "arithmetic": _arithmetic,
    "comparison": _comparison,
    "constant": _constant,
}
"""Kinds of change; each alters a node in place and tells whether it could."""


def mutants(program: str, kind: str, entry: str = "") -> Iterator[str]:
    """All versions of a program with one change of a kind, in the order of the text.

    Args:
        program: a text that parses.
        kind: one of `CHANGES`.
        entry: change this function alone; "" changes the whole program.
    """
    place = 0
    while True:
        tree = ast.parse(program)
        nodes = [node for part in _parts(tree, entry) for node in ast.walk(part)]
        changed = next((number for number in range(place, len(nodes)) if CHANGES[kind](nodes[number])), None)
        if changed is None:
            return
        yield ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        place = changed + 1


def _parts(tree: ast.Module, entry: str) -> list[ast.AST]:
    found: list[ast.AST] = [node for node in tree.body if entry and getattr(node, "name", "") == entry]
    return found or [tree]


def one_mutant(program: str, rng: random.Random, entry: str = "") -> str | None:
    """Draw a wrong version; None when the program offers nothing to change."""
    found = [each for kind in CHANGES for each in mutants(program, kind, entry)]
    return rng.choice(found) if found else None
