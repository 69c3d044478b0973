"""A whole algorithm in one file: on-policy distillation that trusts no single token by more than `bound` nats.

agentbench train examples/minimal_trainer.yaml
"""

from pydantic import Field

from agentbench import Section, TrainerSpec
from agentbench.trainers.base import Algorithm
from agentbench.trainers.maths.losses import importance_ratio
from agentbench.trainers.objectives import TokenObjective
from agentbench.trainers.teachers.open import open_teacher


class BoundedConfig(Section):
    """Keys under `trainer:`; `bound` is the largest credit of one token, in nats."""

    bound: float = Field(default=2.0, gt=0)


class Bounded(Algorithm):
    """A_t = clip(log p(y_t) - log q(y_t), -bound, bound)."""

    def __init__(self, run, settings):
        """Load the student (in the base) and the teacher."""
        super().__init__(run)
        self.bound = settings.bound
        self.teacher = open_teacher(run.teachers[0], self.student)

    def update(self, groups, step):
        """Learn from the step's episodes."""
        batch = self.collate(groups)  # tables: tokens [B, T], turns [N], trajectories [M]
        old = self.student.score(batch)  # log q of the tokens on record
        teacher_BT = self.teacher.score(batch).logp_BT  # log p of the same tokens
        advantage_BT = (teacher_BT - old.logp_BT).clamp(-self.bound, self.bound)
        loss = TokenObjective(
            lambda logp, old, a: -importance_ratio(logp, old) * a, (old.logp_BT, advantage_BT)
        )
        descent = self.descend(batch, loss, reduction="token_mean", step=step)
        columns = {"advantage": advantage_BT}  # become annotations of the turns in rollouts/
        return self.report(step, batch, descent, old=old, teacher_BT=teacher_BT, columns=columns)


SPEC = TrainerSpec(id="bounded", config=BoundedConfig, build=Bounded, needs=frozenset({"teacher"}))
