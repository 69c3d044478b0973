from dataclasses import replace

import pytest
import torch
from trainer_cases import make_run, random_groups, same_weights, student_weights

from agentbench.cli.training import main
from agentbench.config import validate
from agentbench.errors import ConfigError, CorruptData, UsageError
from agentbench.trainers.grpo import SPEC as GRPO
from agentbench.trainers.opd import SPEC as OPD
from agentbench.trainers.teachers.open import open_teacher, open_whole_teacher
from agentbench.trainers.teachers.own import MovingAverage
from agentbench.training.config import TeacherConfig, TrainConfig


def own(backend):
    return (TeacherConfig(backend=backend),)


def averaging(models, **values):
    """A trainer that learns from rewards, and an average that follows it at a rate of a quarter."""
    trainer = GRPO.build(make_run(models, "grpo", teacher=None, **values), GRPO.config(ref_kl_coef=0.0))
    return trainer, MovingAverage(trainer.student, 0.25)


@pytest.mark.parametrize("backend", ["student", "ema"])
def test_before_any_step_it_says_what_the_student_says(models, backend):
    trainer = OPD.build(make_run(models, "opd"), OPD.config())
    teacher = open_teacher(own(backend)[0], trainer.student, top_k=4)
    batch = trainer.collate(random_groups(250))
    scores, old = teacher.score(batch, 4), trainer.student.score(batch)
    assert torch.equal(scores.logp_BT, old.logp_BT)
    assert torch.equal(scores.entropy_BT, old.entropy_BT)
    assert not scores.logp_BT.requires_grad


def test_the_student_itself_changes_with_it_and_carries_no_gradient(models):
    trainer = OPD.build(make_run(models, "opd"), OPD.config())
    teacher = open_whole_teacher(own("student")[0], trainer.student)
    batch = trainer.collate(random_groups(250))
    before = teacher.score(batch).logp_BT
    trainer.update(random_groups(250), 0)
    assert not torch.equal(teacher.score(batch).logp_BT, before)
    assert torch.equal(teacher.score(batch).logp_BT, trainer.student.score(batch).logp_BT)
    trainer.student.optimizer.zero_grad()
    assert not teacher.linear_head(trainer.student.micro_batches(batch)[0]).hidden_ND.requires_grad
    assert all(p.grad is None for p in trainer.student.net.parameters())


def test_what_training_switches_on_stays_off_while_the_teacher_reads(models):
    run = make_run(models, "opd", gradient_checkpointing=True)
    trainer = OPD.build(run, OPD.config())
    teacher = open_whole_teacher(own("student")[0], trainer.student)
    switched = trainer.student.net.switched
    assert switched
    seen = []
    switched[0].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    micro = trainer.student.micro_batches(trainer.collate(random_groups(250)))[0]
    trainer.student.net.train()
    teacher.linear_head(micro)
    assert seen == [False]
    assert switched[0].training


def test_the_average_follows_by_its_rate(models):
    """theta' <- 3/4 theta' + 1/4 theta after each step, in float64 by hand."""
    trainer, average = averaging(models, learning_rate=0.1)
    expected = {name: tensor.double() for name, tensor in average.state().items()}
    for step in range(2):
        trainer.update(random_groups(250, seed=step), step)
        for name, parameter in trainer.student.net.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * parameter.detach().double()
    for name, found in average.state().items():
        assert float((found - expected[name]).abs().max()) < 1e-6
    assert not same_weights(average.state(), dict(trainer.student.net.named_parameters()))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, not ours
def test_adapters_are_averaged_and_their_base_is_shared(models):
    trainer, average = averaging(models, lora={"r": 4, "alpha": 8})
    assert all("lora_" in name for name in average.state())
    ours = dict(average.net.named_parameters())
    for name, parameter in trainer.student.net.named_parameters():
        assert (ours[name] is parameter) == (not parameter.requires_grad)
    assert not any(parameter.requires_grad for name, parameter in ours.items() if "lora_" in name)


def test_a_step_that_changes_nothing_moves_no_average(models):
    trainer, average = averaging(models)
    trainer.update(random_groups(250), 0)
    before = average.state()
    flat = [replace(g, members=g.members[:1]) for g in random_groups(250)]  # nothing to compare with
    assert trainer.update(flat, 1).metrics["updates"] == 1.0
    assert same_weights(before, average.state())


def test_a_checkpoint_restores_the_average_to_the_bit(models, tmp_path):
    trainer, average = averaging(models)
    trainer.update(random_groups(250), 0)
    trainer.save(tmp_path)
    other, restored = averaging(models)
    assert not same_weights(average.state(), restored.state())
    other.load(tmp_path)
    assert same_weights(average.state(), restored.state())
    for step in (1, 2):
        groups = random_groups(250, seed=step)
        assert trainer.update(groups, step).metrics == other.update(groups, step).metrics
    assert same_weights(average.state(), restored.state())
    assert same_weights(student_weights(trainer), student_weights(other))


def test_a_damaged_average_is_refused(models, tmp_path):
    trainer, average = averaging(models)
    trainer.save(tmp_path)
    (tmp_path / "averages.pt").write_bytes(b"torn")
    with pytest.raises(CorruptData, match="damaged"):
        averaging(models)[0].load(tmp_path)
    with pytest.raises(CorruptData, match="does not fit the model"):
        average.load_state({"odd": torch.zeros(1)})


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({}, "backend 'hf' needs model_name_or_path"),
        ({"backend": "student", "model_name_or_path": "x"}, "own student; remove model_name_or_path"),
        ({"backend": "ema", "dtype": "float16"}, "own student; remove dtype"),
        ({"backend": "ema", "rate": 0.0}, "greater than 0"),
        ({"model_name_or_path": "x", "rate": 0.1}, "'rate' is used by backend 'ema' only"),
        ({"backend": "student", "base_url": "http://x"}, "backend 'server' needs base_url"),
    ],
)
def test_keys_that_make_no_sense_are_refused(teacher, words):
    with pytest.raises(ConfigError, match=words):
        validate(TeacherConfig, teacher)


@pytest.mark.parametrize("backend", ["hf", "student", "ema"])
def test_a_resolved_configuration_is_a_valid_input(backend):
    given = {"model_name_or_path": "x"} if backend == "hf" else {"backend": backend}
    config = validate(TeacherConfig, given)
    assert validate(TeacherConfig, config.model_dump(mode="json")) == config


@pytest.mark.parametrize("backend", ["student", "ema"])
def test_the_student_is_no_teacher_where_it_reads_nothing_more(models, backend):
    run = make_run(models, "opd", teacher=None).model_copy(update={"teachers": own(backend)})
    with pytest.raises(UsageError, match="could teach it nothing; name a model"):
        OPD.build(run, OPD.config())


def test_a_sharded_student_is_refused_by_the_dry_run_and_by_the_teacher(models, tmp_path):
    config = TrainConfig(
        algorithm="sdar",
        output_dir=str(tmp_path / "run"),
        model_name_or_path=models["student"],
        env={"name": "corridor", "split": "train"},
        teachers=({"backend": "ema"},),
        fsdp=True,
    )
    file = tmp_path / "run.json"
    file.write_text(config.model_dump_json())
    with pytest.raises(ConfigError, match="set fsdp: false"):
        main(file, [], dry_run=True)
    trainer = OPD.build(make_run(models, "opd"), OPD.config())
    trainer.student.processes.fsdp = True
    with pytest.raises(UsageError, match="fsdp keeps in shards"):
        MovingAverage(trainer.student, 0.05)
