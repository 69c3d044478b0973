"""SDAR: self-distilled agentic RL. Reward, and beside it the student's own word when it has read a text of skills.

The policy scores its own replies a second time under a prompt that begins with skills for the task; tokens that it
would rather say then become likelier, by as much as a gate lets through. Source: SDAR, arXiv:2605.15155, and the
released code of its loss:

    L = L_GRPO + lambda mean_t [ g_t (log p_t - log q_t) ],   g_t = stopgrad sigmoid( beta (log p_t - log q_t) )

Its gradient is -g_t grad log q_t: a gated rise of what the teacher likes, never a push down.
Leaves out skills that are learnt or looked up (`teachers.skills` holds what stands in files).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from agentbench.registry import env_spec
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group

from .maths.turns import per_token
from .preconditions import require_one_teacher, require_rewards
from .references import sampled
from .surrogate import ReferenceConfig, Referenced, Term, episode_advantage
from .teachers.contexts import PrivateTeacher, private_rows, require_room, teacher_reader
from .teachers.open import open_teacher
from .teachers.skills import load_skills


class SdarConfig(ReferenceConfig):
    """Keys of `sdar`, beside those of `grpo`.

    Attributes:
        distill_coef: lambda, weight of the gated term.
        gate_beta: beta, steepness of the gate per nat.
        skills: file of skill texts; None takes those that come with the environment, see `teachers.skills`.
    """

    distill_coef: float = Field(default=0.01, ge=0)
    gate_beta: float = Field(default=5.0, ge=0)
    skills: str | None = None


class Sdar(Referenced):
    """Group-relative policy optimisation with gated self-distillation; see `SdarConfig`."""

    settings: SdarConfig

    def __init__(self, run: TrainConfig, settings: SdarConfig) -> None:
        refuse(run, settings)
        super().__init__(run, settings)
        self.skills = load_skills(env_spec(run.env.name).id, settings.skills)
        self.teacher = open_teacher(run.teachers[0], self.student)
        self.reader = teacher_reader(run, self, where="before", opening=True)
        require_room(
            run,
            max(len(self.tokenizer.encode(text)) for text in self.skills.texts()),
            self.teacher.max_context,
            f"the longest skills of {self.skills.name}",
            "Shorten them (trainer.skills)",
        )

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One step on reward and the gated term."""
        settings, batch = self.settings, self.collate(groups)
        old = self.student.score(batch)
        members = [member for group in groups for member in group.members]
        texts = {(m.id, turn.index): self.skills.text(m.task_type) for m in members for turn in m.turns}
        rows = private_rows(groups, batch, texts, self.reader, self.teacher.max_context)
        teacher_BT = PrivateTeacher(self.teacher, rows).score(batch).logp_BT  # log p_t, after the skills
        penalty, distance = self.held(batch, old)
        episode = episode_advantage(batch, settings)

        def gated(logp_X: Tensor, teacher_X: Tensor) -> Tensor:
            gap_X = teacher_X - logp_X  # log p_t - log q_t
            return settings.distill_coef * (self._gate(gap_X) * gap_X)

        descent = self.ascend(
            batch,
            old,
            per_token(episode.value_X, batch.turn_BT),
            step=step,
            beside=[*penalty, Term(gated, (teacher_BT,))],
        )
        gap_BT = teacher_BT - old.logp_BT
        gate_BT = self._gate(gap_BT)
        known_M = torch.tensor([float(member.task_type in self.skills.by_type) for member in members])
        figures: dict[str, float | Tensor] = {
            "gate_active_share": 1.0 * (gate_BT > 0.5),
            "skill_gap": gap_BT,
            "task_skills_share": known_M,
            "teacher_prompt_tokens": rows.prompt_tokens().double(),
            **distance,
        }
        return self.report(
            step,
            batch,
            descent,
            old=old,
            teacher_BT=teacher_BT,
            episode=episode,
            columns={"advantage": episode.value_X, "gate": gate_BT},
            figures=figures,
            notes={"skills": rows.read(texts)},
        )

    def _gate(self, gap_X: Tensor) -> Tensor:
        """Sigmoid of beta (log p - log q); a constant."""
        return torch.sigmoid(self.settings.gate_beta * gap_X.detach())


def refuse(run: TrainConfig, settings: SdarConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_one_teacher(run, private=True)
    require_rewards(run, settings)
    load_skills(env_spec(run.env.name).id, settings.skills)


SPEC = TrainerSpec(
    id="sdar",
    reference=sampled.sdar,
    config=SdarConfig,
    build=Sdar,
    needs=frozenset({"teacher"}),
    refuse=refuse,
    paper="SDAR, arXiv:2605.15155",
)
