"""Kinds of models: heads, dropout, buffers, experts, positions; each against the plain model in float64."""

import json
import math

import pytest
import torch
import transformers
from safetensors import safe_open
from trainer_cases import assert_close, make_run, naive, random_groups

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import build as hf_engine
from agentbench.errors import UsageError
from agentbench.models.loading import open_model
from agentbench.models.vocabulary import vocabulary_of
from agentbench.trainers import gkd, grpo, opd, sft
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.student import checkpoint
from agentbench.trainers.student.form import head_form
from agentbench.trainers.student.hidden import load
from agentbench.trainers.student.processes import Processes
from agentbench.trainers.student.student import Student
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.training.config import LoraSettings, TeacherConfig
from agentbench.types import SamplingParams

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.15,
}  # fmt: skip
EXPERTS = {
    "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "initializer_range": 0.15}

HEADS = {
    "cap": ("Gemma2Config", {**SHAPE, "head_dim": 8, "final_logit_softcapping": 5.0}),
    "scale": ("CohereConfig", {**SHAPE, "logit_scale": 0.25}),
    "divisor": ("GraniteConfig", {**SHAPE, "logits_scaling": 6.0}),
    "bias": ("PhiConfig", SHAPE),
}


def write(folder, tokenizer, kind, changes, *, rows=None, dtype=None, seed=0):
    """Save a random model of a kind, its biases too."""
    ends = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    config = getattr(transformers, kind)(vocab_size=rows or len(tokenizer), **ends, **changes)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_()
    model.to(dtype or torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def student_of(folder, temperature=1.0, **values):
    run = make_run({"student": folder}, "opd", teacher=None, **values)
    return Student(run, Processes(1), temperature=temperature)


def reference(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("rows", [None, 280])
def test_heads_are_computed_with_their_gradient(models, tmp_path, name, rows):
    tokenizer = models["tokenizer"]
    folder = write(tmp_path, tokenizer, *HEADS[name], rows=rows)
    student, plain = student_of(folder, 0.8), reference(folder)
    batch = collate(random_groups(len(tokenizer)), student.pad_id)
    logp_BT, entropy_BT = naive(plain, batch, 0.8, len(tokenizer))
    scores = student.score(batch)
    assert torch.allclose(scores.logp_BT.double(), logp_BT, atol=1e-5)
    assert torch.allclose(scores.entropy_BT.double(), entropy_BT, atol=1e-5)
    (micro,) = student.micro_batches(batch)
    student.logprobs(micro)[0].sum().backward()
    logp_BT.sum().backward()
    ours = {n: p.grad.double() for n, p in student.net.plain.named_parameters()}
    assert_close(ours, {n: p.grad for n, p in plain.named_parameters()}, tolerance=1e-4)
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=folder), student)
    said = teacher.score(batch, top_k=3)
    assert torch.allclose(said.logp_BT.double(), logp_BT.detach(), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_divergence_between_such_heads_has_the_naive_gradient(models, tmp_path, name):
    tokenizer = models["tokenizer"]
    folder = write(tmp_path / "student", tokenizer, *HEADS[name], seed=1)
    other = write(tmp_path / "teacher", tokenizer, *HEADS[name], seed=2)
    run = make_run({"student": folder, "teacher": other}, "gkd", max_grad_norm=1e9)
    trainer = gkd.SPEC.build(run, gkd.SPEC.config(divergence="reverse_kl"))
    groups = random_groups(len(tokenizer), groups=1, members=2)
    batch = collate(groups, trainer.student.pad_id)
    found = {}
    named = dict(trainer.student.net.plain.named_parameters())
    trainer.student.optimizer.step = lambda: found.update({n: p.grad.double() for n, p in named.items()})
    trainer.update(groups, 0)
    student, teacher = reference(folder), reference(other)
    q, p = (model(input_ids=batch.tokens_BT).logits.log_softmax(-1)[:, :-1] for model in (student, teacher))
    value_BT = (q.exp() * (q - p.detach())).sum(-1)
    mask_BT = batch.mask_BT[:, 1:]
    ((value_BT * mask_BT).sum() / mask_BT.sum()).backward()
    assert_close(found, {n: p.grad for n, p in student.named_parameters()}, tolerance=2e-4)


def test_small_logits_do_not_hide_a_cap(models, tmp_path):
    # as initialised, logits are near 0 and 30 tanh(z / 30) is z: numbers of one state do not tell
    kind, changes = HEADS["cap"]
    changes = {**changes, "initializer_range": 0.002, "final_logit_softcapping": 30.0}
    model, _ = open_model(write(tmp_path, models["tokenizer"], kind, changes))
    form = head_form(model, "m")
    assert (form.scale, form.cap) == (1.0, 30.0)


def test_heads_of_another_form_are_refused_by_name(models):
    class Squaring(torch.nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            return z * z.abs()

    model, _ = open_model(models["student"])
    head = Squaring(32, model.lm_head.out_features, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    with pytest.raises(
        UsageError, match=r"logits of model 'odd' .* are not its hidden states times its head"
    ):
        head_form(model, "odd")


# --- ids --------------------------------------------------------------------------------------------------------------


def test_padding_and_holes_have_no_part_in_losses(models, tmp_path):
    folder = write(tmp_path, models["tokenizer"], "Qwen3Config", {**SHAPE, "head_dim": 8}, rows=300)
    student = student_of(folder)
    exists = list(range(40)) + list(range(60, 259))
    student.vocabulary = vocabulary_of(Ids(exists), 300)
    student.net = type(student.net)(student.net.model, student.dtype, vocabulary=student.vocabulary)
    student.runner = student.net
    batch = collate(random_groups(40), student.pad_id)
    plain = reference(folder)
    logits_BTV = torch.full((*batch.tokens_BT.shape, 300), -math.inf, dtype=torch.float64)
    logits_BTV[..., exists] = plain(input_ids=batch.tokens_BT).logits[..., exists].detach()
    want_BT = torch.zeros(batch.tokens_BT.shape, dtype=torch.float64)
    table = logits_BTV.log_softmax(-1)[:, :-1]
    want_BT[:, 1:] = table.gather(2, batch.tokens_BT[:, 1:, None])[..., 0]
    assert torch.allclose(student.score(batch).logp_BT.double(), want_BT * batch.mask_BT, atol=1e-5)
    (micro,) = student.micro_batches(batch)
    student.logprobs(micro)[0].sum().backward()
    grad_VD = student.net.plain.get_output_embeddings().weight.grad
    assert float(grad_VD[40:60].abs().max()) == 0.0 or student.net.plain.config.tie_word_embeddings
    assert float(grad_VD[259:].abs().max()) == 0.0


class Ids:
    def __init__(self, ids):
        self.ids = ids

    def get_vocab(self):
        return {str(i): i for i in self.ids}


def test_a_teacher_with_more_tokens_is_allowed_when_asked_for(models, tmp_path):
    from agentbench.models.tiny import make_tokenizer

    more = make_tokenizer(tmp_path / "tokenizer", [], entities=["cabinet 1", "mug 2"])
    folder = write(tmp_path / "m", more, "Qwen3Config", {**SHAPE, "head_dim": 8})
    student = student_of(models["student"])
    with pytest.raises(UsageError, match=r"teachers.extra_tokens: ignore"):
        LocalTeacher(TeacherConfig(model_name_or_path=folder), student)
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=folder, extra_tokens="ignore"), student)
    batch = collate(random_groups(250), student.pad_id)
    logp_BT, _ = naive(reference(folder), batch, 1.0, len(models["tokenizer"]))  # over the student's ids
    scores = teacher.score(batch, top_k=259)
    assert torch.allclose(scores.logp_BT.double(), logp_BT.detach(), atol=1e-5)
    assert int(scores.topk_ids_BTK.max()) < 259
    small = student_of(folder)
    with pytest.raises(UsageError, match="distillation needs the same vocabulary"):
        LocalTeacher(TeacherConfig(model_name_or_path=models["teacher"], extra_tokens="ignore"), small)


# --- what is trained is what is saved and served ----------------------------------------------------------------------


def tensors_of(folder):
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)


@pytest.mark.parametrize("kind", ["Glm4MoeConfig", "DeepseekV3Config"])
def test_checkpoints_hold_every_tensor_of_the_source(models, tmp_path, kind):
    latent = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    changes = {**SHAPE, **EXPERTS, **(latent | {"num_key_value_heads": 4} if kind.startswith("D") else {})}
    folder = write(tmp_path / "m", models["tokenizer"], kind, changes)
    student = student_of(folder)
    assert any(name.endswith("e_score_correction_bias") for name, _ in student.weights())
    checkpoint.save(tmp_path / "c", student, {"algorithm": "opd"})
    source, kept = tensors_of(folder), tensors_of(tmp_path / "c")
    assert kept.keys() == source.keys()
    assert all(torch.equal(kept[name], source[name]) for name in source)
    engine = hf_engine(folder)
    with torch.no_grad():
        for _, tensor in student.weights():
            tensor.mul_(1.05)
    engine.load_weights(student.weights())
    row = [5, 6, 7, 8, 9, 10]
    assert engine.score(row) == pytest.approx(student.score_tokens(row), abs=1e-5)


def move(student, std=0.02):
    """Give the adapters something to say."""
    torch.manual_seed(0)
    for parameter in student.trained:
        torch.nn.init.normal_(parameter, std=std)


@pytest.mark.parametrize("kind", ["Qwen3MoeConfig", "GPT2Config", "Qwen3Config"])
def test_adapters_of_every_kind_are_served_as_they_are_trained(models, tmp_path, kind):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8}
    changes = {"GPT2Config": GPT2, "Qwen3MoeConfig": {**SHAPE, **experts}}.get(kind, {**SHAPE, "head_dim": 8})
    folder = write(tmp_path / "m", models["tokenizer"], kind, changes)
    student = student_of(folder, lora=LoraSettings(r=4, alpha=16))
    move(student, 0.2)
    engine = hf_engine(folder)
    row = [5, 6, 7, 8, 9, 10]
    before = engine.score(row)
    engine.load_weights(student.weights())
    assert engine.score(row) == pytest.approx(student.score_tokens(row), abs=1e-5)
    assert max(abs(a - b) for a, b in zip(engine.score(row), before, strict=True)) > 1e-2
    assert [name for name, _ in student.weights()] == list(student.places.names)
    checkpoint.save(tmp_path / "c", student, {"algorithm": "opd"})
    assert hf_engine(str(tmp_path / "c")).score(row) == pytest.approx(student.score_tokens(row), abs=1e-5)
    again = student_of(folder, lora=LoraSettings(r=4, alpha=16))
    checkpoint.load(tmp_path / "c", again)
    assert all(torch.equal(a, b) for a, b in zip(again.trained, student.trained, strict=True))


def test_an_adapter_folder_is_peft_s_own(models, tmp_path):
    from peft import PeftModel

    student = student_of(models["student"], lora=LoraSettings(r=4, alpha=16))
    move(student, 0.2)
    checkpoint.save(tmp_path / "c", student, {"algorithm": "opd"})
    base = transformers.AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(tmp_path / "c" / "adapter")).eval()
    config = json.loads((tmp_path / "c" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == models["student"]
    row = torch.tensor([[5, 6, 7, 8, 9, 10]])
    logp_TV = tuned(input_ids=row).logits[0, :-1].log_softmax(-1)
    wanted = logp_TV.gather(1, row[0, 1:, None])[:, 0].tolist()
    assert student.score_tokens(row[0].tolist()) == pytest.approx(wanted, abs=1e-5)


def test_a_low_precision_base_loses_nothing_of_the_update_in_float32(models, tmp_path):
    shape = {**SHAPE, "head_dim": 8}
    folder = write(tmp_path / "m", models["tokenizer"], "Qwen3Config", shape, dtype=torch.bfloat16)
    served = {"engine_options": {"dtype": "float32"}}
    for rollout, lossy in ((served, False), ({}, True)):
        student = student_of(folder, bf16=True, lora=LoraSettings(r=4, alpha=16), rollout=rollout)
        move(student, 0.002)
        name = "model.layers.0.self_attn.q_proj.weight"
        layer = student.net.plain.model.layers[0].self_attn.q_proj
        assert layer.base_layer.weight.dtype == torch.bfloat16  # frozen: kept as the source has it
        delta = layer.get_delta_weight("default").detach().float()
        wanted = layer.base_layer.weight.detach().float() + delta
        checkpoint.save(tmp_path / f"c{lossy}", student, {"algorithm": "opd"})
        (given,) = [tensor for key, tensor in student.weights() if key == name]
        kept = tensors_of(tmp_path / f"c{lossy}")[name]
        assert float((given - wanted).norm() / delta.norm()) < 1e-3
        error = float((kept.float() - wanted).norm() / delta.norm())
        if lossy:
            assert kept.dtype == torch.bfloat16
            assert error > 0.1
            assert 0.1 < student.merge_error < 10  # measured, and an alarm tells of it
        else:
            assert kept.dtype == torch.float32
            assert error < 1e-3
            assert student.merge_error is None


def test_a_float32_base_is_not_rounded_under_adapters(models):
    student = student_of(models["student"], bf16=True, lora=LoraSettings(r=4, alpha=16))
    source = dict(reference(models["student"]).named_parameters())
    for name, tensor in student.weights():
        assert torch.equal(tensor.double(), source[name]), name


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4, alpha=16)])
def test_checkpoints_keep_the_sources_dtype_and_resume_exactly(models, tmp_path, lora):
    shape = {**SHAPE, "head_dim": 8}
    folder = write(tmp_path / "m", models["tokenizer"], "Qwen3Config", shape, dtype=torch.bfloat16)
    student = student_of(folder, lora=lora)
    with torch.no_grad():
        for parameter in student.trained:
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    checkpoint.save(tmp_path / "c", student, {"algorithm": "opd"})
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "c").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "c" / "config.json").read_text())["dtype"] == "bfloat16"
    # the engine of the run, given the weights, answers as the engine of an evaluation, given the checkpoint
    engine, later = hf_engine(folder), hf_engine(str(tmp_path / "c"))
    engine.load_weights(student.weights())
    asked = [Request(str(i), (5, 6, 7), SamplingParams(max_new_tokens=12), i) for i in range(4)]
    assert [a.token_ids for a in sample(engine, asked)] == [a.token_ids for a in sample(later, asked)]
    again = student_of(folder, lora=lora)
    checkpoint.load(tmp_path / "c", again)
    assert all(torch.equal(a, b) for a, b in zip(again.trained, student.trained, strict=True))


def test_a_base_that_changed_since_is_refused_on_resume(models, tmp_path):
    folder = write(tmp_path / "m", models["tokenizer"], "Qwen3Config", {**SHAPE, "head_dim": 8})
    lora = LoraSettings(r=4, alpha=16)
    checkpoint.save(tmp_path / "c", student_of(folder, lora=lora), {"algorithm": "opd"})
    write(tmp_path / "m", models["tokenizer"], "Qwen3Config", {**SHAPE, "head_dim": 8}, seed=9)
    with pytest.raises(UsageError, match=r"are not those that the run of checkpoint .* started with"):
        checkpoint.load(tmp_path / "c", student_of(folder, lora=lora))


@pytest.mark.parametrize(
    ("targets", "tie", "words"),
    [
        (["lm_head"], False, "'lm_head', which is the head"),
        (["lm_head", "q_proj"], True, "'lm_head', which is shared with the head"),
        (["embed_tokens", "q_proj"], True, "'embed_tokens', which is shared with the head"),
        (["no_such_layer"], False, "lora: "),
    ],
)
def test_adapters_that_would_not_be_trained_are_refused(models, tmp_path, targets, tie, words):
    shape = {**SHAPE, "head_dim": 8, "tie_word_embeddings": tie}
    folder = write(tmp_path, models["tokenizer"], "Qwen3Config", shape)
    with pytest.raises(UsageError, match=words):
        student_of(folder, lora=LoraSettings(r=4, target_modules=targets))


def jamba(folder, tokenizer):
    shape = {key: value for key, value in SHAPE.items() if key != "initializer_range"}
    kinds = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8}
    return write(
        folder, tokenizer, "JambaConfig", {**shape, **kinds, "num_experts": 4, "use_mamba_kernels": False}
    )


def test_adapters_on_weights_that_the_model_reads_itself_are_refused(models, tmp_path):
    """Mamba's step sizes: the weight below the adapter is multiplied without calling the layer."""
    folder = jamba(tmp_path, models["tokenizer"])
    with pytest.raises(UsageError, match=r"reads the weight of 'model.layers.0.mamba.dt_proj' itself"):
        student_of(folder, lora=LoraSettings(r=4, alpha=16))
    student = student_of(
        folder, lora=LoraSettings(r=4, alpha=16, target_modules=["in_proj", "out_proj", "x_proj"])
    )
    move(student, 0.2)
    engine = hf_engine(folder)
    engine.load_weights(student.weights())
    row = [5, 6, 7, 8, 9, 10]
    assert engine.score(row) == pytest.approx(student.score_tokens(row), abs=1e-5)


def test_a_base_with_an_adapter_beside_its_weights_is_refused(models, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = write(tmp_path, models["tokenizer"], "LlamaConfig", SHAPE)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    for lora in (None, LoraSettings(r=4)):
        with pytest.raises(UsageError, match=r"adapter_config\.json.* merge it first"):
            student_of(folder, lora=lora)


def in_eight_bits(folder):
    """Rewrite layers as blocks of float8 with a scale each, as DeepSeek-V3 is published; returns the weights."""
    from safetensors.torch import load_file, save_file

    path, stored, exact = folder / "model.safetensors", {}, {}
    for name, tensor in load_file(path).items():
        stored[name] = exact[name] = tensor.to(torch.bfloat16)
        if "_proj" in name:
            rows, columns = tensor.shape
            blocks = tensor.view(rows // 128, 128, columns // 128, 128)
            scale = blocks.abs().amax((1, 3)) / 448
            packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            stored |= {name: packed.reshape(rows, columns), f"{name}_scale_inv": scale}
            exact[name] = (packed.float() * scale[:, None, :, None]).reshape(rows, columns)
    save_file(stored, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    config |= {"dtype": "bfloat16", "quantization_config": quantised}
    (folder / "config.json").write_text(json.dumps(config))
    return exact


@pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 17),
    reason="transformers 5.16 cannot read this folder itself",
)
def test_a_quantised_base_is_refused_and_acts_and_teaches_rightly(models, tmp_path):
    """Saved again by transformers it would be neither what was trained nor marked as quantised."""
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    folder = write(tmp_path, models["tokenizer"], "LlamaConfig", {**SHAPE, **wide})
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    plain.load_state_dict(in_eight_bits(tmp_path), strict=False)
    for lora in (None, LoraSettings(r=4)):
        with pytest.raises(UsageError, match=r"is quantised \(fp8\): it can act and teach"):
            student_of(folder, lora=lora)
    row = [5, 6, 7, 8, 9, 10]
    with torch.no_grad():
        logp = plain.double()(torch.tensor([row]), use_cache=False).logits[0].log_softmax(-1)
    wanted = [float(logp[at, token]) for at, token in enumerate(row[1:])]
    assert hf_engine(folder, dtype="float32").score(row) == pytest.approx(wanted, abs=1e-5)
    teacher = load(folder, torch.float32, torch.device("cpu"))
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RobertaConfig", "something else is done here"),
        ("RemBertConfig", "does not take its decoder's hidden states|is not causal"),
    ],
)
def test_heads_behind_another_layer_are_refused_by_name(models, tmp_path, kind, words):
    wide = {"output_embedding_size": 48, "input_embedding_size": 32} if kind == "RemBertConfig" else {}
    shape = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
    folder = write(
        tmp_path,
        models["tokenizer"],
        kind,
        {**shape, **wide, "max_position_embeddings": 1024, "is_decoder": True},
    )
    with pytest.raises(UsageError, match=words) as refused:
        student_of(folder)
    assert kind.removesuffix("Config") in str(refused.value)


def test_an_adapter_on_a_free_embedding_is_trained_and_served(models, tmp_path):
    shape = {**SHAPE, "head_dim": 8, "tie_word_embeddings": False}
    folder = write(tmp_path, models["tokenizer"], "Qwen3Config", shape)
    student = student_of(folder, lora=LoraSettings(r=4, target_modules=["embed_tokens", "q_proj"]))
    move(student, 0.2)
    engine = hf_engine(folder)
    engine.load_weights(student.weights())
    row = [5, 6, 7, 8, 9, 10]
    assert engine.score(row) == pytest.approx(student.score_tokens(row), abs=1e-5)


# --- dropout, temperature, positions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("GPT2Config", {**GPT2, "resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}),
        ("OPTConfig", {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "max_position_embeddings": 256, "word_embed_proj_dim": 32, "dropout": 0.3, "layerdrop": 0.3,
                       "init_std": 0.15}),
        ("Qwen3Config", {**SHAPE, "head_dim": 8, "attention_dropout": 0.3}),
    ],
)  # fmt: skip
def test_dropout_is_never_on_for_a_policy_that_is_scored(models, tmp_path, kind, changes, checkpointing):
    folder = write(tmp_path, models["tokenizer"], kind, changes)
    both = {"student": folder, "teacher": folder}
    run = make_run(both, "opd", gradient_checkpointing=checkpointing, learning_rate=1e-9)
    trainer = opd.SPEC.build(run, opd.SPEC.config())
    metrics = trainer.update(random_groups(len(models["tokenizer"])), 0).metrics
    # teacher = student: nothing to learn, and the only step is skipped
    assert metrics["teacher_gap"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(0.0, abs=1e-4)
    run = make_run(both, "grpo", teacher=None, learning_rate=1e-9, gradient_checkpointing=checkpointing)
    trainer = grpo.SPEC.build(run, grpo.SPEC.config())
    metrics = trainer.update(random_groups(len(models["tokenizer"])), 0).metrics
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["clip_share"] == 0.0


def test_recomputed_layers_recompute(models):
    student = student_of(models["student"], gradient_checkpointing=True)
    student.net.train()
    layers = list(student.net.plain.model.layers)
    assert all(layer.training for layer in layers)
    assert not any(part.training for layer in layers for part in layer.children())
    assert not student.net.training
    student.net.eval()
    assert not any(module.training for module in student.net.modules())


def test_dropout_of_adapters_is_for_cloning_alone(models):
    lora = LoraSettings(r=4, alpha=16, dropout=0.5)
    with pytest.raises(UsageError, match=r"lora.dropout = 0.5: .* set it to 0"):
        student_of(models["student"], lora=lora)
    run = make_run(models, "sft", teacher=None, lora=lora)
    net = sft.SPEC.build(run, sft.SPEC.config(mode="dagger")).student.net
    assert sum(module.training for module in net.train().modules()) == sum(
        isinstance(module, torch.nn.Dropout) for module in net.modules()
    )


@pytest.mark.parametrize("tail", ["tail", "renormalise", "ignore"])
def test_all_ids_of_top_k_are_the_full_vocabulary_at_any_temperature(models, tail):
    groups = random_groups(250)
    losses = {}
    for support, keys in (("full", {}), ("top_k", {"k": 259, "tail": tail})):
        run = make_run(models, "gkd", rollout={"temperature": 0.5})
        trainer = gkd.SPEC.build(run, gkd.SPEC.config(support=support, divergence="forward_kl", **keys))
        losses[support] = trainer.update(groups, 0).metrics["loss"]
    assert losses["top_k"] == pytest.approx(losses["full"], abs=1e-4)


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_positions_that_long_rows_rescale_are_refused_with_the_number(models, tmp_path, rope):
    shape = {**SHAPE, "max_position_embeddings": 128}
    if rope == "longrope":
        shape |= {"original_max_position_embeddings": 32, "max_position_embeddings": 128}
        shape["rope_parameters"] = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
                                    "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}  # fmt: skip
        folder = write(tmp_path, models["tokenizer"], "Phi3Config", shape)
        with pytest.raises(UsageError, match=r"engine_options.max_context: 32"):
            student_of(folder)
        limit = 32
    else:
        shape["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        folder = write(tmp_path, models["tokenizer"], "LlamaConfig", shape)
        limit = 128
    student = student_of(folder, rollout={"engine_options": {"max_context": limit}})
    assert student.net.rescaled.limit == limit
    with pytest.raises(UsageError, match=f"a row of {limit + 1} tokens is longer than {limit}"):
        student.score_tokens([5] * (limit + 2))
    row = list(range(5, 25))
    plain = reference(folder)(input_ids=torch.tensor([row])).logits[0, :-1].log_softmax(-1)
    wanted = plain.gather(1, torch.tensor(row)[1:, None])[:, 0].tolist()
    assert student.score_tokens(row) == pytest.approx(wanted, abs=1e-5)
