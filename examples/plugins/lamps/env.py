"""Lamps: a row of lamps lights up one by one, and the colour of each has to be said. A wrong one ends the episode."""

import gymnasium

from agentbench import EnvSpec, TextEnv, UsageError, register_gymnasium

COLOURS = ("red", "green", "blue")
LAMPS = 3
NAMES = {"train": range(18), "test": range(18, 27)}
PROMPT = {
    "layout": "growing",
    "first": "Say the colour of each lamp. {{ observation }}",
    "later": "{{ observation }}",
}


def tasks(split):
    """Ordered task ids of a split; the number spells the colours in base 3."""
    if split in NAMES:
        return [f"row-{number}" for number in NAMES[split]]
    raise UsageError(f"lamps has no split {split!r}; it has {', '.join(NAMES)}")


class LampsEnv(TextEnv):
    """Pays 1 for a row without a mistake."""

    done = True

    def reset(self, *, seed=None, options=None):
        """Lay out the task's row."""
        task = self.begin([*tasks("train"), *tasks("test")], seed=seed, options=options)
        number = int(task.removeprefix("row-"))
        self.row = [COLOURS[number // 3**place % 3] for place in range(LAMPS)]
        self.said, self.done = 0, False
        return self.shown(), self.now()

    def step(self, action):
        """Compare a colour with the lamp; whatever is no colour is answered too, never raised."""
        if self.done:
            raise gymnasium.error.ResetNeeded("the episode is over or never began; call reset() first")
        if action not in COLOURS:
            return f"That is no colour. {self.shown()}", 0.0, False, False, self.now()
        right = action == self.row[self.said]
        self.said += right
        self.done = not right or self.said == LAMPS
        won = self.said == LAMPS
        text = ("All right!" if won else "Wrong.") if self.done else self.shown()
        return text, float(won), self.done, False, self.now()

    def shown(self):
        """The lamp of this moment."""
        return f"Lamp {self.said + 1} is {self.row[self.said]}."

    def now(self):
        """The info of this moment."""
        return self.info(success=self.said == LAMPS, admissible=list(COLOURS))


class Reader:
    """Says what is shown."""

    def __init__(self, env):
        self.env = env.unwrapped

    def act(self):
        """Read the lamp."""
        return self.env.row[self.env.said]


SPEC = EnvSpec(
    id="lamps",
    gym_id="examples/Lamps-v1",
    make=LampsEnv,
    splits=tuple(NAMES),
    tasks=tasks,
    prompt=PROMPT,
    parser="plain",
    max_turns=6,
    expert=Reader,
)
register_gymnasium(SPEC)
