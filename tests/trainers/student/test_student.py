import pytest
import torch
from trainer_cases import (
    Reference,
    make_run,
    make_student,
    naive,
    random_groups,
    student_weights,
    write_model,
)
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import build as hf_engine
from agentbench.errors import UsageError
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.student.student import learning_rate
from agentbench.training.config import LoraSettings
from agentbench.types import Group, SamplingParams


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tie", [True, False])
def test_scores_are_the_models_own_without_padding_rows(models, tmp_path, temperature, tie):
    tokenizer = models["tokenizer"]
    folder = write_model(tmp_path, tokenizer, vocab=len(tokenizer) + 13, tie=tie)
    student = make_student(models | {"student": folder}, temperature, tokens_per_micro_batch=64)
    batch = collate(random_groups(len(tokenizer)), student.pad_id)
    scores = student.score(batch)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    logp_BT, entropy_BT = naive(model, batch, temperature, len(tokenizer))
    assert torch.allclose(scores.logp_BT.double(), logp_BT, atol=1e-5)
    assert torch.allclose(scores.entropy_BT.double(), entropy_BT, atol=1e-5)


def test_logprobs_carry_the_gradient(models):
    student = make_student(models)
    batch = collate(random_groups(250), student.pad_id)
    (micro,) = student.micro_batches(batch)
    logp_X, _ = student.logprobs(micro)
    logp_X.sum().backward()
    reference = Reference(models)
    logp_BT, _ = naive(reference.student, batch, 1.0, student.vocab_size)
    expected = reference.gradient(logp_BT.sum())
    for name, parameter in student.net.plain.named_parameters():
        assert torch.allclose(parameter.grad.double(), expected[name], rtol=1e-4, atol=1e-4), name


def test_models_with_another_base_attribute(models, tmp_path):
    tokenizer = models["tokenizer"]
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    student = make_student(models | {"student": str(tmp_path)})
    batch = collate(random_groups(len(tokenizer)), student.pad_id)
    logp_BT, _ = naive(student.net.plain, batch, 1.0, len(tokenizer))
    assert torch.allclose(student.score(batch).logp_BT, logp_BT, atol=1e-5)


def test_absent_model_is_one_line(models):
    with pytest.raises(UsageError, match="no folder '/nowhere/model'") as caught:
        make_student(models | {"student": "/nowhere/model"})
    assert "\n" not in str(caught.value)


def test_tokenizer_larger_than_the_model_is_refused(models, tmp_path):
    write_model(tmp_path, models["tokenizer"])
    config = AutoConfig.from_pretrained(tmp_path, vocab_size=200, pad_token_id=None, eos_token_id=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    folder = str(tmp_path)
    with pytest.raises(UsageError, match="they do not belong together"):
        make_student(models | {"student": folder})


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_behaviour_log_probs_are_the_students_own_before_the_first_update(models, temperature):
    engine = hf_engine(models["student"])
    groups = random_groups(len(models["tokenizer"]), groups=1)
    made = []
    for episode in groups[0].members:
        turn = episode.turns[0]
        asked = Request(episode.id, turn.context_ids, SamplingParams(temperature, max_new_tokens=6), 7)
        (action,) = sample(engine, [asked])
        made.append(_with_first_turn(episode, action))
    student = make_student(models, temperature)
    batch = collate([Group("g", 0, tuple(made))], student.pad_id)
    assert float((student.score(batch).logp_BT - batch.behaviour_BT).abs().max()) <= 1e-4
    assert float(batch.behaviour_BT.min()) < -0.1


def _with_first_turn(episode, action):
    from dataclasses import replace

    return replace(episode, turns=(replace(episode.turns[0], action=action),))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, not ours
def test_adapters_change_little_memory_and_merge_exactly(models):
    student = make_student(models, lora=LoraSettings(r=2, alpha=4))
    before = student_weights(student)
    for parameter in student.trained:
        torch.nn.init.normal_(parameter, std=0.3)
    assert sum(p.numel() for p in student.trained) < 0.3 * sum(p.numel() for p in student.net.parameters())
    merged = student_weights(student)
    plain = AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float32)
    assert set(merged) == set(dict(plain.named_parameters()))
    assert torch.equal(merged["model.norm.weight"], before["model.norm.weight"])
    plain.load_state_dict(merged, strict=False)
    batch = collate(random_groups(250), student.pad_id)
    expected_BT, _ = naive(plain, batch, 1.0, student.vocab_size)
    assert torch.allclose(student.score(batch).logp_BT, expected_BT, atol=1e-4)


def test_learning_rate_warms_up_and_falls_to_its_floor(models):
    run = make_run(
        models,
        "opd",
        learning_rate=2.0,
        warmup_steps=4,
        max_steps=11,
        lr_scheduler_type="linear",
        min_lr_ratio=0.1,
    )
    # warm-up: 1/4, 2/4, 3/4, 4/4 of 2; then from step 4 (2.0) to step 10 (0.2) in six equal steps of 0.3
    assert [learning_rate(run, step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert learning_rate(run, 4) == pytest.approx(2.0)
    assert learning_rate(run, 7) == pytest.approx(1.1)
    assert learning_rate(run, 10) == pytest.approx(0.2)
    assert learning_rate(run, 500) == pytest.approx(0.2)
    # half-way of the cosine: the middle of 2.0 and 0.2
    assert learning_rate(run.model_copy(update={"lr_scheduler_type": "cosine"}), 7) == pytest.approx(1.1)
    assert learning_rate(run.model_copy(update={"lr_scheduler_type": "constant"}), 7) == 2.0


def test_vectors_do_not_decay(models):
    student = make_student(models, weight_decay=0.3)
    decayed, free = student.optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert all(parameter.ndim < 2 for parameter in free["params"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_activation_checkpointing_and_bf16_score_alike(models):
    plain = make_student(models)
    batch = collate(random_groups(250), plain.pad_id)
    expected_BT = plain.score(batch).logp_BT
    assert torch.equal(make_student(models, gradient_checkpointing=True).score(batch).logp_BT, expected_BT)
    rough_BT = make_student(models, bf16=True).score(batch).logp_BT
    assert 1e-4 < float((rough_BT - expected_BT).abs().max()) < 0.3
