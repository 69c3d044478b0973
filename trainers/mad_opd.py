"""MAD-OPD: several teachers debate each state before they score what the student replied there.

They debate the student's state without its reply, say how confident they are, and then each one scores the student's
very tokens after a prompt that holds the whole debate. The student reads none of it and learns from the sum of the
teachers' divergences, weighted by their confidence. Source: MAD-OPD, arXiv:2605.01347, Eqs. 6-10. Without rounds it is
MT-OPD, the paper's baseline of several silent teachers; with one teacher besides, full-vocabulary distillation.
Leaves out how a debate goes (`teachers.debate`), who speaks (`teachers.speaking`) and private prompts
(`teachers.contexts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.engine import TextEngine
from agentbench.errors import ConfigError, UsageError
from agentbench.registry import env_spec
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan, derive_seed

from .base import Algorithm, probe_rows
from .batch.tables import Batch
from .decisions import DecisionConfig, chosen_divergence, decision_plan, require_recordings
from .figures.debates import Tally, debate_figures, probe_teachers
from .maths.divergences import TailMode
from .maths.teacher_weights import confidence_weights
from .maths.turns import per_token
from .objectives import FullVocabulary, Objective, TeacherMixture, TopK, WeightedSum, read_columns
from .references import distributions
from .teachers.contexts import PrivateTeacher, private_rows, require_room, teacher_reader
from .teachers.contract import Teacher, WholeTeacher
from .teachers.debate import (
    Debate,
    DebateTexts,
    Key,
    hold_debates,
    letter,
    load_debate,
    reply_texts,
    state_texts,
)
from .teachers.open import open_teacher, open_whole_teacher, require_whole
from .teachers.speaking import Speaker, open_speaker


class MadOpdConfig(DecisionConfig):
    """Keys of `mad_opd`, beside those of `DecisionConfig`.

    Attributes:
        plan: "episode" takes every turn of whole episodes, as the paper's formula does; "step" draws states, as `opad`,
            and alone uses `prefix`, `anchors`, `states_per_episode`, `most_states` and `steps`.
        rounds: R, of the debate; 0 leaves it out (MT-OPD).
        debate: what is said to the debaters: "agent", "code" or "general", or the three texts themselves; "auto"
            takes "code" where the env's replies are programs and "agent" elsewhere.
        confidence: where the teachers' weights come from: what they "reported", the mean "logprob" of their last
            message, or "equal" weights.
        confidence_temperature: T_conf; the larger, the more equal are the weights.
        combine: "sum" of the divergences, or one divergence from the "mixture" of the distributions.
        debate_sees_action: show the student's reply to the debaters.
        kd_temperature: flattens all distributions.
        support: "full" vocabulary, for teachers in this process, or each teacher's "top_k" likeliest ids.
        k: ids of "top_k"; `tail` says what becomes of the others.
    """

    plan: Literal["episode", "step"] = "episode"
    rounds: int = Field(default=2, ge=0)
    debate: str | dict[str, Any] = "auto"
    confidence: Literal["reported", "logprob", "equal"] = "reported"
    confidence_temperature: float = Field(default=1.0, gt=0)
    combine: Literal["sum", "mixture"] = "sum"
    debate_sees_action: bool = False
    kd_temperature: float = Field(default=1.0, gt=0)
    support: Literal["full", "top_k"] = "full"
    k: int = Field(default=64, ge=1)
    tail: TailMode = "tail"

    @model_validator(mode="after")
    def _used(self) -> MadOpdConfig:
        """Refuse keys that would be ignored."""
        debating = {"debate", "confidence", "confidence_temperature", "debate_sees_action"}
        for unused, keys, needed in (
            (
                self.plan == "episode",
                {"prefix", "anchors", "states_per_episode", "most_states", "steps"},
                "plan 'step'",
            ),
            (self.rounds == 0, debating, "a debate (rounds)"),
            (self.confidence == "equal", {"confidence_temperature"}, "weights by confidence"),
            (self.support == "full", {"k", "tail"}, "support 'top_k'"),
        ):
            for key in sorted(keys & self.model_fields_set) if unused else ():
                raise ValueError(f"{key!r} is used by {needed} only; remove it")
        if self.combine == "mixture" and self.support == "top_k":
            raise ValueError("combine 'mixture' needs whole distributions; use support 'full'")
        if self.kd_temperature != 1.0 and self.support == "top_k" and self.tail != "renormalise":
            raise ValueError("kd_temperature with support 'top_k' needs tail 'renormalise'")
        return self


@dataclass(frozen=True)
class Council:
    """The teachers of a step, ready to score.

    Attributes:
        teachers: K, each with its private prompts where there was a debate.
        weight_NK: w_k of each turn; 0 where a teacher is missing.
        debates: by turn; {} without rounds.
        prompt_tokens: of the private prompts, for each teacher.
    """

    teachers: tuple[Teacher, ...]
    weight_NK: Tensor
    debates: dict[Key, Debate]
    prompt_tokens: tuple[Tensor, ...] = ()

    def present(self, batch: Batch) -> list[Tensor]:
        """For each teacher, the tokens [B, T] of which it speaks."""
        return [per_token(w_N > 0, batch.turn_BT) for w_N in self.weight_NK.unbind(dim=1)]


class MadOpd(Algorithm):
    """Multi-agent debate distillation; see `MadOpdConfig`."""

    def __init__(self, run: TrainConfig, settings: MadOpdConfig) -> None:
        refuse(run, settings)
        super().__init__(run)
        self.settings = settings
        self.divergence = chosen_divergence(run.env.name, settings)
        self.teachers: list[Teacher] = [
            open_whole_teacher(config, self.student)
            if settings.support == "full"
            else open_teacher(config, self.student, top_k=settings.k)
            for config in run.teachers
        ]
        self.speakers = [
            open_speaker(config, teacher, derive_seed(run.seed, "teacher", k))
            for k, (config, teacher) in enumerate(zip(run.teachers, self.teachers, strict=True))
            if settings.rounds
        ]
        _require_log_probs(settings, self.speakers)
        self.tally = Tally(self.speakers)
        self.texts = debate_texts(run, settings)
        self.reader = teacher_reader(run, self)
        for number, teacher in enumerate(self.teachers if settings.rounds else ()):
            require_room(
                run,
                self._longest_debate(),
                teacher.max_context,
                f"the debate that teachers.{number} reads (rounds x teachers x speaker.max_new_tokens)",
                "Lower teachers.speaker.max_new_tokens or trainer.rounds",
            )

    def _longest_debate(self) -> int:
        """Most tokens of what a teacher reads of a debate."""
        frame = self.texts.write("answer", me=0, transcript="")
        heads = "\n\n".join(
            f"Expert {letter(k)}, round {self.settings.rounds}:\n" for k, _ in enumerate(self.speakers)
        )
        said = sum(speaker.sampling.max_new_tokens for speaker in self.speakers)
        written = [len(self.tokenizer.encode(text, add_special_tokens=False)) for text in (frame, heads)]
        return written[0] + self.settings.rounds * (written[1] + said)

    def plan(self, step: int) -> RolloutPlan:
        """Whole episodes, or decisions in states drawn from them."""
        whole = super().plan(step)
        return whole if self.settings.plan == "episode" else decision_plan(whole, self.settings)

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """One iteration of the paper's algorithm, after the student has sampled y in every state s_m."""
        batch = self.collate(groups)
        old = self.probe(batch)
        council = self._debated(groups, batch) if self.settings.rounds else self._silent(batch)
        heard_BT = per_token((council.weight_NK > 0).any(dim=1), batch.turn_BT)
        objective = self._objective(council, batch)  # sum_k w_k D(p_k(.|s_m, H, y_<t), q(.|s_m, y_<t)), Eq. 8
        figures = self._figures(council, batch)  # before anything changes
        descent = self.descend(  # sum over m, Eqs. 9-10
            batch, objective, reduction=self.settings.reduction, step=step, keep_BT=heard_BT
        )
        for k, present_BT in enumerate(council.present(batch)):
            if self.settings.combine == "sum":
                name = f"divergence/teacher_{k + 1}"
                figures[name] = descent.columns[name][present_BT]
        weights = {f"weight_teacher_{k + 1}": w_N for k, w_N in enumerate(council.weight_NK.unbind(dim=1))}
        return self.report(
            step,
            batch,
            descent,
            old=old,
            keep_BT=heard_BT,
            columns={"divergence": descent.columns["divergence"], **weights},
            figures=figures,
            notes={
                "debate": {key: debate.transcript for key, debate in council.debates.items()},
                "confidence": self._notes(council.debates),
            },
        )

    def _silent(self, batch: Batch) -> Council:
        """R = 0: every teacher reads what the student read, and all count the same."""
        count = len(self.teachers)
        return Council(tuple(self.teachers), torch.full((batch.turns, count), 1.0 / count), {})

    def _debated(self, groups: Sequence[Group], batch: Batch) -> Council:
        """Let the teachers debate every state, and give each one the debate to read."""
        settings, turn_of = self.settings, _trained_turns(batch)
        keys = list(turn_of)
        debates = hold_debates(  # H, without y
            self.speakers,
            state_texts(groups, keys, self.tokenizer),
            self.texts,
            settings.rounds,
            actions=reply_texts(groups, keys) if settings.debate_sees_action else None,
        )
        teachers, lengths = [], []
        for k, teacher in enumerate(self.teachers):
            read = {
                key: self.texts.write("answer", me=k, transcript=debate.transcript)
                for key, debate in debates.items()
                if debate.present[k]
            }
            rows = private_rows(groups, batch, read, self.reader, teacher.max_context)
            teachers.append(PrivateTeacher(teacher, rows))  # p_k(.|s, H, y_<t)
            lengths.append(rows.prompt_tokens())
        weight_NK = torch.zeros(batch.turns, len(teachers))
        if keys:
            weight_DK = self._weights(list(debates.values())).to(weight_NK)  # w_k, Eqs. 6-7
            weight_NK[list(turn_of.values())] = weight_DK
        return Council(tuple(teachers), weight_NK, debates, tuple(lengths))

    def _weights(self, debates: Sequence[Debate]) -> Tensor:
        present_DK = torch.tensor([debate.present for debate in debates])
        return confidence_weights(
            self._confidence(debates), present_DK, temperature=self.settings.confidence_temperature
        )

    def _confidence(self, debates: Sequence[Debate]) -> Tensor:
        """c_k of each debate [D, K], 0 to 100; NaN where there is none."""
        kind = self.settings.confidence
        if kind == "equal":
            return torch.full((len(debates), len(self.teachers)), float("nan"))
        said = [debate.confidence if kind == "reported" else debate.likelihood for debate in debates]
        return torch.tensor(said).reshape(len(debates), len(self.teachers))

    def _notes(self, debates: Mapping[Key, Debate]) -> dict[Key, str]:
        """What the weights were made of: "A 90.0, B none, C absent"."""
        notes = {}
        confidence_DK = self._confidence(list(debates.values())).tolist()
        for (key, debate), confidence in zip(debates.items(), confidence_DK, strict=True):
            words = [
                "absent" if not here else "none" if math.isnan(c) else repr(c)
                for c, here in zip(confidence, debate.present, strict=True)
            ]
            notes[key] = ", ".join(f"{letter(k)} {word}" for k, word in enumerate(words))
        return notes

    def _objective(self, council: Council, batch: Batch) -> Objective:
        weight_KBT = [per_token(w_N, batch.turn_BT) for w_N in council.weight_NK.unbind(dim=1)]
        if self.settings.combine == "mixture":
            weight_BTK = torch.stack(weight_KBT, dim=-1)
            chosen = self.settings
            return TeacherMixture(
                _whole(council.teachers), weight_BTK, self.divergence, chosen.beta, chosen.kd_temperature
            )
        parts = zip(council.teachers, weight_KBT, strict=True)
        return WeightedSum(tuple(self._part(teacher, batch, weight_BT) for teacher, weight_BT in parts))

    def _part(self, teacher: Teacher, batch: Batch, weight_BT: Tensor | None = None) -> FullVocabulary | TopK:
        """D(p_k, q)."""
        chosen = self.settings
        how = (chosen.beta, chosen.kd_temperature, weight_BT)
        if chosen.support == "top_k":
            return TopK(teacher.score(batch, chosen.k), self.divergence, chosen.tail, *how)
        (whole,) = _whole([teacher])
        return FullVocabulary(whole, self.divergence, *how)

    def _figures(self, council: Council, batch: Batch) -> dict[str, float | Tensor]:
        """Figures of the debate, and on a few rows what it changed and how far the teachers are apart."""
        found: dict[str, float | Tensor] = {}
        if self.settings.rounds:
            at = list(_trained_turns(batch).values())
            confidence_DK = self._confidence(list(council.debates.values()))
            found |= debate_figures(council.debates, confidence_DK, council.weight_NK[at])
            found |= self.tally.figures(len(at), int(batch.mask_BT.sum()))
        for k, tokens_P in enumerate(council.prompt_tokens):
            found[f"debate/prompt_tokens/teacher_{k + 1}"] = tokens_P
        if self.settings.support == "full" and self.settings.rounds:
            found |= self._privileged_gap(council, batch)
        if self.settings.support == "full":
            teachers, rows_B = _whole(council.teachers), probe_rows(batch)
            found |= probe_teachers(teachers, batch, rows_B, council.present(batch), self.student)
        return found

    def _privileged_gap(self, council: Council, batch: Batch) -> dict[str, Tensor]:
        """D with the debate minus D without it, of each teacher, on a few rows."""
        rows_B = probe_rows(batch)
        with_, without = (
            read_columns(
                WeightedSum(tuple(self._part(teacher, batch) for teacher in teachers)),
                batch,
                rows_B,
                self.student,
            )
            for teachers in (council.teachers, self.teachers)
        )
        probed_BT = torch.zeros_like(batch.mask_BT)
        probed_BT[rows_B] = batch.mask_BT[rows_B]
        found = {}
        for k, present_BT in enumerate(council.present(batch)):
            name = f"teacher_{k + 1}"
            gap_BT = with_[f"divergence/{name}"] - without[f"divergence/{name}"]
            found[f"privileged_gap/{name}"] = gap_BT[probed_BT & present_BT]
        return found


def _whole(teachers: Sequence[Teacher]) -> tuple[WholeTeacher, ...]:
    """Teachers whose whole distributions can be had; they were opened as such."""
    whole = tuple(teacher for teacher in teachers if isinstance(teacher, WholeTeacher))
    assert len(whole) == len(teachers)
    return whole


def _trained_turns(batch: Batch) -> dict[Key, int]:
    """(trajectory id, turn index) -> row of the turn table, of every turn with a trained token."""
    rows = sorted(set(batch.turn_BT[batch.mask_BT].tolist()))
    return {(batch.ids_M[int(batch.traj_N[n])], int(batch.index_N[n])): n for n in rows}


def debate_texts(run: TrainConfig, settings: MadOpdConfig) -> DebateTexts:
    """The texts that the settings name."""
    if settings.debate != "auto":
        return load_debate(settings.debate)
    return load_debate("code" if env_spec(run.env.name).replies == "programs" else "agent")


def _require_log_probs(settings: MadOpdConfig, speakers: Sequence[Speaker]) -> None:
    """Refuse weights by log-probs where a teacher's engine gives none: all would silently be equal."""
    for number, speaker in enumerate(speakers):
        if settings.confidence == "logprob" and isinstance(speaker.engine, TextEngine):
            raise UsageError(
                f"trainer.confidence 'logprob' needs log-probs, and teachers.{number} speaks through engine "
                f"{speaker.engine.info['name']!r}, which gives text alone; use confidence: reported, or engine: "
                "vllm-server"
            )


def refuse(run: TrainConfig, settings: MadOpdConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    for number, teacher in enumerate(run.teachers):
        if settings.rounds == 0 and teacher.speaker is not None:
            raise ConfigError(
                f"teachers.{number}.speaker is not used without a debate (rounds: 0); remove it"
            )
        named = teacher.speaker is not None and (
            teacher.model_name_or_path or teacher.speaker.model_name_or_path
        )
        if settings.rounds and teacher.backend != "hf" and not named:
            raise ConfigError(
                f"teachers.{number} has backend {teacher.backend!r} and shall debate; name who speaks for it with "
                f"teachers.{number}.speaker (engine, such as vllm-server, and model_name_or_path), or set "
                "trainer.rounds: 0"
            )
    if settings.support == "full":
        require_whole(*run.teachers)
    debate_texts(run, settings)
    require_recordings(run, settings)


SPEC = TrainerSpec(
    id="mad_opd",
    config=MadOpdConfig,
    build=MadOpd,
    refuse=refuse,
    needs=frozenset({"teacher", "speaker"}),
    replays=True,
    paper="MAD-OPD, arXiv:2605.01347",
    reference=distributions.mad_opd,
)
