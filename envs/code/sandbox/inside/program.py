"""What a fork does that runs a program: loads it, and runs it as a script or answers calls of its functions.

Everything here shares a process with the program and may be changed by it; nothing here is believed elsewhere.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import sys
import threading
from types import ModuleType
from typing import Any

from . import plain, wire

FILE = "<solution>"
_HOST, _TESTER = 3, 4
_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing"
)
_PRELUDE = tuple(_MODULES.split())
_prelude: dict[str, Any] = {}
_exit = os._exit
_BUILTIN_ERRORS = {
    value.__name__
    for value in vars(builtins).values()
    if isinstance(value, type) and issubclass(value, BaseException)
}


def prepare() -> None:
    """Gather the names that LiveCodeBench's graders import before a program; later names win."""
    for name in _PRELUDE:
        exec(f"from {name} import *", _prelude)
    for name in _PRELUDE[:-2]:
        exec(f"import {name}", _prelude)
    _prelude.pop("__builtins__", None)


def serve() -> None:
    """Run the one program that the host sends."""
    job = plain.loads(wire.receive(_HOST))
    main = job["mode"] == "script"
    module = ModuleType("__main__" if main else "solution")
    names = vars(module)
    names["__builtins__"] = builtins
    sys.modules[module.__name__] = module
    if job["prelude"]:
        sys.setrecursionlimit(50_000)
        if hasattr(sys, "set_int_max_str_digits"):
            sys.set_int_max_str_digits(50_000)
        names.update(_prelude)
    failure = _load(job["code"], names)
    if main:
        _leave(names, failure)
    wire.send(_HOST, plain.dumps({"load": failure}))
    if failure:
        _exit(0)
    _answer(names, job)


def _load(code: str, names: dict[str, Any]) -> Any:
    """Run the text in a namespace; gives what went wrong, or None."""
    try:
        compiled = compile(code, FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        return {**describe(error), "syntax": True}
    try:
        exec(compiled, names)
    except SystemExit as error:
        return {**describe(error), "left": True}
    except BaseException as error:
        return describe(error)
    return None


def _leave(names: dict[str, Any], failure: Any) -> None:
    """End a script as an interpreter does: wait for threads, run exit handlers, flush."""
    if failure and failure.get("left"):
        failure = None
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        names.clear()
        gc.collect()
    except BaseException as error:
        failure = failure or describe(error)
    for stream in {id(each): each for each in (sys.stdout, sys.__stdout__, sys.stderr)}.values():
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException as error:
            failure = failure or describe(error)
    wire.send(_HOST, plain.dumps({"end": failure}))
    _exit(0)


def _answer(names: dict[str, Any], job: dict[str, Any]) -> None:
    """Answer calls until the tester hangs up."""
    owner: Any = None
    if job["solution_class"] and "class Solution" in job["code"]:
        try:
            owner = names["Solution"]()
        except BaseException as error:
            wire.receive(_TESTER)
            wire.send(_TESTER, plain.dumps({"e": describe(error)}))
            _exit(0)
    while True:
        try:
            request = plain.loads(wire.receive(_TESTER))
        except (wire.Gone, OSError):
            _exit(0)
        wire.send(_TESTER, _reply(names, owner, request))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                continue


def _reply(names: dict[str, Any], owner: Any, request: Any) -> bytes:
    try:
        name = request["f"]
        arguments = plain.unpack(request["a"])
        if not name:  # a test text and its nonce
            exec(compile(arguments[0], "<tests>", "exec", dont_inherit=True), dict(names))
            return plain.dumps({"v": arguments[1]})
        keywords = plain.unpack(request["k"]) if "k" in request else {}
        if owner is not None:
            function = getattr(owner, name)
        else:
            try:
                function = names[name]
            except KeyError:
                raise NameError(f"name {name!r} is not defined") from None
        value = function(*arguments, **keywords)
        del arguments, keywords
        return plain.dumps({"v": plain.pack(value)})
    except BaseException as error:
        return plain.dumps({"e": describe(error)})


def describe(error: BaseException) -> dict[str, Any]:
    """Tell an exception as plain data: name, nearest builtin kind, message, frames of the program itself."""
    kind = type(error)
    base = next((each.__name__ for each in kind.__mro__ if each.__name__ in _BUILTIN_ERRORS), "Exception")
    try:
        message = str(error)[:2000]
    except BaseException:
        message = ""
    frames: list[list[Any]] = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            frames.append([trace.tb_lineno, trace.tb_frame.f_code.co_name[:80]])
            if len(frames) > 3:
                del frames[1]
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        message = str(error.msg)[:500]
        frames = [[error.lineno or 0, "<module>"]]
    return {"name": kind.__name__[:80], "base": base, "message": message, "frames": frames}
