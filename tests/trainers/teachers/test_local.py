import pytest
import torch
from spoken import GROWING, prompted, spoken_groups
from trainer_cases import make_run, make_student, naive, random_groups, write_model
from transformers import AutoModelForCausalLM

from agentbench.errors import UsageError
from agentbench.models.tiny import make_tokenizer
from agentbench.registry import trainer_spec
from agentbench.trainers.batch.micro import micro_batches
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.training.config import TeacherConfig


def test_scores_and_top_k_are_the_models_own(models):
    student = make_student(models, tokens_per_micro_batch=64)
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=models["teacher"]), student)
    batch = collate(random_groups(250), student.pad_id)
    scores = teacher.score(batch, top_k=5)
    model = AutoModelForCausalLM.from_pretrained(models["teacher"], dtype=torch.float64)
    logp_BT, entropy_BT = naive(model, batch, 1.0, student.vocab_size)
    assert torch.allclose(scores.logp_BT.double(), logp_BT, atol=1e-5)
    assert torch.allclose(scores.entropy_BT.double(), entropy_BT, atol=1e-5)
    best = model(input_ids=batch.tokens_BT).logits.log_softmax(-1).topk(5, dim=-1)
    row, column = batch.mask_BT.nonzero(as_tuple=True)
    assert torch.equal(scores.topk_ids_BTK[row, column], best.indices[row, column - 1])
    ours, theirs = scores.topk_logp_BTK[row, column].double(), best.values[row, column - 1]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_teacher_is_frozen(models):
    student = make_student(models)
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=models["teacher"]), student)
    assert not any(parameter.requires_grad for parameter in teacher.net.parameters())
    assert not teacher.net.training


def test_other_tokenizer_is_refused_naming_the_first_id(models, tmp_path):
    size = len(models["tokenizer"])
    other = make_tokenizer(tmp_path / "tokenizer", [], entities=["cabinet 1"])
    folder = write_model(tmp_path / "model", other)
    student = make_student(models)
    with pytest.raises(UsageError, match=f"id {size} is .* for the teacher and None for the student"):
        LocalTeacher(TeacherConfig(model_name_or_path=folder), student)


def test_swapped_tokens_are_refused_naming_the_first_id(models, tmp_path):
    one = make_tokenizer(tmp_path / "one", [], entities=["cup 1", "mug 1"])
    two = make_tokenizer(tmp_path / "two", [], entities=["mug 1", "cup 1"])
    first = one.convert_tokens_to_ids("cup 1")
    student = make_student(models | {"student": write_model(tmp_path / "s", one)})
    with pytest.raises(
        UsageError, match=f"id {first} is 'mug 1' for the teacher and 'cup 1' for the student"
    ):
        LocalTeacher(TeacherConfig(model_name_or_path=write_model(tmp_path / "t", two)), student)


def test_padded_vocabulary_rows_are_fine(models, tmp_path):
    padded = write_model(tmp_path, models["tokenizer"], vocab=len(models["tokenizer"]) + 61)
    student = make_student(models)
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=padded), student)
    batch = collate(random_groups(250), student.pad_id)
    model = AutoModelForCausalLM.from_pretrained(padded, dtype=torch.float64)
    logp_BT, _ = naive(model, batch, 1.0, student.vocab_size)
    assert torch.allclose(teacher.score(batch).logp_BT.double(), logp_BT, atol=1e-5)


def test_more_ids_than_the_vocabulary_are_refused(models):
    student = make_student(models)
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=models["teacher"]), student)
    batch = collate(random_groups(250), student.pad_id)
    with pytest.raises(UsageError, match="top_k = 1000 must lie in"):
        teacher.score(batch, top_k=1000)


def test_run_without_exactly_one_teacher_is_refused(models):
    from agentbench.trainers.opd import SPEC

    with pytest.raises(UsageError, match="exactly one teacher, the run names 0"):
        SPEC.build(make_run(models, "opd", teacher=None), SPEC.config())


def test_a_teacher_elsewhere_scores_there_and_hands_its_distribution_over(models):
    """The student's device is played by torch's meta device: what ends up there, and nothing else, was sent there."""
    student = make_student(models)
    config = TeacherConfig(model_name_or_path=models["teacher"], device="cpu")
    teacher, plain = LocalTeacher(config, student), LocalTeacher(config, student)
    teacher.home = torch.device("meta")
    batch = collate(random_groups(250), student.pad_id)
    here, there = plain.score(batch, 3), teacher.score(batch, 3)
    assert torch.equal(here.logp_BT, there.logp_BT)
    assert torch.equal(here.topk_ids_BTK, there.topk_ids_BTK)
    (micro,) = micro_batches(batch, 10**6)
    sent = teacher.linear_head(micro)
    assert sent.hidden_ND.shape == plain.linear_head(micro).hidden_ND.shape
    assert {sent.hidden_ND.device.type, sent.head.weight_VD.device.type} == {"meta"}
    assert teacher.linear_head(micro).head is sent.head  # the copy is made once
    assert teacher.net.head.weight_VD.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["gkd", "opd", "mopd"])
def test_a_teacher_on_the_cpu_teaches_a_student_on_the_accelerator(long_models, algorithm):
    found = []
    for device in (None, "cpu"):
        spec = trainer_spec(algorithm)
        run = prompted(make_run(long_models, algorithm, max_grad_norm=1e9), GROWING)
        config = TeacherConfig(model_name_or_path=long_models["teacher"], device=device)
        run = run.model_copy(update={"teachers": (config,)})
        trainer = spec.build(
            run, spec.config(**({"k": 8, "block_tokens": 512} if algorithm == "mopd" else {}))
        )
        assert trainer.student.device.type == "cuda"
        assert trainer.teacher.device.type == (device or "cuda")
        found.append(trainer.gradient(spoken_groups(run, trainer.tokenizer)))
    for name, expected in found[0].items():
        assert abs(found[1][name] - expected).max() <= 1e-4 * abs(expected).max() + 1e-9, name


def test_a_device_that_is_not_there_is_refused(models):
    config = TeacherConfig(model_name_or_path=models["teacher"], device="toaster")
    with pytest.raises(UsageError, match=r"no teachers\.device 'toaster'; allowed: auto, cpu, cuda"):
        LocalTeacher(config, make_student(models))
    with pytest.raises(ValueError, match="'device' is used by backend 'hf' only"):
        TeacherConfig(backend="ema", device="cpu")


@pytest.mark.parametrize(
    ("algorithm", "keys"),
    [("gkd", {}), ("lsm", {"support": "student"}), ("opad", {}), ("mad_opd", {"rounds": 0}), ("mopd", {})],
)
@pytest.mark.parametrize("backend", ["server", "vllm"])
def test_whole_distributions_of_a_teacher_elsewhere_are_refused_before_anything_is_loaded(
    algorithm, keys, backend
):
    url = "http://localhost:1" if backend == "server" else None
    teacher = TeacherConfig(model_name_or_path="absent", backend=backend, base_url=url)
    run = make_run({"student": "absent"}, algorithm, teacher=None).model_copy(update={"teachers": (teacher,)})
    spec = trainer_spec(algorithm)
    with pytest.raises(UsageError, match=f"'{backend}'"):
        spec.refuse(run, spec.config(**keys))
