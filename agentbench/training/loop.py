"""The one training loop: collect, update, publish the weights, evaluate, save, resume. Torch-free.

What is learnt from the collected episodes is the trainer's business; how episodes are run is `rollout`'s. Everything
in step s follows from the run's seed, s and the weights, so a run that is
killed and resumed ends as if it had not been.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import dump
from ..dialogue.prompt import load_prompt
from ..engine import Engine, TextEngine
from ..env import EnvSpec
from ..errors import ConfigError, ContextFull, TrainingError, UsageError
from ..evaluation.evaluate import EvalConfig, assist, evaluate
from ..evaluation.protocol import Protocol, protocol_of, write_protocol
from ..foreign import printable, shortened
from ..machine import versions
from ..policies.build import sampling_of
from ..policies.model import ModelPolicy
from ..registry import open_engine
from ..rollout.collect import Stage, collect
from ..runs.files import write_whole
from ..runs.folder import CONFIG, fix_versions
from ..trainer import Trainer, Update
from ..types import Group, Trajectory
from .authors import build_stage, student_parser, student_renderer
from .check import check, check_resume, played
from .checkpoints import checkpoints, newest, next_step, prune, put_in_place, seal, writing
from .config import TrainConfig
from .evaluation import evaluation_of, teacher_evaluations
from .log import TrainLog, require_steps
from .publish import Publisher
from .tasks import TaskOrder


@dataclass
class Run:
    """A training run under way."""

    config: TrainConfig
    spec: EnvSpec
    trainer: Trainer
    stage: Stage
    engine: Engine
    publisher: Publisher
    order: TaskOrder
    folder: Path

    # --- one step ------------------------------------------------------------------------------------------------

    def step(self, step: int) -> tuple[Update, list[Group], dict[str, float]]:
        """Collect this process's share of the step's groups, learn from them, publish the weights."""
        began = time.monotonic()
        plan = self.trainer.plan(step)
        ranks = self.trainer.team.count
        if plan.groups % ranks:
            raise UsageError(f"{plan.groups} groups cannot be dealt evenly to {ranks} processes")
        tasks = self.order.at(step * plan.groups, plan.groups)
        share = plan.groups // ranks
        first = share * self.trainer.team.index
        mine = replace(plan, groups=share)
        groups = collect(mine, self.stage, tasks[first : first + share], step, first=first)
        sound = any(member.ok for group in groups for member in group.members)
        if not self.trainer.team.any(sound):
            raise nothing_to_learn_from(groups, step)
        collected = time.monotonic()
        self.publisher.before(groups, step)
        update = self.trainer.update(groups, step)
        updated = time.monotonic()
        gap = self.publisher.push(groups, step)
        seconds = {
            "seconds/rollout": collected - began,
            "seconds/update": updated - collected,
            "seconds/publish": time.monotonic() - updated,
        }
        if gap is not None:
            update = replace(update, metrics={**update.metrics, "publish_gap": gap})
        return update, groups, seconds

    def evaluate(self, step: int) -> dict[str, float]:
        """Play the panel with the current weights, exactly as `agentbench eval` would with the checkpoint.

        Every process plays its share; the figures come out on process 0, {} elsewhere.
        """
        output = self.folder / "eval" / f"step-{step}"
        if self.trainer.team.index == 0:
            shutil.rmtree(output, ignore_errors=True)  # left by a run that was killed here
        model = str(self.folder / f"checkpoint-{step}") if step else self.config.model_name_or_path
        config = evaluation_of(self.config, model=model, output_dir=str(output))
        student = self.student(config)
        if self.trainer.team.index > 0:
            assist(config, student, self.trainer.team)
            return {}
        summary = evaluate(config, policy=student, team=self.trainer.team)
        if summary.overall is None:
            raise TrainingError(
                f"step {step}: {summary.error_rate:.0%} of the evaluation episodes broke; see {output}/report.md"
            )
        rates = summary.overall
        figures = {
            "score": rates.score.value,
            "turns": rates.turns,
            "errors": float(sum(summary.errors.values())),
        }
        if rates.success is not None:
            figures["success"] = rates.success.value
        return {f"eval/{name}": value for name, value in figures.items()}

    def evaluate_teachers(self) -> None:
        """Play the panel with every teacher itself, once; what is on record already stays. Process 0 alone plays."""
        if self.trainer.team.index == 0:
            for config in teacher_evaluations(self.config):
                evaluate(config, resume=True)
        self.trainer.team.wait()

    def student(self, config: EvalConfig) -> ModelPolicy:
        """The student as a policy that plays this evaluation."""
        return ModelPolicy(
            self.engine,
            student_renderer(self.config, self.spec, self.trainer),
            student_parser(self.config, self.spec),
            sampling_of(config, load_prompt(self.config.env.prompt or self.spec.prompt)),
            guided=config.guided,
            model=config.model_name_or_path,
        )

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, step: int, best: int | None) -> Path:
        """Write checkpoint-<step> whole or not at all: first beside it, then renamed."""
        final = self.folder / f"checkpoint-{step}"
        partial = self.folder / f".checkpoint-{step}.partial"
        if self.trainer.team.index == 0 and partial.exists():
            shutil.rmtree(partial)
        self.trainer.team.wait()
        with writing(partial):
            self.trainer.save(partial)
            self.trainer.team.wait()
            if self.trainer.team.index == 0:
                write_protocol(partial, self._protocol(step))
                seal(partial)
                put_in_place(partial, final)
                prune(self.folder, self.config.save_total_limit, best)
        self.trainer.team.wait()
        return final

    def _protocol(self, step: int) -> Protocol:
        """How this run plays its student, for whoever evaluates the checkpoint."""
        played = evaluation_of(self.config, model="", output_dir="")
        return protocol_of(
            played,
            self.spec,
            algorithm=self.config.algorithm,
            step=step,
            run=self.folder.name,
            origins=origins_of(self.trainer),
        )


def origins_of(trainer: Trainer) -> dict[str, str]:
    """Fingerprint of every model that a trainer started from, by name; {} of a trainer that keeps none."""
    return dict(getattr(trainer, "origins", {}))


def nothing_to_learn_from(groups: Sequence[Group], step: int) -> TrainingError | UsageError:
    """Say why a step in which every episode broke ends the run: it would go on to the end and learn nothing."""
    first = next((member.error for group in groups for member in group.members if member.error), None)
    why = "" if first is None else f"; the first one: {first.type}: {printable(first.message, 500)}"
    if first is not None and first.type == ContextFull.__name__:
        return ConfigError(f"no episode can begin: {printable(first.message, 500)}")
    return TrainingError(
        f"step {step}: every episode broke for reasons of infrastructure, so there is nothing to learn from{why}. "
        "Mend it and go on with --resume"
    )


def annotate(groups: Sequence[Group], update: Update) -> list[Trajectory]:
    """Write the trainer's turn columns into the turns' annotations, and what a teacher read into their notes."""
    annotated = []
    for trajectory in (member for group in groups for member in group.members):
        turns = []
        for turn in trajectory.turns:
            key = (trajectory.id, turn.index)
            found = {name: column[key] for name, column in update.turn_columns.items() if key in column}
            read = {name: texts[key] for name, texts in update.notes.items() if key in texts}
            if found or read:
                turn = replace(turn, annotations={**turn.annotations, **found}, notes={**turn.notes, **read})
            turns.append(turn)
        annotated.append(replace(trajectory, turns=tuple(turns)))
    return annotated


def train(
    config: TrainConfig, *, resume: bool = False, report: Callable[[str], None] = print
) -> dict[str, float]:
    """Train to the end and return the last step's metrics.

    Args:
        config: checked by `check` before anything is loaded.
        resume: go on from the newest checkpoint of `output_dir`; a new folder starts from the beginning.
        report: receives one plain line per event worth a person's attention.
    Raises:
        UsageError: before anything is loaded, when the configuration cannot work.
        TrainingError: learning cannot go on; the last checkpoint is intact.
    """
    spec, settings, env = check(config)
    folder = Path(config.output_dir)
    changed = check_resume(config, resume=resume)
    saved = newest(folder) if resume else None
    if saved:
        require_steps(folder, saved, checkpoints(folder)[:-1])
    elif resume:
        report(f"nothing to resume in {folder}: starting from the beginning")
    first = saved[0] if saved else 0
    tasks = env.tasks(config.env.split)[: config.env.num_tasks]
    trainer = spec.build(config, settings)
    if saved:
        with next_step(checkpoints(folder)):
            trainer.load(saved[1])
        finished = (
            f"; all {first} steps are done, max_steps=N asks for more" if first == config.max_steps else ""
        )
        report(f"resumed from {saved[1]}{finished}")
    engine = open_engine(config.rollout.engine, config.model_name_or_path, config.rollout.engine_options)
    if isinstance(engine, TextEngine):
        raise UsageError(
            f"engine {config.rollout.engine!r} gives text without token ids, and only what was sampled token by token "
            "can be trained on; use rollout.engine: hf, vllm or vllm-server"
        )
    if saved or engine.outlives_runs:  # a server may hold the weights of another run
        engine.load_weights(trainer.weights())
        engine.policy_version = first  # as it would be without the stop
    run = Run(
        config,
        env,
        trainer,
        build_stage(config, env, trainer, engine, spec.authors),
        engine,
        Publisher(engine, trainer, config.rollout.publish_tolerance),
        TaskOrder(tasks, config.seed),
        folder,
    )
    if trainer.team.index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {**versions(), "engine": engine.info, "played": played(config, env)}
        facts["origins"] = origins_of(trainer)
        fix_versions(folder, facts, binding=("played",), changed=changed)
        write_whole(folder / CONFIG, dump(config).encode())
        for key, was, now in changed:
            report(f"resumed with another {key}: it was {shortened(was)}, it is {shortened(now)}")
    return _loop(run, first, report)


def _loop(run: Run, first: int, report: Callable[[str], None]) -> dict[str, float]:
    config, folder = run.config, run.folder
    kept = first or -1  # nothing is done yet: even the evaluation before the first step is made again
    log = TrainLog(folder, kept, config) if run.trainer.team.index == 0 else None
    metrics: dict[str, float] = {}
    try:
        if config.eval is not None and config.eval.teachers:
            run.evaluate_teachers()
        if first == 0 and config.eval is not None:
            before = run.evaluate(0)
            if log is not None:
                log.write(0, before, {})
                report(_line(0, config.max_steps, before))
        for step in range(first, config.max_steps):
            update, groups, seconds = run.step(step)
            done = step + 1
            metrics, last, best = dict(update.metrics), done == config.max_steps, False
            episodes = run.trainer.team.collect(annotate(groups, update))
            if config.eval is not None and (last or done % config.eval.every == 0):
                metrics |= run.evaluate(done)
            if log is not None:
                log.rollouts(step, episodes)
                best = log.write(done, metrics, seconds)
                report(_line(done, config.max_steps, metrics, sum(seconds.values())))
            best = run.trainer.team.any(best)
            if last or best or done % config.save_steps == 0:
                if log is not None:
                    log.sync()
                run.save(done, log.best["step"] if log is not None and log.best else None)
        if log is not None:  # a kill between a checkpoint and its pruning left one too many
            prune(folder, config.save_total_limit, log.best["step"] if log.best else None)
    finally:
        if log is not None:
            log.close()
    return metrics


_SHOWN = ("success", "reward", "loss", "entropy", "eval/success")


def _line(done: int, steps: int, metrics: Mapping[str, float], seconds: float = 0.0) -> str:
    figures = [f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics]
    left = f"{seconds:.0f} s, {(steps - done) * seconds / 60:.0f} min left" if seconds else "before training"
    return "  ".join([f"step {done}/{steps}", *figures, left])
