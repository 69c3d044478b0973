import json

import pytest
import torch
from trainer_cases import assert_close, gradient, make_run, make_trajectory, make_turn, random_groups

from agentbench.config import validate
from agentbench.envs.corridor import SPEC as CORRIDOR
from agentbench.errors import ConfigError
from agentbench.policies.ready import ExpertPolicy, NullPolicy
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import decode_episode, encode_episode
from agentbench.runs.files import read_lines
from agentbench.trainers.opd import SPEC as OPD
from agentbench.trainers.tcod import SPEC
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train
from agentbench.types import Group

EXACT = {"max_grad_norm": 1e9}


def test_the_horizon_grows_by_the_step(models):
    trainer = SPEC.build(make_run(models, "tcod"), SPEC.config(first_turns=2, steps_per_turn=3))
    # k(n) = 2 + floor(n / 3)
    assert [trainer.horizon(step) for step in (0, 1, 2, 3, 5, 6, 30)] == [2, 2, 2, 3, 3, 4, 12]
    assert [trainer.plan(step).max_turns for step in (0, 3)] == [2, 3]


def test_the_runs_own_limit_stays(models):
    run = make_run(models, "tcod")
    run = run.model_copy(update={"env": run.env.model_copy(update={"max_turns": 3})})
    trainer = SPEC.build(run, SPEC.config(first_turns=1, steps_per_turn=1))
    assert [trainer.plan(step).max_turns for step in range(5)] == [1, 2, 3, 3, 3]


def test_on_given_episodes_it_is_opd(models):
    groups = random_groups(250)
    settings = SPEC.config(reduction="token_mean")
    ours = gradient(SPEC.build(make_run(models, "tcod", **EXACT), settings), groups)
    assert_close(ours, gradient(OPD.build(make_run(models, "opd", **EXACT), OPD.config()), groups))


def test_teacher_equal_to_the_student_teaches_nothing(models):
    run = make_run(models | {"teacher": models["student"]}, "tcod", **EXACT)
    found = gradient(SPEC.build(run, SPEC.config()), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def record(path):
    """The expert's successes on half of the first tasks, failures on the others; the lengths of the successes."""
    tasks = CORRIDOR.tasks("train")[:6]
    won = list(run_episodes([Episode(CORRIDOR, task, 5) for task in tasks[:3]], ExpertPolicy()))
    lost = list(run_episodes([Episode(CORRIDOR, task, 5, max_turns=3) for task in tasks[3:]], NullPolicy()))
    path.write_bytes(b"".join(encode_episode(item) + b"\n" for item in [*won, *lost]))
    return {item.task: len(item.turns) for item in won}


def test_backward_hands_over_ever_earlier(models, tmp_path):
    lengths = record(tmp_path / "episodes.jsonl")
    run = make_run(models, "tcod", rollout={"recordings": str(tmp_path)})
    trainer = SPEC.build(run, SPEC.config(direction="backward", steps_per_turn=3))
    # L = 5: max(0, 4 - floor(n / 3)) = 4, 4, 4, 3 ... 1, 1, 1, 0; at 0 the student plays it all
    turns = [trainer.hand_over(5, step) for step in (0, 2, 3, 9, 11)]
    assert turns == [((0, "replay"), (turn, "student")) for turn in (4, 4, 3, 1, 1)]
    assert (
        trainer.hand_over(5, 12) == trainer.hand_over(5, 99) == trainer.hand_over(1, 0) == ((0, "student"),)
    )
    plan = trainer.plan(0)
    # tasks without a recorded success are played in full
    assert plan.tasks == {
        task: ((0, "replay"), (length - 1, "student")) for task, length in lengths.items() if length > 1
    }
    assert plan.authors == (((0, "student"),),)
    assert plan.max_turns is None


def test_replayed_turns_have_exactly_no_gradient(models, tmp_path):
    """What was replayed is context: its log-probs and the teacher's word on it change nothing."""
    record(tmp_path / "episodes.jsonl")
    run = make_run(models, "tcod", rollout={"recordings": str(tmp_path)}, **EXACT)
    trainer = SPEC.build(run, SPEC.config(direction="backward"))

    def episode(author, logprobs):
        replayed = make_turn(0, [5, 6], [7, 8, 9], author=author, logprobs=logprobs)
        return [Group("t", 0, (make_trajectory("a", [replayed, make_turn(1, [10, 11], [12, 13])]),))]

    ours = gradient(trainer, episode("replay", (-9.0, -9.0, -9.0)))
    own = episode("student", (0.0, 0.0, 0.0))
    context = [Group("t", 1, own[0].members)]  # the same turns as context before an anchor
    theirs = gradient(trainer, context)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    alone = [Group("t", 0, (make_trajectory("a", [make_turn(0, [5, 6], [7, 8, 9], author="replay")]),))]
    # nothing to learn from: no update is made, and the step is counted
    assert trainer.update(alone, 0).metrics["skipped_steps"] == 1.0


def test_a_run_backward_replays_successes_and_trains_the_rest(models, tmp_path):
    lengths = record(tmp_path / "episodes.jsonl")
    values = {
        "algorithm": "tcod",
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": models["student"],
        "teachers": [{"model_name_or_path": models["teacher"]}],
        "env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript", "num_tasks": 6},
        "rollout": {"tasks_per_step": 6, "group_size": 1, "max_new_tokens": 2, "recordings": str(tmp_path)},
        "trainer": {"direction": "backward", "steps_per_turn": 1},
        "max_steps": 2,
        "learning_rate": 1e-3,
    }
    values["env"]["max_turns"] = max(lengths.values()) + 1
    train(validate(TrainConfig, values), report=lambda line: None)
    for step in range(2):
        lines = read_lines(tmp_path / "run" / "rollouts" / f"step-{step:06d}.jsonl")
        for item in (decode_episode(line) for _, line in lines):
            replayed = [turn.index for turn in item.turns if turn.action.author == "replay"]
            assert len(replayed) == max(0, lengths.get(item.task, 0) - 1 - step)
            trained = {turn.index for turn in item.turns if "advantage" in turn.annotations}
            assert trained == {turn.index for turn in item.turns} - set(replayed)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["replayed_turns"] == pytest.approx(sum(max(0, n - 1) for n in lengths.values()) / 6)


def test_directions_and_recordings_belong_together(models, tmp_path):
    record(tmp_path / "episodes.jsonl")
    recorded = make_run(models, "tcod", rollout={"recordings": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"used by trainer\.direction 'backward' only"):
        SPEC.refuse(recorded, SPEC.config())
    with pytest.raises(ConfigError, match=r"replays recorded successes.*rollout\.recordings"):
        SPEC.refuse(make_run(models, "tcod"), SPEC.config(direction="backward"))
    with pytest.raises(ConfigError, match="'first_turns' is used by direction 'forward' only"):
        validate(SPEC.config, {"direction": "backward", "first_turns": 2}, "trainer.")
