"""Trains a model with TRL's GRPOTrainer on one of our environments.

    pip install trl datasets
    python examples/bridges/trl_grpo.py MODEL --env alfworld --steps 100

MODEL is a folder or hub id whose chat template knows tools, such as Qwen/Qwen3-0.6B.
"""

from __future__ import annotations

import argparse
from typing import Any

from agentbench.bridges.factory import environment_factory
from agentbench.registry import env_spec

QUESTION = "Solve the task by calling `act`, one command at a time.\n"


def rows(env: str, split: str, count: int) -> list[dict[str, Any]]:
    """Make the dataset: a prompt, and the task that `reset` begins; TRL puts the first observation after the prompt."""
    tasks = env_spec(env).tasks(split)[:count]
    return [{"prompt": [{"role": "user", "content": QUESTION}], "task": task} for task in tasks]


def make_trainer(model: Any, tokenizer: Any, *, env: str, split: str, tasks: int, **settings: Any) -> Any:
    """Build the trainer; the environment owns the reward, so no reward function is needed."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=GRPOConfig(report_to=[], **settings),
        train_dataset=Dataset.from_list(rows(env, split, tasks)),
        environment_factory=environment_factory(env, split=split),
    )


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--split", default="mini-train")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", default="grpo")
    options = parser.parse_args()
    from transformers import AutoTokenizer

    trainer = make_trainer(
        options.model,
        AutoTokenizer.from_pretrained(options.model),
        env=options.env,
        split=options.split,
        tasks=8 * options.steps,
        max_steps=options.steps,
        output_dir=options.output,
        num_generations=8,
        per_device_train_batch_size=8,
        max_completion_length=4096,
    )
    trainer.train()


if __name__ == "__main__":
    main()
