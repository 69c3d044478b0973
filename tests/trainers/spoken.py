"""Episodes whose prompts were really written, for teachers that read more than the student."""

import random

from agentbench.dialogue.render import Scene
from agentbench.registry import env_spec
from agentbench.training.authors import student_renderer
from agentbench.types import Action, Group, Trajectory, Turn

GROWING = {"layout": "growing", "parser": "plain", "first": "{{ observation }}", "later": "{{ observation }}"}
FRESH = {
    "layout": "fresh",
    "parser": "plain",
    "system": "be brief",
    "first": "{{ observation }}",
    "later": "{% for o, a in history %}{{ o }}>{{ a }};{% endfor %}{{ observation }}",
}


def prompted(run, prompt):
    """The same run with another prompt."""
    return run.model_copy(update={"env": run.env.model_copy(update={"prompt": prompt})})


def spoken_groups(run, tokenizer, *, groups=2, members=3, most_turns=3, seed=0, successes=None):
    """Groups of episodes with random replies; `successes`: for each group, who succeeds (else the odd members)."""

    class Speaker:
        pass

    speaker = Speaker()
    speaker.tokenizer = tokenizer
    renderer = student_renderer(run, env_spec(run.env.name), speaker)
    rng, made = random.Random(seed), []
    letters = [i for i in range(len(tokenizer)) if i not in set(tokenizer.all_special_ids)]
    for g in range(groups):
        episodes = []
        for s in range(members):
            won = bool(s % 2) if successes is None else s in successes[g]
            turns = []
            count = rng.randint(1, most_turns)
            for k in range(count):
                scene = Scene(f"room {rng.randint(0, 9)}", {"admissible": ["go"]}, list(turns))
                written = renderer.render(scene)
                said = tuple(rng.choice(letters) for _ in range(rng.randint(1, 4)))
                said = (*said, renderer.end_id) if rng.random() < 0.7 else said
                action = Action(tokenizer.decode(said), said, (0.0,) * len(said))
                turns.append(
                    Turn(k, scene.observation, action, f"do {k}", float(won and k == count - 1),
                         written.context_ids, written.fresh, shown=written.shown)
                )  # fmt: skip
            task = f"task {g}"
            episodes.append(
                Trajectory(
                    f"{seed}/{g}/{s}", "corridor", task, 0, tuple(turns), won, float(won), "terminated"
                )
            )
        made.append(Group(f"task {g}", 0, tuple(episodes)))
    return made
