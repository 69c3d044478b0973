"""One on-policy distillation step against TRL's DistillationTrainer: same models, same batch, one thread, CPU.

    python benchmarks/train_step.py [--steps 4] [--output results.json]

Workload: student of about 10M and teacher of about 30M parameters (Qwen3 shape, vocabulary 4096), 16 rows of 128
prompt and exactly 128 completion tokens, temperature 1, full-vocabulary reverse KL, AdamW, float32. Ours is shown in
one micro-batch, as TRL works, and in micro-batches of 1024 tokens, which changes no result; "sampled" is the
sampled-token loss. Each contestant runs in a process of its own, so that its peak memory is its own. TRL is optional
(`pip install trl`). CPU seconds are the figures to compare: wall clocks suffer from whatever else runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROWS, PROMPT, COMPLETION, VOCABULARY = 16, 128, 128, 4096
CONTESTANTS = ("full", "full 1024", "sampled 1024", "trl")


@dataclass
class Figures:
    """What one contestant needed: medians of CPU and wall seconds a step, and the peak of its memory."""

    name: str
    update_cpu_s: float
    generate_cpu_s: float
    step_wall_s: float
    peak_rss_mib: float
    idle_rss_mib: float

    def line(self) -> str:
        """One row of the table."""
        tokens = ROWS * (PROMPT + COMPLETION)
        whole = self.update_cpu_s + self.generate_cpu_s
        return (
            f"{self.name:14s} {self.update_cpu_s:8.2f} {self.generate_cpu_s:10.2f} {whole:8.2f} "
            f"{self.step_wall_s:8.2f} "
            f"{tokens / self.update_cpu_s:12.0f} {tokens / whole:12.0f} {self.peak_rss_mib:10.0f} "
            f"{self.peak_rss_mib - self.idle_rss_mib:12.0f}"
        )


HEADER = (
    f"{'':14s} {'update':>8s} {'generate':>10s} {'both':>8s} {'wall':>8s} {'update tok/s':>12s} {'both tok/s':>12s} "
    f"{'peak MiB':>10s} {'above idle':>12s}"
)


def make_models(root: Path) -> None:
    """Write student and teacher with one tokenizer."""
    from agentbench.models.tiny import make_model, make_tokenizer

    tokenizer = make_tokenizer(
        root / "tokenizer", [], entities=[f"cabinet {i}" for i in range(VOCABULARY - 262)]
    )
    make_model(
        root / "student", tokenizer, hidden=320, layers=7, heads=5, kv_heads=5, vocab=VOCABULARY, seed=1
    )
    make_model(
        root / "teacher", tokenizer, hidden=512, layers=9, heads=8, kv_heads=8, vocab=VOCABULARY, seed=2
    )


def prompts() -> list[str]:
    """Texts of exactly PROMPT tokens: bytes without merges."""
    rng = random.Random(0)
    return ["".join(rng.choice("bdfghjklmnpqrstvwxyz") for _ in range(PROMPT)) for _ in range(ROWS)]


def rss_mib(peak: bool = True) -> float:
    """Memory of this process now, or at its highest."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def repeat(name: str, steps: int, generate: Callable[[], Any], update: Callable[[Any, int], None]) -> Figures:
    """Time generation and update; the first round warms up and does not count."""
    idle = rss_mib(peak=False)
    rounds = []
    for step in range(steps + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        made = generate()
        between = time.process_time()
        update(made, step)
        rounds.append((time.process_time() - between, between - cpu, time.perf_counter() - wall))
    updated, generated, walls = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
    return Figures(name, updated, generated, walls, rss_mib(), idle)


def run_ours(root: Path, steps: int, loss: str, micro_batch: int) -> Figures:
    """Our engine with `gkd` (loss "full") or `opd`, in micro-batches of so many tokens."""
    from agentbench.engine import Request, sample
    from agentbench.engines.hf.engine import build
    from agentbench.trainers import gkd, opd
    from agentbench.training.config import EnvConfig, TeacherConfig, TrainConfig
    from agentbench.types import Group, SamplingParams, Trajectory, Turn

    spec = gkd.SPEC if loss == "full" else opd.SPEC
    run = TrainConfig(
        algorithm=spec.id,
        output_dir="",
        model_name_or_path=str(root / "student"),
        env=EnvConfig(name="corridor", split="train"),
        teachers=(TeacherConfig(model_name_or_path=str(root / "teacher")),),
        learning_rate=1e-6,
        tokens_per_micro_batch=micro_batch,
    )
    trainer = spec.build(run, spec.config())
    engine = build(str(root / "student"), dtype="float32", device="cpu")
    exactly = SamplingParams(max_new_tokens=COMPLETION, min_new_tokens=COMPLETION)
    ids = [tuple(trainer.tokenizer.encode(text, add_special_tokens=False)) for text in prompts()]

    def generate() -> list[Group]:
        requests = [Request(str(n), prompt, exactly, seed=n) for n, prompt in enumerate(ids)]
        members = []
        for request, action in zip(requests, sample(engine, requests), strict=True):
            assert len(request.token_ids) == PROMPT and len(action.token_ids) == COMPLETION  # noqa: PT018
            engine.release(request.slot)
            turn = Turn(0, "", action, "", 0.0, request.token_ids)
            members.append(Trajectory(request.key, "none", request.key, 0, (turn,), None, 0.0, "terminated"))
        return [Group(member.id, 0, (member,)) for member in members]

    def update(groups: list[Group], step: int) -> None:
        trainer.update(groups, step)
        engine.load_weights(trainer.weights())

    return repeat(f"{loss} {micro_batch}", steps, generate, update)


def run_trl(root: Path, steps: int) -> Figures:
    """TRL's DistillationTrainer; its generation is timed apart."""
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from transformers import AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer

    marks: list[tuple[float, float, float]] = []
    spent = [0.0]

    class Timed(DistillationTrainer):  # type: ignore[misc]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            result = super()._generate(*args, **kwargs)
            spent[0] += time.process_time() - began
            return result

    from transformers import TrainerCallback

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((time.process_time(), spent[0], time.perf_counter()))

    config = DistillationConfig(
        output_dir=str(root / "trl"),
        teacher_model_init_kwargs={"dtype": "float32"},
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        max_steps=steps + 2,
        max_completion_length=COMPLETION,
        generation_kwargs={"min_new_tokens": COMPLETION},
        temperature=1.0,
        beta=1.0,
        learning_rate=1e-6,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    # with a name of its own: hashing the table by content fails with some pairs of pyarrow and dill
    table = InMemoryTable.from_pydict({"prompt": prompts() * (steps + 2)})
    dataset = Dataset(table, fingerprint="prompts")
    trainer = Timed(
        model=str(root / "student"),
        teacher_model=str(root / "teacher"),
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(root / "student"),
        callbacks=[Marks()],
    )
    idle = rss_mib(peak=False)
    trainer.train()
    rounds = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(marks)]
    cpu, generated, wall = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Figures("trl", cpu - generated, generated, wall, rss_mib(), idle)


def measure(name: str, root: Path, steps: int) -> Figures:
    """Run one contestant in this process."""
    import torch

    torch.set_num_threads(1)
    if name == "trl":
        return run_trl(root, steps)
    loss, *size = name.split()
    return run_ours(root, steps, loss, int(size[0]) if size else ROWS * (PROMPT + COMPLETION))


def main() -> None:
    """Run all contestants, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4, help="timed steps; their median is reported")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print("\n" + json.dumps(asdict(measure(asked.only, asked.models, asked.steps))))
        return
    results = []
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        print(HEADER)
        for name in CONTESTANTS:
            if name == "trl" and find_spec("trl") is None:
                print("trl            not installed: pip install trl")
                continue
            command = [
                sys.executable,
                __file__,
                "--only",
                name,
                "--models",
                folder,
                "--steps",
                str(asked.steps),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
            results.append(Figures(**json.loads(done.stdout.splitlines()[-1])))
            print(results[-1].line(), flush=True)
    if asked.output:
        asked.output.write_text(json.dumps([asdict(item) for item in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
