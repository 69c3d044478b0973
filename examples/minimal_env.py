"""A whole environment in one file: guess a number from the answers "higher" and "lower".

agentbench eval --env examples/minimal_env.py:SPEC --split test --policy expert --output runs/hilo
"""

import gymnasium

from agentbench import EnvSpec, TextEnv, UsageError, register_gymnasium

TASKS = {"train": [f"number-{n}" for n in range(1, 13)], "test": [f"number-{n}" for n in range(13, 17)]}
PROMPT = {"layout": "growing", "first": "{{ observation }} Say: guess N", "later": "{{ observation }}"}


def tasks(split):
    """Ordered task ids of a split."""
    if split in TASKS:
        return TASKS[split]
    raise UsageError(f"hilo has no split {split!r}; it has {', '.join(TASKS)}")


class HiLoEnv(TextEnv):
    """The env thinks of a number; `guess N` is answered with higher, lower or right."""

    done = True

    def reset(self, *, seed=None, options=None):
        """Think of the task's number."""
        task = self.begin(TASKS["train"] + TASKS["test"], seed=seed, options=options)
        self.number, self.low, self.high, self.done = int(task.removeprefix("number-")), 1, 16, False
        return "I think of a number from 1 to 16. Which one is it?", self.now()

    def step(self, action):
        """Answer a guess; whatever is no guess is answered too, never raised."""
        if self.done:
            raise gymnasium.error.ResetNeeded("the episode is over or never began; call reset() first")
        if action not in self.now()["admissible"]:
            return f"Guess from {self.low} to {self.high}.", 0.0, False, False, self.now()
        guess = int(action.removeprefix("guess "))
        self.done, higher = guess == self.number, guess < self.number
        self.low, self.high = (guess + 1, self.high) if higher else (self.low, guess - 1)
        said = "Right!" if self.done else f"It is {'higher' if higher else 'lower'} than {guess}."
        return said, float(self.done), self.done, False, self.now()

    def now(self):
        """The info of this moment."""
        guesses = [f"guess {n}" for n in range(self.low, self.high + 1)]
        return self.info(success=self.done, admissible=guesses)


SPEC = EnvSpec(
    id="hilo",
    gym_id="examples/HiLo-v1",
    make=HiLoEnv,
    splits=tuple(TASKS),
    tasks=tasks,
    prompt=PROMPT,
    parser="plain",
    max_turns=5,
)
register_gymnasium(SPEC)
