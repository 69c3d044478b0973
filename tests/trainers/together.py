"""Three updates by however many processes were launched; process 0 leaves metrics and weights behind.

Started by test_distributed: python together.py STUDENT TEACHER OUTPUT ALGORITHM PROCESSES FSDP
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from debaters import TEXTS, speaker
from spoken import GROWING, prompted, spoken_groups
from trainer_cases import make_run, random_groups, student_weights

from agentbench.engines.scripted import Reply
from agentbench.trainers import atod, gkd, grpo, guided_opd, mad_opd, mopd, opd
from agentbench.trainers.teachers.own import MovingAverage
from agentbench.training.config import SpeakerConfig, TeacherConfig


def by_turns(group, author):
    """The same group, in which another author said every other turn."""
    members = []
    for member in group.members:
        turns = [
            turn if turn.index % 2 else replace(turn, action=replace(turn.action, author=author))
            for turn in member.turns
        ]
        members.append(replace(member, turns=tuple(turns)))
    return replace(group, members=tuple(members))


def learn(student, teacher, algorithm, processes, fsdp, output=None):
    """Train on one fixed set of groups, dealt to the processes as the loop does."""
    fading = {"kind": "handover", "start": 0.8, "end": 0.0, "window": 2, "rate": 0.25, "threshold": 10.0}
    spec, keys = {
        "atod": (atod.SPEC, {}),
        "token": (atod.SPEC, {"weights": "token"}),
        "opd": (opd.SPEC, {}),
        "guided": (guided_opd.SPEC, {"beta": fading, "imitation": 0.5}),
        "full": (gkd.SPEC, {}),
        "averaged": (grpo.SPEC, {"ref_kl_coef": 0.0}),
        "mad_opd": (mad_opd.SPEC, {"rounds": 1, "debate": TEXTS}),
        "mopd": (mopd.SPEC, {"failure": "never", "feedback": False, "k": 16, "block_tokens": 512}),
    }[algorithm]
    settings = spec.config(**keys)
    run = make_run(
        {"student": student, "teacher": teacher},
        spec.id,
        num_processes=processes,
        fsdp=fsdp,
        updates_per_step=2,
        tokens_per_micro_batch=40,
        learning_rate=1e-3,
    )
    if algorithm == "mopd":
        averaging = (TeacherConfig(backend="ema", rate=0.25),)
        run = prompted(run, GROWING).model_copy(update={"teachers": averaging})

    if algorithm == "mad_opd":
        brief = run.teachers[0].model_copy(update={"speaker": SpeakerConfig(max_new_tokens=60)})
        run = prompted(run, GROWING).model_copy(update={"teachers": (brief,)})

    def build():
        trainer = spec.build(run, settings)
        if algorithm == "mad_opd":  # in some states nobody answers
            silent = lambda prompt: Reply(failure="down") if "room 3" in prompt else "go <<CONFIDENCE=70>>"
            trainer.speakers = [speaker(silent, trainer.tokenizer)]
            trainer.tally.speakers = trainer.speakers
        if algorithm == "averaged":
            MovingAverage(trainer.student, 0.25)
        return trainer

    trainer = build()
    groups = random_groups(250, seed=3, groups=4)
    if algorithm == "mad_opd":
        groups = spoken_groups(run, trainer.tokenizer, groups=4)
    if algorithm == "mopd":  # one process may have nothing to read in a micro-batch, or nothing at all
        groups = spoken_groups(run, trainer.tokenizer, groups=4, successes=({0, 2}, {1}, set(), set()))
    if algorithm == "guided":  # the last groups, and so one of two processes, have no turn of the guide
        groups = [by_turns(group, "teacher") for group in groups[:2]] + groups[2:]
    share = len(groups) // processes
    mine = groups[share * trainer.team.index : share * (trainer.team.index + 1)]
    metrics = [dict(trainer.update(mine, step).metrics) for step in range(3)]
    weights = student_weights(trainer)
    for average in trainer.student.averages:
        weights |= {f"average.{name}": tensor for name, tensor in average.state().items()}
    if output is not None:
        trainer.save(Path(output) / "checkpoint")
        trainer.team.wait()
        states = trainer.team.gather([trainer.state()["schedules"]])
        assert all(state == states[0] for state in states)
        if algorithm == "guided":
            assert 0.0 < states[0]["beta"]["progress"] < 1.0
        after = trainer.update(mine, 3).metrics
        again = build()
        again.load(Path(output) / "checkpoint")
        resumed = again.update(mine, 3).metrics
        # what was said before is no longer remembered, and said again
        same = [name for name in after if not name.startswith("debate/")]
        assert [after[name] for name in same] == [resumed[name] for name in same]
        if trainer.team.index == 0:
            (Path(output) / "metrics.json").write_text(
                json.dumps([*metrics, {"after": after["loss"], "resumed": resumed["loss"]}])
            )
            torch.save(weights, Path(output) / "weights.pt")
    return metrics, weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    student, teacher, output, algorithm, processes, fsdp = sys.argv[1:]
    learn(student, teacher, algorithm, int(processes), fsdp == "fsdp", output)
