"""Winners: clone whatever was said in the episodes that were won; a scout keeps some of them from being lost.

Filtered behaviour cloning on the student's own episodes, as in STaR, arXiv:2203.14465. On every turn the scout acts
with a chance that fades; it says an admissible command at random, and so finds what the student never tries.
"""

from dataclasses import replace

from pydantic import Field

from agentbench import Section, TrainerSpec
from agentbench.policies.ready import RandomPolicy
from agentbench.trainers.base import Algorithm
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.maths.schedules import ScheduleConfig
from agentbench.trainers.objectives import TokenObjective


class WinnersConfig(Section):
    """Keys under `trainer:`; `scout` is the scout's chance on a turn, a number or a schedule."""

    scout: ScheduleConfig = Field(
        default_factory=lambda: {"kind": "linear", "start": 0.5, "end": 0.0, "steps": 20}
    )


class Winners(Algorithm):
    """Raise the likelihood of won episodes."""

    def __init__(self, run, settings):
        """Load the student (in the base)."""
        super().__init__(run)
        self.scout = self.schedule("scout", settings.scout)

    def plan(self, step):
        """Whole episodes; odds say who acts on a turn."""
        share = self.scout(step)
        return replace(super().plan(step), authors=(((0, (("scout", share), ("student", 1.0 - share))),),))

    def update(self, groups, step):
        """One step on -log q of everything that winners said."""
        won = [
            replace(group, members=tuple(member for member in group.members if member.success))
            for group in groups
        ]
        batch = collate(won, self.student.pad_id, ("student", "scout"))
        descent = self.descend(batch, TokenObjective(lambda logp: -logp), reduction="token_mean", step=step)
        share = sum(len(group.members) for group in won) / sum(len(group.members) for group in groups)
        return self.report(step, batch, descent, figures={"won_share": share, "scout": self.scout(step)})


def authors(trainer, voice):
    """The scout speaks in the student's tokens; its own name goes into the records."""
    return {"scout": voice.spoken(RandomPolicy(), "scout")}


SPEC = TrainerSpec(id="winners", config=WinnersConfig, build=Winners, authors=authors)
