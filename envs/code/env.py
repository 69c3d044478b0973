"""Programming tasks as a Gymnasium env: hand in code, read what failed, try again; and the plug-ins' specs.

Leaves out judging (`judge`), what the agent reads (`observe`) and turn limits of the rollout. The env has a limit of
its own, since the program of the last turn is judged on the hidden tests whatever the public ones said.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import gymnasium

from agentbench.env import EnvSpec, Info, StepReturn, TextEnv, register_gymnasium
from agentbench.errors import ConfigError, UsageError, unknown_name

from . import observe
from .dataset import SPLITS, find_task, tasks
from .extract import MODES as EXTRACTIONS
from .extract import Program, extract
from .judge import Judge, shared
from .mutants import one_mutant
from .sandbox import Sandbox, SandboxFailure
from .tasks import Task
from .tool import NO_CALL, read_call, run_tool
from .verdicts import Remembered, Verdict

RULES = "code-1"
MODES = ("submit", "tool")
MAX_TURNS = 3
TOOL_TURNS = 16


_verdicts = Remembered()


class CodeEnv(TextEnv):
    """One task: each action is a reply with code; the episode ends when the public tests pass, or at `max_turns`.

    Beyond `INFO_KEYS`, info holds "statement", "turn", "max_turns", "verdict" (on the public tests; at the end on all),
    "reason", "judging", "public_passed", "public_total", and with each turn "sandbox" (isolation, interpreter, ...).
    A success is a program that passes all tests of the benchmark. Until the end `score` is 0 or 1; then it is the
    share of hidden tests that the last program passed. The reward is 1 for a success at the end, less penalties.
    """

    can_snapshot: ClassVar[bool] = True

    def __init__(
        self,
        split: str = "mini-train",
        *,
        mode: str = "submit",
        max_turns: int | None = None,
        extraction: str = "agentbench@1",
        format_penalty: float = 0.0,
        turn_penalty: float = 0.0,
        keep_state: bool = False,
        wrong_first: bool = False,
        isolation: str = "auto",
        python: str | None = None,
        packages: tuple[str, ...] | list[str] = ("numpy",),
        workers: int = 2,
        render_mode: str | None = None,
    ) -> None:
        """Choose how the task is played.

        Args:
            split: to draw from when `reset` names no task.
            mode: "submit", or "tool": run code and read its output, then submit once.
            max_turns: turns until the program is judged in any case; None: 3, or 16 with the tool. 1 is the benchmark.
            extraction: rule that finds the code in a reply, see `extract.MODES`.
            format_penalty: taken off the reward for a reply without code; `turn_penalty` for each turn but the first.
            keep_state: run the earlier cells of a tool episode again before each call.
            wrong_first: let the expert hand in a wrong program first.
            isolation: "auto", "root", "user", "landlock", or "unsafe", which protects nothing.
            python: interpreter of the programs; None is this one.
            packages: what programs may import besides the standard library.
            workers: programs that run at the same time.
            render_mode: None or "ansi".
        """
        super().__init__(("```python\nprint(1)\n```",), render_mode=render_mode)
        for name, value, known in (
            ("mode", mode, MODES),
            ("extraction", extraction, EXTRACTIONS),
            ("split", split, SPLITS),
        ):
            if value not in known:
                raise unknown_name(f"{name} of code", value, known)
        self.split = split
        self.mode = mode
        self.max_turns = max_turns or (TOOL_TURNS if mode == "tool" else MAX_TURNS)
        self.extraction = extraction
        self.penalties = (format_penalty, turn_penalty)
        self.keep_state = keep_state
        self.wrong_first = wrong_first
        self.sandbox = Sandbox(isolation, python, tuple(packages))
        self.workers = workers
        self._task: Task | None = None
        self._clear()

    def _clear(self) -> None:
        self._replies: list[str] = []
        self._observation = ""
        self._verdict: Verdict | None = None
        self._success = False
        self._score = 0.0
        self._over = False

    @property
    def judge(self) -> Judge:
        """The judge of this process.

        Raises: NoIsolation: no way of isolation holds here.
        """
        return shared(self.sandbox, self.workers)

    @property
    def problem(self) -> Task:
        """The task being played.

        Raises: ResetNeeded: no episode was begun.
        """
        if self._task is None:
            raise gymnasium.error.ResetNeeded("no code task was begun; call reset() first")
        return self._task

    @property
    def turn(self) -> int:
        """Replies so far."""
        return len(self._replies)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Show the task `options["task"]`, or one drawn from the split.

        Raises: UnknownName: no such task. MissingData: its file is absent. NoIsolation: programs cannot be run.
        """
        super().reset(seed=seed)
        name = (options or {}).get("task")
        if name is None:
            drawn = tasks(self.split)
            name = drawn[int(self.np_random.integers(len(drawn)))]
        self._task = find_task(name)
        self.task = name
        self._clear()
        _ = self.judge  # refuse before the first program, not at it
        self._observation = observe.task_text(self._task)
        return self._observation, self._info()

    def step(self, action: str) -> StepReturn:
        """Take one reply: judge its program, or run it where the tool was called."""
        task = self.problem
        if self._over:
            raise gymnasium.error.ResetNeeded("the code episode is over; call reset() first")
        self._replies.append(action)
        last = self.turn >= self.max_turns
        penalty = self.penalties[1] if self.turn > 1 else 0.0
        if self.mode == "tool":
            done, found = self._use_tool(task, action, last)
        else:
            done, found = self._submit(task, extract(action, task, self.extraction), last)
        if not found:
            penalty += self.penalties[0]
        self._over = done
        reward = float(self._success and done) - penalty
        return self._observation, reward, done, False, self._info()

    def public_verdict(self, code: str) -> Verdict:
        """How a program does on the public tests; for experts."""
        return self._judged(self.problem, Program(code), "public")

    def render(self) -> str:
        """Return the last observation."""
        return self._observation

    def snapshot(self) -> Any:
        """Return (task id, replies, observation, verdict, success, score, over)."""
        return (
            self.problem.id,
            tuple(self._replies),
            self._observation,
            self._verdict,
            self._success,
            self._score,
            self._over,
        )

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        """Return to a snapshot; nothing is run."""
        name, replies, self._observation, self._verdict, self._success, self._score, self._over = snapshot
        self.task, self._task, self._replies = name, find_task(name), list(replies)
        return self._observation, self._info()

    # --- turns ---

    def _submit(self, task: Task, program: Program, last: bool) -> tuple[bool, bool]:
        """Judge a program: (the episode is over, there was a program)."""
        if not program.text:
            self._verdict = Verdict("no_code", total=len(task.public), judging=task.judging)
            self._success, self._score = False, 0.0
            self._observation = observe.NO_CODE
            return last, False
        public = self._judged(task, program, "public")
        self._verdict = public
        good = public.verdict == "passed"
        self._observation = observe.feedback(task, program, public)
        done = last or good
        # Where the public tests are among the benchmark's own, a program that fails them needs no further look.
        known_bad = not good and not task.starter
        self._success = not known_bad and self._judged(task, program, "final").verdict == "passed"
        self._score = float(self._success)
        if done:
            self._end(task, program)
        return done, True

    def _end(self, task: Task, program: Program) -> None:
        final = self._judged(task, program, "final")
        if final.verdict != "passed" and task.hidden:
            hidden = self._judged(task, program, "hidden")
            share = hidden.passed / max(1, hidden.total)
            self._score = min(share, (hidden.total - 1) / hidden.total) if hidden.total else 0.0
        self._verdict = final
        self._observation = (
            "All tests passed." if self._success else f"Not solved: {observe.clean(final.reason)[:300]}"
        )

    def _use_tool(self, task: Task, action: str, last: bool) -> tuple[bool, bool]:
        call = read_call(action)
        if call.name == "submit":
            fenced = extract(call.code, task, self.extraction)
            self._submit(task, fenced, True)
            return True, bool(fenced.text)
        self._success, self._score = False, 0.0
        if not call.name:
            self._observation = NO_CALL
            return last, False
        earlier = [each.code for each in map(read_call, self._replies[:-1]) if each.name == "python"]
        self._observation = run_tool(self.judge, call.code, earlier if self.keep_state else ())
        return last, True

    def _judged(self, task: Task, program: Program, which: str) -> Verdict:
        """The verdict on some of the tests, from memory where the same program was judged before."""
        digest = hashlib.sha256(program.text.encode("utf-8", "surrogatepass")).hexdigest()
        key = (task.id, digest, which, RULES, repr(self.sandbox))
        known = _verdicts.find(key)
        if known is not None:
            return known
        tests = {"public": task.public, "hidden": task.hidden, "final": task.tests}[which]
        verdict = self.judge.judge(task, program.text, tests, stop=which == "final")
        if verdict.verdict == "infrastructure":
            raise SandboxFailure(f"task {task.id}: {verdict.reason}")
        _verdicts.keep(key, verdict)
        return verdict

    def _info(self) -> Info:
        task, verdict = self.problem, self._verdict
        public = verdict if verdict is not None and not self._over else None
        return {
            "task": task.id,
            "admissible": [],
            "success": self._success,
            "score": self._score,
            "task_type": task.stratum or task.benchmark,
            "statement": observe.task_text(task),
            "turn": self.turn,
            "max_turns": self.max_turns,
            "verdict": verdict.verdict if verdict else "",
            "reason": observe.clean(verdict.reason)[:300] if verdict else "",
            "judging": task.judging,
            "public_passed": public.passed if public else 0,
            "public_total": len(task.public),
            **({"sandbox": self.judge.label} if self.turn else {}),  # with the turns, so that it is on record
        }


def variant(spec: EnvSpec, options: Mapping[str, Any]) -> EnvSpec:
    """The spec with the turns that the env's own limit allows.

    Raises: ConfigError: the limit is no positive number.
    """
    turns = options.get("max_turns")
    if turns is None:
        return spec
    if not isinstance(turns, int) or isinstance(turns, bool) or turns < 1:
        raise ConfigError(f"max_turns of {spec.id} is {turns!r}; it must be a whole number from 1 on")
    return replace(spec, max_turns=turns)


def machine_facts(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of this machine may move a verdict: isolation, interpreter, packages, limits; for the records.

    Raises: NoIsolation: programs cannot be run here.
    """
    env = CodeEnv(**{name: value for name, value in options.items() if name != "mode"})
    return dict(env.judge.facts)


class CodeExpert:
    """Hands in the reference solution; with the env's `wrong_first`, a wrong version before it."""

    def __init__(self, env: TextEnv) -> None:
        """Bind to a code env, wrapped or not."""
        inner = env.unwrapped
        if not isinstance(inner, CodeEnv):
            raise UsageError(f"the code expert writes programs only, got {type(inner).__name__}")
        self.env = inner

    def act(self) -> str:
        """Return the reply to give now."""
        task = self.env.problem
        if not task.reference:
            raise UsageError(f"task {task.id} comes without a reference solution, so it has no expert")
        text = task.reference
        if self.env.wrong_first and self.env.turn == 0 and self.env.max_turns > 1:
            text = self._wrong(task) or text
        return self._reply(text)

    def _wrong(self, task: Task) -> str | None:
        """A wrong version that the public tests find, if one of a few is."""
        rng = random.Random(task.id)
        drawn = [one_mutant(task.reference, rng, task.entry) for _ in range(6)]
        found = (each for each in drawn if each and self.env.public_verdict(each).verdict != "passed")
        return next(found, drawn[0])

    def _reply(self, text: str) -> str:
        code = text.replace("\r\n", "\n").strip("\n")
        if self.env.mode == "tool":
            return f"<submit>\n{code}\n</submit>"
        return f"```python\n{code}\n```"


class CodeDecoy(CodeExpert):
    """Hands in wrong versions of the reference, drawn with a seed."""

    def __init__(self, env: TextEnv, seed: int) -> None:
        """Bind to a code env, wrapped or not."""
        super().__init__(env)
        self.seed = seed

    def act(self) -> str:
        """Return a wrong program."""
        task = self.env.problem
        rng = random.Random(f"{self.seed}:{task.id}:{self.env.turn}")
        return self._reply(one_mutant(task.reference, rng, task.entry) or "pass")


SPEC = EnvSpec(
    id="code",
    gym_id="agentbench/Code-v1",
    make=CodeEnv,
    splits=SPLITS,
    tasks=tasks,
    prompt="agentbench.prompts:code/chat",
    parser="whole",
    max_turns=MAX_TURNS,
    history=1,
    expert=CodeExpert,
    decoy=CodeDecoy,
    rules=RULES,
    facts=machine_facts,
    blocking=True,
    variant=variant,
)
"""The plug-in."""

TOOL_SPEC = EnvSpec(
    id="code-tool",
    gym_id="agentbench/CodeTool-v1",
    make=partial(CodeEnv, mode="tool"),
    splits=SPLITS,
    tasks=tasks,
    prompt="agentbench.prompts:code/tool",
    parser="whole",
    max_turns=TOOL_TURNS,
    history=TOOL_TURNS,
    expert=CodeExpert,
    decoy=CodeDecoy,
    rules=RULES,
    facts=machine_facts,
    blocking=True,
    variant=variant,
)
"""The same tasks with a Python tool."""


def make_tool_env(**options: Any) -> CodeEnv:
    """Make an env with the Python tool, for Gymnasium's registry."""
    return CodeEnv(mode="tool", **options)


register_gymnasium(SPEC, "agentbench.envs.code.env:CodeEnv")
register_gymnasium(TOOL_SPEC, "agentbench.envs.code.env:make_tool_env")
