"""Whole runs of the methods whose teacher reads more than the student."""

import pytest

from agentbench.config import validate
from agentbench.runs.episodes import decode_episode
from agentbench.runs.files import read_lines
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train


def configuration(models, folder, algorithm, teacher, **trainer):
    values = {
        "algorithm": algorithm,
        "output_dir": str(folder),
        "model_name_or_path": models["student"],
        "teachers": [teacher],
        "env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript", "max_turns": 3},
        "rollout": {
            "tasks_per_step": 2,
            "group_size": 3,
            "max_new_tokens": 6,
            "guided": True,
            "engine_options": {"max_context": 512},
        },
        "trainer": {"importance_cap": None, **trainer},
        "max_steps": 2,
        "learning_rate": 1e-3,
        "save_steps": 1,
    }
    return validate(TrainConfig, values)


CASES = {
    "sdar": ({"backend": "student"}, {}, "skills", "Skills that help in every task:"),
    "mopd": ({"backend": "ema"}, {"block_tokens": 200}, "peers", "Other attempts at this very task"),
}


@pytest.mark.parametrize("algorithm", CASES)
def test_what_the_teacher_read_is_kept_with_the_turn_and_a_resumed_run_ends_equal(
    long_models, tmp_path, algorithm
):
    teacher, trainer, note, words = CASES[algorithm]
    whole = configuration(long_models, tmp_path / "whole", algorithm, teacher, **trainer)
    at_once = train(whole, report=lambda line: None)
    lines = read_lines(tmp_path / "whole" / "rollouts" / "step-000001.jsonl")
    episodes = [decode_episode(line) for _, line in lines]
    read = [turn.notes[note] for item in episodes for turn in item.turns if note in turn.notes]
    assert len(read) == sum(len(item.turns) for item in episodes)
    assert all(text.startswith(words) for text in read)
    # killed after the first step, and gone on
    two = configuration(long_models, tmp_path / "two", algorithm, teacher, **trainer)
    train(two.model_copy(update={"max_steps": 1}), report=lambda line: None)
    assert train(two, resume=True, report=lambda line: None) == at_once
