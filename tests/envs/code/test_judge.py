"""Verdicts: causes in their order, programs that read and print, and what other graders were blamed for."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hostile import descendants

from agentbench.envs.code.judge import Judge
from agentbench.envs.code.sandbox import Limits, Sandbox, run_script
from agentbench.envs.code.sandbox.inside import plain
from agentbench.envs.code.tasks import Task, Test, program_names

ADD = ("assert add(2, 3) == 5", "assert add(-1, 1) == 0")
FUNCTION = Task(
    "add", "", "", "asserts", entry="add", names=("add",), hidden=tuple(map(Test, ADD)), cpu=1, call_cpu=1
)
STDIN = Task("sum", "", "", "stdin", hidden=(Test("2 3\n", "5"),), cpu=1)
HONEST = "def add(a, b):\n    return a + b\n"


def judged(judge, task, code, **options):
    return judge.judge(task, code, task.tests, **options)


@pytest.mark.parametrize(
    ("body", "verdict", "reason"),
    [
        ("return a + b", "passed", ""),
        ("return a - b", "wrong_answer", "wrong answer"),
        ("return [][0]", "runtime_error", "IndexError: list index out of range"),
        ("raise AssertionError('no')", "runtime_error", "AssertionError: no"),
        ("return bytearray(1 << 40)", "memory_limit", "MemoryError"),
        ("import os; os._exit(0)", "runtime_error", "left before the tests were done"),
        ("import sys; sys.exit()", "runtime_error", "SystemExit"),
        ("import ctypes; ctypes.string_at(0)", "runtime_error", "killed by signal 11 (SIGSEGV)"),
        ("while True: pass", "time_limit", "time limit"),
        ("print('x' * 3_000_000); return a + b", "output_limit", "printed more than"),
    ],
)
def test_verdicts_of_functions(judge, body, verdict, reason):
    found = judged(judge, FUNCTION, f"def add(a, b):\n    {body}\n")
    assert (found.verdict, found.judging) == (verdict, "tests, two processes")
    assert reason in found.reason or "processor seconds" in found.reason


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("def add(a, b) return a", "syntax_error"),
        ("x = 'a\0b'", "syntax_error"),
        ("1 / 0", "runtime_error"),
        ("x = bytearray(1 << 40)", "memory_limit"),
        ("import sys; sys.exit(0)", "runtime_error"),
        ("while True: pass", "time_limit"),
        ("x = 1", "runtime_error"),
        ("", "no_code"),
        (" \n", "no_code"),
    ],
)
def test_verdicts_of_programs_that_do_not_load(judge, code, verdict):
    assert judged(judge, FUNCTION, code).verdict == verdict


MAIN = "def main(): print(sum(map(int, input().split())))\n"
READING = {
    "input": "a, b = map(int, input().split()); print(a + b)",
    "readline": "import sys; print(sum(map(int, sys.stdin.readline().split())))",
    "iteration": "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))",
    "buffer": "import sys; print(sum(map(int, sys.stdin.buffer.read().split())))",
    "buffer readline": "import sys; input = sys.stdin.buffer.readline; print(sum(map(int, input().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "os.read": "import os; print(sum(map(int, os.read(0, 100).split())))",
    "end of file": "try:\n    while True: print(sum(map(int, input().split())))\nexcept EOFError: pass",
    "guard": f"{MAIN}if __name__ == '__main__': main()",
    "guard, other quotes": f'{MAIN}if __name__ == "__main__":\n    main()\n',
    "exit": "print(sum(map(int, input().split()))); exit()",
    "exit code": "import sys; print(sum(map(int, input().split()))); sys.exit(1)",
    "os._exit": "import os, sys; print(5); sys.stdout.flush(); os._exit(0)",
    "thread": f"import threading\n{MAIN}threading.Thread(target=main).start()",
    "big stack": "import sys, threading\nsys.setrecursionlimit(10**6); threading.stack_size(1 << 27)\n"
    "def f(n): return 0 if n == 0 else 1 + f(n - 1)\ndef main(): f(50_000); print(5)\n"
    "t = threading.Thread(target=main); t.start(); t.join()",
    "at exit": "import atexit, os\nout = []\natexit.register(lambda: os.write(1, out[0]))\nout.append(b'5')",
    "own stream": "import os, io\nf = open(1, 'w', closefd=False)\nf.write('5')",
    "replaced print": "import sys\nprint = lambda x: sys.stdout.write(str(x) + '\\n')\nprint(5)",
}


@pytest.mark.parametrize("name", READING)
def test_programs_may_read_and_end_as_they_like(judge, name):
    found = judged(judge, STDIN, READING[name])
    assert found.verdict == "passed", found


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print(6)", "wrong_answer"),
        ("pass", "wrong_answer"),
        ("import os; os._exit(0)", "wrong_answer"),
        ("print(5); 1 / 0", "runtime_error"),
        ("import os, sys; print(5); sys.stdout.flush(); os._exit(3)", "runtime_error"),
        ("input(); input()", "runtime_error"),
        ("print('5' * 5_000_000)", "output_limit"),
    ],
)
def test_programs_that_print_the_wrong_thing_or_die(judge, code, verdict):
    assert judged(judge, STDIN, code).verdict == verdict


def test_prelude_gives_the_names_that_models_rely_on(judge):
    task = Task("p", "", "", "stdin", hidden=(Test("", "3 [1] 2 datetime"),), cpu=2, prelude=True)
    code = "print(sqrt(9).__int__(), list(accumulate([1])), Counter('aa')['a'], datetime.__name__)"
    assert judged(judge, task, code).verdict == "passed"


def test_a_helper_of_the_prompt_cannot_be_redefined_by_the_program(judge):
    # HumanEval/32 in small: the check calls poly, which the prompt defines.
    prompt = "def poly(xs, x):\n    return xs[0] + xs[1] * x\n\ndef find_zero(xs):\n    '''zero'''\n"
    check = Test("assert abs(poly([1, 2], find_zero([1, 2]))) < 1e-4")
    task = Task(
        "z", "", "", "asserts", entry="find_zero", names=("find_zero",), setup=(prompt,), hidden=(check,)
    )
    honest = prompt + "    return -xs[0] / xs[1]\n"
    cheat = "def poly(xs, x):\n    return 0\ndef find_zero(xs):\n    return 7\n"
    assert judged(judge, task, honest).verdict == "passed"
    assert judged(judge, task, cheat).verdict == "wrong_answer"


def test_names_of_the_tests_that_nothing_defines_are_the_program_s():
    texts = ["assert set(f(1)) == {g(2)}", "x = [y for y in h(3)]"]
    assert program_names(texts, ["def g(a): pass"]) == ("f", "h")
    assert program_names(["assert sum(1, 2) == 3"], (), "def sum(a, b): pass") == ("sum",)


def test_exceptions_cross_as_their_builtin_kind(judge):
    text = "try:\n    add(1, 2)\n    ok = False\nexcept KeyError:\n    ok = True\nassert ok"
    task = Task("e", "", "", "asserts", entry="add", names=("add",), hidden=(Test(text),))
    code = "class Mine(KeyError): pass\ndef add(a, b): raise Mine('x')\n"
    assert judged(judge, task, code).verdict == "passed"


def test_numpy_is_there_and_counts_as_plain_values(judge):
    task = Task("n", "", "", "calls", entry="f", hidden=(Test(plain.pack([[1.0, 2.0]]), plain.pack(3.0)),))
    assert judged(judge, task, "import numpy as np\ndef f(x): return np.sum(np.array(x))").verdict == "passed"


def test_results_are_the_same_in_every_run_random_ones_too(judge):
    task = Task("r", "", "", "calls", entry="f", hidden=(Test(plain.pack([]), plain.pack("never")),))
    code = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]"
    assert len({judged(judge, task, code).tests[0].got for _ in range(3)}) == 1


def test_one_test_after_another_or_up_to_the_first_that_fails(judge):
    code = "def add(a, b):\n    return 0\n"
    assert [each.verdict for each in judged(judge, FUNCTION, code, stop=False).tests] == [
        "wrong_answer",
        "passed",
    ]
    assert len(judged(judge, FUNCTION, code, stop=True).tests) == 1


def test_a_program_without_tests_must_load(judge):
    assert judge.judge(FUNCTION, HONEST, ()).verdict == "passed"
    assert judge.judge(FUNCTION, "1 / 0", ()).verdict == "runtime_error"


# The tests make objects of a class that only the program has, as those of Mbpp/601 do.
WITHIN = Task(
    "w", "", "", "asserts", entry="first", names=("first", "Pair"), setup=("one = Pair(1)",), within=True,
    hidden=(Test("assert first(one) == 1"), Test("assert first(Pair(7)) == 7")), cpu=1, call_cpu=1,
)  # fmt: skip
FORGED = "import os; text = b'{\"v\":\"yes\"}'; os.write(4, len(text).to_bytes(4, 'little') + text); return 0"
PAIR = "class Pair:\n    def __init__(self, a): self.a = a\ndef first(pair):\n    {}\n"


@pytest.mark.parametrize(
    ("body", "verdict", "passed"),
    [
        ("return pair.a", "passed", 2),
        ("return 1", "wrong_answer", 1),
        ("return pair.b", "runtime_error", 0),
        ("import os; os._exit(0)", "runtime_error", 0),
        ("raise SystemExit", "runtime_error", 0),
        ("while True: pass", "time_limit", 0),
        # A forged answer: the frame is sent before the real one, without the nonce of this test.
        (FORGED, "runtime_error", 0),
    ],
)
def test_tests_that_need_a_class_of_the_program_run_in_its_process_and_say_so(judge, body, verdict, passed):
    found = judged(judge, WITHIN, PAIR.format(body))
    assert (found.verdict, found.passed, found.judging) == (verdict, passed, "tests, same interpreter")


def test_tests_in_the_program_s_process_can_be_forged_by_one_that_replaces_what_they_use(judge):
    # The residual risk that docs/code.md names: the texts are compared by objects of the program.
    cheat = "class Equal:\n    def __eq__(self, other): return True\nPair = first = lambda *a: Equal()\n"
    assert judged(judge, WITHIN, cheat).verdict == "passed"


def test_a_worker_whose_processes_have_grown_is_replaced(monkeypatch):
    from agentbench.envs.code import judge as module

    judge = Judge()
    assert judged(judge, FUNCTION, HONEST).verdict == "passed"
    (worker,) = judge._all[0].workers.values()
    before = worker.memory()
    assert 4 << 20 < before < 256 << 20
    monkeypatch.setattr(module, "_BYTES_PER_WORKER", before + (64 << 20))
    monkeypatch.setattr(module, "_PROGRAMS_BETWEEN_LOOKS", 1)
    judged(judge, FUNCTION, HONEST)
    assert judge._all[0].workers[False] is worker
    # The tester, which outlives programs, keeps 128 MiB.
    keeps = Test("import sys; sys.kept = b'x' * (128 << 20); assert add(1, 1) == 2")
    task = Task("k", "", "", "asserts", entry="add", names=("add",), hidden=(keeps,))
    assert judged(judge, task, HONEST).verdict == "passed"
    assert worker.memory() > before + (120 << 20)
    assert judged(judge, FUNCTION, HONEST).verdict == "passed"
    fresh = judge._all[0].workers[False]
    assert fresh is not worker
    assert not os.path.exists(f"/proc/{worker.pid}")
    assert fresh.memory() < before + (64 << 20)
    judge.close()


# --- what other graders were blamed for ---

BUSY = (
    "import time\ndef add(a, b):\n    end = time.process_time() + {}\n"
    "    while time.process_time() < end: pass\n    return a + b\n"
)


def test_verdicts_do_not_hang_on_the_load_of_the_machine(judge):
    # 0.3 processor seconds against a limit of 1, beside busy threads and processes.
    code = BUSY.format(0.3)
    stop = threading.Event()
    busy = [threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)]) for _ in range(4)]
    for each in busy:
        each.start()
    try:
        task = Task(
            "l", "", "", "asserts", entry="add", names=("add",), hidden=(Test(ADD[0]),), cpu=1, call_cpu=1
        )
        verdicts = {judged(judge, task, code).verdict for _ in range(3)}
    finally:
        stop.set()
    assert verdicts == {"passed"}


def test_the_limit_is_for_each_test_not_for_all(judge):
    code = BUSY.format(0.4)
    texts = tuple(Test("assert add(2, 3) == 5") for _ in range(4))
    task = Task("t", "", "", "asserts", entry="add", names=("add",), hidden=texts, cpu=10, call_cpu=1)
    assert judged(judge, task, code).verdict == "passed"  # 1.6 seconds in all


def test_no_process_is_left_or_unreaped_after_many_programs():
    judge = Judge()
    killed = "def add(a, b):\n    while True: pass"
    for code in (HONEST, "1 / 0", killed, "import os\ndef add(a, b): os._exit(0)", "def add(a, b): return 0"):
        judged(judge, FUNCTION, code)
    (worker,) = judge._all[0].workers.values()
    tree = {worker.pid, *descendants(worker.pid)}
    assert [pid for pid in tree if state(pid) == "Z"] == []
    assert len(tree) <= 3  # the first process, the zygote, the tester
    judge.close()
    assert [pid for pid in tree if os.path.exists(f"/proc/{pid}")] == []


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_broken_worker_is_replaced_and_never_blamed_on_the_program():
    judge = Judge()
    assert judged(judge, FUNCTION, HONEST).verdict == "passed"
    for slot in judge._all:
        for worker in slot.workers.values():
            worker.process.kill()
            worker.process.wait()
            worker.control.close()
    assert judged(judge, FUNCTION, HONEST).verdict == "passed"
    judge.close()


def test_twice_broken_is_infrastructure(monkeypatch):
    from agentbench.envs.code import judge as module
    from agentbench.envs.code.sandbox import SandboxFailure

    judge = Judge()

    def broken(*arguments, **options):
        raise SandboxFailure("no zygote today")

    monkeypatch.setattr(module, "open_worker", broken)
    found = judged(judge, FUNCTION, HONEST)
    assert (found.verdict, found.reason) == ("infrastructure", "twice: no zygote today")


def test_the_stop_by_the_wall_clock_is_infrastructure_after_a_second_try_and_never_the_program_s_failure():
    judge = Judge()
    began = time.monotonic()
    found = judge.run("import time; time.sleep(1000)", limits=Limits(cpu=5, idle=900, wall=0.5))
    assert found.verdict == "infrastructure"
    assert found.reason.startswith("twice: no end after")
    assert time.monotonic() - began < 100
    assert judged(judge, FUNCTION, HONEST).verdict == "passed"
    judge.close()


def test_an_idle_program_is_stopped_soon_and_a_slow_one_is_not(judge):
    slot = judge._all[0]
    worker = judge._worker(slot, False)
    start = time.monotonic()
    job = {"mode": "script", "code": "import time; time.sleep(1000)", "prelude": False}
    assert run_script(worker, job, b"", Limits(cpu=5, idle=0.5)).stopped == "idle"
    assert time.monotonic() - start < 60
    job["code"] = "import time; time.sleep(0.2); print(1)"
    assert run_script(worker, job, b"", Limits(cpu=5, idle=5)).stdout == b"1\n"


def test_a_hard_limit_of_the_machine_is_respected_and_on_record(judge):
    """Programs want 64 MiB of stack and 64 files; a cluster that allows less must neither fail nor go unmentioned."""
    script = (
        "import resource\n"
        "for kind, most in ((resource.RLIMIT_STACK, 16 << 20), (resource.RLIMIT_NOFILE, 60)):\n"
        "    resource.setrlimit(kind, (min(most, resource.getrlimit(kind)[0]), most))\n"
        "from agentbench.envs.code.judge import Judge\n"
        "judge = Judge()\n"
        "found = judge.run('import resource as r; print(r.getrlimit(r.RLIMIT_STACK), r.getrlimit(r.RLIMIT_NOFILE))')\n"
        "print(judge.facts['clamped']['stack'], judge.facts['clamped']['nofile'], found.verdict, found.stdout)\n"
        "judge.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[0] == "16777216 60 passed (16777216, 16777216) (60, 60)", done.stderr


def test_limits_beyond_what_the_kernel_takes_do_no_harm(judge):
    worker = judge._worker(judge._all[0], False)
    huge = Limits(cpu=5, threads=1 << 30, memory=1 << 50)
    job = {"mode": "script", "code": "print(1)", "prelude": False}
    assert run_script(worker, job, b"", huge).stdout == b"1\n"


def test_unsafe_must_be_asked_for_and_is_on_record():
    judge = Judge(Sandbox("unsafe"))
    assert judge.facts["isolation"] == "unsafe"
    assert judge.label.startswith("unsafe")
    assert judged(judge, FUNCTION, HONEST).verdict == "passed"
    judge.close()
