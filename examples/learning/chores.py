"""ALFWorld with half of its kinds of chores, so that two teachers come to know different things.

Train each from the same model, then let both teach (`mad_opd.yaml`):

    agentbench train results/learning-mini-alfworld/prepare/3-teacher.yaml \
        env.name=examples/learning/chores.py:PLACING output_dir=runs/learning/teacher-placing
    agentbench train results/learning-mini-alfworld/prepare/3-teacher.yaml \
        env.name=examples/learning/chores.py:TREATING output_dir=runs/learning/teacher-treating
"""

from dataclasses import replace

from agentbench import EnvSpec, env_spec

ALFWORLD = env_spec("alfworld")


def only(*kinds: str) -> EnvSpec:
    """The environment as it is, but for its tasks to train on: only these kinds of mini/kind/number."""

    def tasks(split: str) -> tuple[str, ...]:
        every = ALFWORLD.tasks(split)
        return (
            tuple(task for task in every if task.split("/")[1] in kinds) if split == "mini-train" else every
        )

    return replace(ALFWORLD, tasks=tasks)


PLACING = only("pick_and_place_simple", "pick_two_obj_and_place", "look_at_obj_in_light")
TREATING = only(
    "pick_clean_then_place_in_recep", "pick_heat_then_place_in_recep", "pick_cool_then_place_in_recep"
)
