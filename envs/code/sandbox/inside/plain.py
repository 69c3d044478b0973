"""Values as plain data: what crosses between the process of a program and the one that judges it.

Never pickle: the receiver builds nothing but builtin types. What has no plain form crosses as an opaque object that
keeps its type's name and its truth value.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 200
MAX_NODES = 2_000_000
MAX_BYTES = 64 << 20

_TYPES = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and not name.startswith("_")
}
_SMALL = 1 << 53


class NotPlain(Exception):
    """A value cannot cross, or what arrived is not a value; the message says why."""


class Opaque:
    """Stands for an object of the other process: it has a type name and a truth value, and equals itself alone."""

    def __init__(self, kind: str, truth: bool | None) -> None:
        """Remember name and truth; None where the object refused to tell."""
        self.kind = kind
        self.truth = truth

    def __bool__(self) -> bool:
        """Tell what the object said of itself."""
        if self.truth is None:
            raise RuntimeError(f"the truth value of this {self.kind} object raised an error")
        return self.truth

    def __repr__(self) -> str:
        """Name the type."""
        return f"<{self.kind} object>"


class Array(list[Any]):
    """A numpy array as nested lists; kept apart from a list only where a rule asks."""


class _Packer:
    def __init__(self) -> None:
        self.left = MAX_NODES

    def pack(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise NotPlain(f"the value has more than {MAX_NODES} parts")
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else {"i": hex(value)}
        if depth >= MAX_DEPTH:
            raise NotPlain(f"the value is nested deeper than {MAX_DEPTH} levels")
        writer = _WRITERS.get(kind)
        if writer is None:
            return self.other(value, depth)
        return writer(self, value, depth)

    def many(self, values: Any, depth: int) -> list[Any]:
        return [self.pack(each, depth + 1) for each in values]

    def pairs(self, value: Any, depth: int) -> list[Any]:
        return [[self.pack(k, depth + 1), self.pack(v, depth + 1)] for k, v in dict.items(value)]

    def other(self, value: Any, depth: int) -> Any:
        """Subclasses become their base; numpy its plain values; iterators lists."""
        if isinstance(value, type):
            name = getattr(value, "__name__", "?")
            return {"T": name} if _TYPES.get(name) is value else self.opaque(value)
        kind = type(value)
        module = getattr(kind, "__module__", "")
        if module.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
            return {"a" if getattr(value, "shape", ()) else "n": self.pack(value.tolist(), depth + 1)}
        for base, make in _BASES:
            if isinstance(value, base):
                return self.pack(make(value), depth)
        if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
            return {"it": self.many(value, depth)}
        if kind.__name__ in ("dict_keys", "dict_values", "dict_items", "odict_keys", "odict_values"):
            return {"it": self.many(value, depth)}
        return self.opaque(value)

    def opaque(self, value: Any) -> Any:
        try:
            truth: bool | None = bool(value)
        except Exception:
            truth = None
        return {"o": [str(type(value).__name__)[:80], truth]}


_Writer = Callable[[_Packer, Any, int], Any]
_WRITERS: dict[type, _Writer] = {
    list: lambda p, v, d: p.many(v, d),
    tuple: lambda p, v, d: {"t": p.many(v, d)},
    dict: lambda p, v, d: {"d": p.pairs(v, d)},
    set: lambda p, v, d: {"s": p.many(v, d)},
    frozenset: lambda p, v, d: {"z": p.many(v, d)},
    bytes: lambda p, v, d: {"y": v.decode("latin-1")},
    bytearray: lambda p, v, d: {"Y": v.decode("latin-1")},
    complex: lambda p, v, d: {"c": [v.real, v.imag]},
    range: lambda p, v, d: {"r": [hex(v.start), hex(v.stop), hex(v.step)]},
}
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda v: bytes.__getitem__(v, slice(None))),
    (list, lambda v: list(list.__iter__(v))),
    (tuple, lambda v: tuple(tuple.__iter__(v))),
    (dict, lambda v: dict(dict.items(v))),
    (set, lambda v: set(set.__iter__(v))),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
)
_encode = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode


def pack(value: Any) -> Any:
    """Turn a value into JSON values.

    Raises: NotPlain: it is too deep or too large; or whatever the value itself raises while it is read.
    """
    return _Packer().pack(value, 0)


def dumps(message: Any) -> bytes:
    """Encode a message of JSON values, checked for size.

    Raises: NotPlain: it is too large to cross.
    """
    data = _encode(message).encode("ascii")
    if len(data) > MAX_BYTES:
        raise NotPlain(f"the value takes {len(data)} bytes, more than {MAX_BYTES}")
    return data


def loads(data: bytes) -> Any:
    """Decode a message from a process that may lie.

    Raises: NotPlain: it is no message.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > 4 * MAX_NODES:
        raise NotPlain(f"a message of more than {4 * MAX_NODES} parts")
    try:
        return json.loads(data)
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotPlain(f"not a message: {type(error).__name__}") from None


def unpack(data: Any, *, arrays: bool = False) -> Any:
    """Build a value out of JSON values that a process sent which may lie.

    Args:
        data: what `loads` gave.
        arrays: keep numpy arrays apart, as `Array`.
    Raises: NotPlain: it is no value.
    """
    try:
        return _unpack(data, 0, arrays)
    except NotPlain:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise NotPlain(f"not a value: {type(error).__name__}") from None


def _unpack(data: Any, depth: int, arrays: bool) -> Any:
    kind = type(data)
    if data is None or kind in (bool, int, float, str):
        return data
    if depth > MAX_DEPTH + 2:
        raise NotPlain(f"a value nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        return [_unpack(each, depth + 1, arrays) for each in data]
    if kind is not dict or len(data) != 1:
        raise NotPlain("not a value")
    ((tag, body),) = data.items()
    if tag in ("t", "s", "z", "it"):
        if type(body) is not list:
            raise NotPlain("not a value")
        items = [_unpack(each, depth + 1, arrays) for each in body]
        return items if tag == "it" else {"t": tuple, "s": set, "z": frozenset}[tag](items)
    if tag == "d":
        pairs = ((_unpack(k, depth + 1, arrays), _unpack(v, depth + 1, arrays)) for k, v in body)
        return dict(pairs)
    if tag in ("a", "n"):
        inner = _unpack(body, depth + 1, arrays)
        return Array(inner) if tag == "a" and arrays and type(inner) is list else inner
    return _unpack_atom(tag, body)


def _unpack_atom(tag: str, body: Any) -> Any:
    if tag == "i" and type(body) is str:
        return int(body, 16)
    if tag == "c":
        real, imaginary = body
        return complex(float(real), float(imaginary))
    if tag == "y":
        return body.encode("latin-1")
    if tag == "Y":
        return bytearray(body.encode("latin-1"))
    if tag == "r":
        start, stop, step = body
        return range(int(start, 16), int(stop, 16), int(step, 16))
    if tag == "T":
        return _TYPES[body]
    if tag == "o":
        name, truth = body
        if type(name) is str and (truth is None or type(truth) is bool):
            return Opaque(name[:80], truth)
    raise NotPlain("not a value")
