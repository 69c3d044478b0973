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
from ..errors import TrainingError, UsageError
from ..evaluation.evaluate import EvalConfig, assist, evaluate
from ..evaluation.protocol import Protocol, protocol_of, write_protocol
from ..machine import versions
from ..policies.build import sampling_of
from ..policies.model import ModelPolicy
from ..registry import open_engine
from ..rollout.collect import Stage, collect
from ..runs.files import encode_json, write_whole
from ..runs.folder import CONFIG, VERSIONS, check_output
from ..trainer import Trainer, Update
from ..types import Group, Trajectory
from .authors import build_stage, student_parser, student_renderer
from .check import check
from .checkpoints import checkpoints
from .config import TrainConfig
from .evaluation import evaluation_of
from .log import TrainLog
from .publish import Publisher
from .tasks import TaskOrder

_FREE_ON_RESUME = frozenset({"output_dir", "report_to", "save_steps", "save_total_limit"})


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
        self.trainer.save(partial)
        self.trainer.team.wait()
        if self.trainer.team.index == 0:
            write_protocol(partial, self._protocol(step))
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            self._prune(best)
        self.trainer.team.wait()
        return final

    def _protocol(self, step: int) -> Protocol:
        """How this run plays its student, for whoever evaluates the checkpoint."""
        played = evaluation_of(self.config, model="", output_dir="")
        return protocol_of(
            played, self.spec, algorithm=self.config.algorithm, step=step, run=self.folder.name
        )

    def _prune(self, best: int | None) -> None:
        limit = self.config.save_total_limit
        if limit is not None:
            for step, folder in checkpoints(self.folder)[:-limit]:
                if step != best:
                    shutil.rmtree(folder)


def annotate(groups: Sequence[Group], update: Update) -> list[Trajectory]:
    """Write the trainer's turn columns into the turns' annotations."""
    annotated = []
    for trajectory in (member for group in groups for member in group.members):
        turns = []
        for turn in trajectory.turns:
            found = {
                name: column[trajectory.id, turn.index]
                for name, column in update.turn_columns.items()
                if (trajectory.id, turn.index) in column
            }
            turns.append(replace(turn, annotations={**turn.annotations, **found}) if found else turn)
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
    check_output(folder, config.model_dump(mode="json"), resume=resume, free=_FREE_ON_RESUME)
    tasks = env.tasks(config.env.split)[: config.env.num_tasks]
    trainer = spec.build(config, settings)
    saved = checkpoints(folder) if resume else []
    first = 0
    if saved:
        first, newest = saved[-1]
        trainer.load(newest)
        report(f"resumed from {newest}")
    engine = open_engine(config.rollout.engine, config.model_name_or_path, config.rollout.engine_options)
    if isinstance(engine, TextEngine):
        raise UsageError(
            f"engine {config.rollout.engine!r} gives text without token ids, and only what was sampled token by token "
            "can be trained on; use rollout.engine: hf, vllm or vllm-server"
        )
    if saved or engine.outlives_runs:  # a server may hold the weights of another run
        engine.load_weights(trainer.weights())
    run = Run(
        config,
        env,
        trainer,
        build_stage(config, env, trainer, engine),
        engine,
        Publisher(engine, trainer, config.rollout.publish_tolerance),
        TaskOrder(tasks, config.seed),
        folder,
    )
    if trainer.team.index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / CONFIG, dump(config).encode())
        write_whole(folder / VERSIONS, encode_json({**versions(), "engine": engine.info}))
    return _loop(run, first, report)


def _loop(run: Run, first: int, report: Callable[[str], None]) -> dict[str, float]:
    config, folder = run.config, run.folder
    kept = first or -1  # nothing is done yet: even the evaluation before the first step is made again
    log = TrainLog(folder, kept, config) if run.trainer.team.index == 0 else None
    metrics: dict[str, float] = {}
    try:
        if first == 0 and config.eval is not None:
            before = run.evaluate(0)
            if log is not None:
                log.write(0, before, {})
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
                report(_line(done, config.max_steps, metrics))
            best = run.trainer.team.any(best)
            if last or best or done % config.save_steps == 0:
                run.save(done, log.best["step"] if log is not None and log.best else None)
    finally:
        if log is not None:
            log.close()
    return metrics


def _line(done: int, steps: int, metrics: Mapping[str, float]) -> str:
    shown = [name for name in ("success", "loss", "eval/success") if name in metrics]
    return f"step {done}/{steps}  " + "  ".join(f"{name} {metrics[name]:.4g}" for name in shown)
