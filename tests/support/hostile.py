"""Runs hostile programs in one setting and prints what became of each as JSON: `python hostile.py OPTIONS FOLDER...`.

A script of its own, so that tests can run it as another user or under a filter that imitates a default container.
"""

import argparse
import ctypes
import json
import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = (
    "assert add(2, 3) == 5",
    "assert add(-1, 1) == 0",
    "assert add(10**20, 1) == 10**20 + 1",
    "assert add(7, 8) == 15",
)
SLOW = ("01", "02", "03", "06", "07", "09", "26", "29", "30", "38", "40", "41", "43", "47")
HONEST = {
    "function": "def add(a, b):\n    return a + b\n",
    "stdin": "print(sum(map(int, input().split())))\n",
}


def imitate_container():
    """Refuse what the filter of a default container refuses: namespaces and mounts."""
    refused = (272, 308, 165, 166, 155, 435)  # unshare, setns, mount, umount2, pivot_root, clone3 (x86_64)
    code = [(0x20, 0, 0, 0)]
    for number in refused:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | (38 if number == 435 else 1))]
    code += [(0x15, 0, 3, 56), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), (0x06, 0, 0, 0x00050001)]
    code += [(0x06, 0, 0, 0x7FFF0000)]
    data = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in code))
    program = ctypes.create_string_buffer(struct.pack("<H6xQ", len(code), ctypes.addressof(data)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
    assert libc.prctl(22, ctypes.c_ulong(2), program, zero, zero) == 0, ctypes.get_errno()


def descendants(pid):
    """Processes below one, threads not counted."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            parent = (
                int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                if entry.isdigit()
                else 0
            )
        except (OSError, IndexError):
            continue
        if parent == pid:
            found += [int(entry), *descendants(int(entry))]
    return found


def run(judge, path, tasks):
    """Judge one program, then an honest one in the same worker."""
    text = path.read_text()
    form = text.split("|")[0].strip("# \n")
    start = time.monotonic()
    verdict = judge.judge(tasks[form], text, tasks[form].tests, stop=False)
    seconds = time.monotonic() - start
    after = judge.judge(tasks[form], HONEST[form], tasks[form].tests)
    text = repr(verdict)
    return {
        "name": path.stem,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "leak": "LEAK" in text,
        "seconds": seconds,
        "next": after.verdict,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--python")
    parser.add_argument("--container", action="store_true")
    parser.add_argument("--quick", action="store_true", help="leave out those that are stopped by a clock")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("folders", nargs="*", type=Path)
    options = parser.parse_args()
    if options.container:
        imitate_container()
    from agentbench.envs.code.judge import Judge
    from agentbench.envs.code.sandbox import NoIsolation, Sandbox
    from agentbench.envs.code.tasks import Task, Test

    asserts = tuple(map(Test, TESTS))
    tasks = {
        "function": Task(
            "add", "", "", "asserts", entry="add", names=("add",), hidden=asserts, cpu=1, call_cpu=1
        ),
        "stdin": Task("sum", "", "", "stdin", hidden=(Test("2 3", "5"),), cpu=1),
    }
    try:
        judges = [Judge(Sandbox(options.isolation, options.python)) for _ in range(options.jobs)]
    except NoIsolation as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    paths = sorted(path for folder in options.folders for path in folder.glob("*.py"))
    if options.quick:
        paths = [path for path in paths if path.stem[:2] not in SLOW]
    with ThreadPoolExecutor(options.jobs) as pool:
        shares = [(judge, paths[place :: options.jobs]) for place, judge in enumerate(judges)]
        shared = pool.map(lambda each: [run(each[0], path, tasks) for path in each[1]], shares)
        rows = [row for part in shared for row in part]
    kept = len(descendants(os.getpid()))
    for judge in judges:
        judge.close()
    left = len(descendants(os.getpid()))
    print(json.dumps({"facts": judges[0].facts, "rows": rows, "kept": kept, "left": left}))


if __name__ == "__main__":
    main()
