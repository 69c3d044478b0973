"""One of our environments as a task of Inspect.

    pip install inspect-ai
    inspect eval examples/bridges/inspect_task.py --model openai/gpt-4o-mini -T env=alfworld -T split=mini-test

The model's reply is read by the environment's own parser, as in `agentbench eval`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.scorer import Score, Target, accuracy, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, TaskState, solver

from agentbench.bridges.episode import Seat, Seen, Terms
from agentbench.registry import env_spec

RULES = "Solve the task, one command in each reply: <think>why</think><action>command</action>"


def shown(moment: Seen) -> str:
    """Word what the model reads."""
    instruction = moment.info.get("instruction") if moment.turn == 0 else None
    listed = "Commands: " + ", ".join(moment.info.get("admissible", ()))
    return "\n".join(str(line) for line in (instruction, moment.text, listed) if line)


@solver
def play(terms: Terms) -> Any:
    """Play an episode; envs may wait, so each step runs in a thread."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        seat = Seat(terms)
        try:
            moment = await asyncio.to_thread(seat.reset, task=str(state.sample_id), seed=0)
            while not moment.done:
                state.messages.append(ChatMessageUser(content=shown(moment)))
                state = await generate(state)
                moment = await asyncio.to_thread(seat.step, state.output.completion)
            state.store.set("success", bool(moment.info["success"]))
            state.store.set("turns", moment.turn)
        finally:
            seat.close()
        return state

    return solve


@scorer(metrics=[accuracy(), stderr(), grouped(mean(), "task_type")])
def solved() -> Any:
    """Score what the env said at the end of the episode."""

    async def score(state: TaskState, target: Target) -> Score:
        turns = {"turns": state.store.get("turns")}
        return Score(value=1.0 if state.store.get("success") else 0.0, metadata=turns)

    return score


@task
def agentbench(env: str = "alfworld", split: str = "mini-test", limit: int = 20) -> Task:
    """Play the first tasks of a split."""
    terms = Terms(env_spec(env), split, replies=True)
    seat, samples = Seat(terms), []
    for name in terms.tasks(split)[:limit]:
        kind = seat.reset(task=name, seed=0).info["task_type"]
        samples.append(Sample(input=RULES, id=name, target="1", metadata={"task_type": kind}))
    return Task(dataset=MemoryDataset(samples), solver=play(terms), scorer=solved())
