"""The vllm teacher against the local one."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer_cases import make_run, make_student, random_groups  # noqa: E402

from agentbench.errors import TrainingError, UsageError  # noqa: E402
from agentbench.models.tiny import make_model, make_tokenizer  # noqa: E402
from agentbench.trainers.batch.tables import collate  # noqa: E402
from agentbench.trainers.teachers.local import LocalTeacher  # noqa: E402
from agentbench.trainers.teachers.open import open_teacher  # noqa: E402
from agentbench.trainers.teachers.vllm import VLLMTeacher  # noqa: E402
from agentbench.training.config import TeacherConfig  # noqa: E402


@pytest.fixture(scope="module")
def models(folders):
    return {"student": str(folders["untied"]), "teacher": str(folders["tied"])}


@pytest.fixture(scope="module")
def student(models):
    return make_student(models, tokens_per_micro_batch=256)


@pytest.fixture(scope="module")
def config(models):
    return TeacherConfig(model_name_or_path=models["teacher"], backend="vllm", engine_options={"slots": 8})


@pytest.fixture(scope="module")
def teacher(config, student):
    return open_teacher(config, student)


@pytest.fixture(scope="module")
def local(models, student):
    return LocalTeacher(TeacherConfig(model_name_or_path=models["teacher"]), student)


@pytest.mark.parametrize("top_k", [0, 5, 64])
def test_scores_are_the_local_teachers(teacher, local, student, top_k):
    assert isinstance(teacher, VLLMTeacher)
    batch = collate(random_groups(250, groups=40), student.pad_id)
    assert len(batch.tokens_BT) > 64  # more rows than are handed over at a time
    ours, theirs = teacher.score(batch, top_k), local.score(batch, top_k)
    assert torch.allclose(ours.logp_BT, theirs.logp_BT, atol=1e-4)
    assert ours.logp_BT[~batch.mask_BT].abs().sum() == 0
    assert ours.entropy_BT is None
    if not top_k:
        assert ours.topk_ids_BTK is None
        return
    assert torch.allclose(ours.topk_logp_BTK, theirs.topk_logp_BTK, atol=1e-4)
    # two ids whose log-probs are equal up to rounding may change places
    same = ours.topk_ids_BTK == theirs.topk_ids_BTK
    assert same[batch.mask_BT].float().mean() > 0.999


def test_rows_up_to_the_longest_context_are_scored_and_longer_ones_refused(teacher, local, student):
    batch = collate(random_groups(250), student.pad_id)
    for width in (400, 401):
        wide = _widened(batch, width)
        if width > 400:
            with pytest.raises(UsageError, match="rows of 2 to 400 tokens"):
                teacher.score(wide)
        else:
            assert torch.allclose(teacher.score(wide).logp_BT, local.score(wide).logp_BT, atol=1e-4)


def _widened(batch, width):
    """The first row grown to `width` tokens, all trained but the first."""
    from dataclasses import replace

    torch.manual_seed(0)
    turn_BT = torch.full((1, width), int(batch.turn_BT.max()))
    turn_BT[:, 0] = -1
    tokens_BT = torch.randint(0, 250, (1, width))
    return replace(batch, tokens_BT=tokens_BT, turn_BT=turn_BT, length_B=torch.tensor([width]))


def test_a_broken_engine_stops_the_training_and_names_the_teacher(teacher, student, monkeypatch):
    def broken():
        raise RuntimeError("out of something")

    monkeypatch.setattr(teacher.engine._backend, "step", broken)
    with pytest.raises(
        TrainingError, match=r"teacher .*tied' could not score a row: RuntimeError: out of something"
    ):
        teacher.score(collate(random_groups(250), student.pad_id))


def test_what_it_cannot_do_is_refused(teacher, config, models, student):
    with pytest.raises(UsageError, match="top_k = 1000 must lie in"):
        teacher.score(collate(random_groups(250), student.pad_id), top_k=1000)
    run = make_run(models, "opd", rollout={"temperature": 0.7})
    hot = type(student)(run, student.processes, temperature=0.7)
    with pytest.raises(UsageError, match=r"scores at temperature 1, but the student samples at 0\.7"):
        VLLMTeacher(config, hot)


def test_another_tokenizer_is_refused(config, student, tmp_path):
    make_model(tmp_path, make_tokenizer(tmp_path, [], entities=["cabinet 1"]), hidden=64, layers=1, heads=2)
    other = config.model_copy(update={"model_name_or_path": str(tmp_path)})
    with pytest.raises(UsageError, match="another tokenizer"):
        VLLMTeacher(other, student)
