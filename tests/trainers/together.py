"""Three updates by however many processes were launched; process 0 leaves metrics and weights behind.

Started by test_distributed: python together.py STUDENT TEACHER OUTPUT ALGORITHM PROCESSES FSDP
"""

import json
import sys
from pathlib import Path

import torch
from debaters import TEXTS, speaker
from spoken import GROWING, prompted, spoken_groups
from trainer_cases import make_run, random_groups, student_weights

from agentbench.engines.scripted import Reply
from agentbench.trainers import atod, gkd, grpo, mad_opd, mopd, opd
from agentbench.trainers.teachers.own import MovingAverage
from agentbench.training.config import TeacherConfig


def learn(student, teacher, algorithm, processes, fsdp, output=None):
    """Train on one fixed set of groups, dealt to the processes as the loop does."""
    spec, keys = {
        "atod": (atod.SPEC, {}),
        "token": (atod.SPEC, {"weights": "token"}),
        "opd": (opd.SPEC, {}),
        "full": (gkd.SPEC, {}),
        "averaged": (grpo.SPEC, {"ref_kl_coef": 0.0}),
        "mad_opd": (mad_opd.SPEC, {"rounds": 1, "debate": TEXTS}),
        "mopd": (mopd.SPEC, {"failure": "never", "feedback": False, "k": 16}),
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
        run = prompted(run, GROWING)

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
    share = len(groups) // processes
    mine = groups[share * trainer.team.index : share * (trainer.team.index + 1)]
    metrics = [dict(trainer.update(mine, step).metrics) for step in range(3)]
    weights = student_weights(trainer)
    for average in trainer.student.averages:
        weights |= {f"average.{name}": tensor for name, tensor in average.state().items()}
    if output is not None:
        trainer.save(Path(output) / "checkpoint")
        trainer.team.wait()
        after = trainer.update(mine, 3).metrics["loss"]
        again = build()
        again.load(Path(output) / "checkpoint")
        resumed = again.update(mine, 3).metrics["loss"]
        if trainer.team.index == 0:
            (Path(output) / "metrics.json").write_text(
                json.dumps([*metrics, {"after": after, "resumed": resumed}])
            )
            torch.save(weights, Path(output) / "weights.pt")
    return metrics, weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    student, teacher, output, algorithm, processes, fsdp = sys.argv[1:]
    learn(student, teacher, algorithm, int(processes), fsdp == "fsdp", output)
