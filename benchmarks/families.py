"""Model families as student and as teacher, in engine and trainer: right to 1e-5 nats, or refused by name.

Tiny random models of each family, made from their transformers configuration, with a head padded by 64 rows beyond the
tokenizer. For each: the largest difference from a plain float32 forward over the ids that exist, of the engine's
log-probs (three growing conversations of three turns), the trainer's and a local teacher's; whether a checkpoint holds
the source's tensors; and the engine's difference from the trainer after an update, without and with adapters on all
linear layers. Usage: python benchmarks/families.py [NAME ...] --output results/families/table.json
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import build
from agentbench.errors import AgentBenchError
from agentbench.models.tiny import make_tokenizer
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.student import checkpoint
from agentbench.trainers.student.processes import Processes
from agentbench.trainers.student.student import Student
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.training.config import EnvConfig, LoraSettings, TeacherConfig, TrainConfig
from agentbench.types import Action, Group, SamplingParams, Trajectory, Turn

PADDING = 64
SCALE = 4.0
"""Matrices are multiplied by this: as initialised, models are nearly uniform and hide errors."""

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
          "first_k_dense_replace": 1, "head_dim": 8}  # fmt: skip
LINEAR = {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
          "v_head_dim": 8, "head_dim": 8}  # fmt: skip
INDEXED = {"index_topk": 8, "index_n_heads": 32, "index_head_dim": 16}
WINDOW = {"sliding_window": 16}
GPT = {"hidden_size": None, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
       "max_position_embeddings": 512, "shape": False}  # fmt: skip
MAMBA = {"mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, **WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3Text", {"head_dim": 8, **WINDOW, "query_pre_attn_scalar": 8}),
    "mistral": ("Mistral", WINDOW),
    "gpt2": ("GPT2", GPT),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": None}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {}),
    "qwen3_moe": ("Qwen3Moe", {"head_dim": 8, **MOE}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0]}),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", WINDOW),
    "granite": ("Granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
                            "attention_multiplier": 0.125}),
    "cohere": ("Cohere", {"logit_scale": 0.0625}),
    "cohere2": ("Cohere2", {"logit_scale": 0.25, **WINDOW, "head_dim": 8}),
    "glm4": ("Glm4", {"head_dim": 8}),
    "glm4_moe": ("Glm4Moe", ROUTED),
    "deepseek_v3": ("DeepseekV3", {**ROUTED, **LATENT}),
    "qwen3_next": ("Qwen3Next", {**LINEAR, **MOE, "shared_expert_intermediate_size": 32}),
    "qwen3_5": ("Qwen3_5Text", LINEAR),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
    "mamba2": ("Mamba2", {"shape": False, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8,
                          "state_size": 16, "n_groups": 1, "expand": 2, "chunk_size": 16}),
    "falcon_h1": ("FalconH1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, **MAMBA, "lm_head_multiplier": 0.3}),
    "granitemoehybrid": ("GraniteMoeHybrid", {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, **MAMBA,
                                              "mamba_expand": 2, "num_local_experts": 0,
                                              "shared_intermediate_size": 64, "logits_scaling": 6.0}),
    "opt": ("OPT", {**OPT, "word_embed_proj_dim": 32}),
    "opt-proj": ("OPT", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "bloom": ("Bloom", {"shape": False, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "stablelm": ("StableLm", {}),
    "starcoder2": ("Starcoder2", {"sliding_window": None}),
    "gptj": ("GPTJ", {**GPT, "rotary_dim": 8}),
    "gpt_oss": ("GptOss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW}),
    "exaone4": ("Exaone4", WINDOW),
    "ministral": ("Ministral", {**WINDOW, "head_dim": 8}),
    "nemotron": ("Nemotron", {}),
    "hunyuan": ("HunYuanDenseV1", {"head_dim": 8}),
    "seed_oss": ("SeedOss", {"head_dim": 8}),
    "llama4": ("Llama4Text", {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64,
                              "attention_chunk_size": 16, "moe_layers": [1]}),
    "deepseek_v2": ("DeepseekV2", {**LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                                   "topk_group": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1}),
    "deepseek_v3.2": ("DeepseekV32", {**ROUTED, **LATENT, **INDEXED}),
    "deepseek_v4": ("DeepseekV4", {"num_key_value_heads": None, "head_dim": 8, "moe_intermediate_size": 32,
                                   "n_routed_experts": 4, "num_experts_per_tok": 2, "q_lora_rank": 16,
                                   "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
                                   "mlp_layer_types": ["moe", "moe"]}),
    "glm4_moe_lite": ("Glm4MoeLite", {**ROUTED, **LATENT}),
    "glm5": ("GlmMoeDsa", {**ROUTED, **LATENT, **INDEXED}),
    "gemma3n": ("Gemma3nText", {"head_dim": 8, **WINDOW, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
                                "vocab_size_per_layer_input": 512, "activation_sparsity_pattern": None,
                                "layer_types": ["sliding_attention", "full_attention"], "laurel_rank": 8}),
    "gemma4": ("Gemma4Text", {"head_dim": 8, "global_head_dim": 8, **WINDOW, "hidden_size_per_layer_input": 8,
                              "vocab_size_per_layer_input": 512, "num_kv_shared_layers": 0,
                              "layer_types": ["sliding_attention", "full_attention"]}),
    "jamba": ("Jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8,
                        "num_experts": 4, "use_mamba_kernels": False}),
    "falcon_mamba": ("FalconMamba", {"shape": False, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "rwkv": ("Rwkv", {"shape": False, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32,
                      "context_length": 512}),
    "xlstm": ("xLSTM", {"shape": False, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4}),
    "recurrent_gemma": ("RecurrentGemma", {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8,
                                           "lru_width": 32, "attention_window_size": 16}),
    "minimax": ("MiniMax", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 16,
                            "layer_types": ["linear_attention", "full_attention"]}),
    "qwen3_5_moe": ("Qwen3_5MoeText", {**LINEAR, **MOE, "shared_expert_intermediate_size": 32}),
    "falcon": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": ("Falcon", {"alibi": True, "new_decoder_architecture": False}),
    "mpt": ("Mpt", {"shape": False, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}),
    "phimoe": ("Phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}  # fmt: skip
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


def write(folder: Path, name: str, tokenizer: Any, *, seed: int = 0, padding: int = PADDING) -> str:
    """Save a random model of a family."""
    kind, changes = FAMILIES[name]
    shape = {} if changes.get("shape") is False or changes.get("hidden_size", 0) is None else SHAPE
    values = {key: value for key, value in {**shape, **changes}.items() if key != "shape"}
    values = {key: value for key, value in values.items() if value is not None or key == "sliding_window"}
    end = tokenizer.eos_token_id
    ends = {"eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    ends["bos_token_id"] = end if kind in ("GPT2", "GPTJ", "OPT") else None
    if kind == "Mamba2":
        del ends["bos_token_id"]
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer) + padding, **ends, **values)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(SCALE if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def student_of(folder: str, **values: Any) -> Student:
    """The trainer's view of a model."""
    run = TrainConfig(
        algorithm="grpo",
        output_dir="unused",
        model_name_or_path=folder,
        env=EnvConfig(name="corridor", split="train"),
        **values,
    )
    return Student(run, Processes(1))


def plain_log_probs(model: Any, row: list[int], count: int) -> Any:
    """[T, V] log-probs over the ids that exist, by one forward pass without a cache."""
    with torch.no_grad():
        return model(torch.tensor([row]), use_cache=False).logits[0, :, :count].double().log_softmax(-1)


def grown_rows(engine: Any, model: Any, count: int) -> tuple[list[list[int]], float]:
    """Three conversations of three turns, and the largest error of the engine's log-probs."""
    rng, worst = random.Random(0), 0.0
    rows = [[rng.randrange(3, count - 3) for _ in range(size)] for size in (3, 21, 34)]
    for turn in range(3):
        asked = [
            Request(str(i), tuple(row), SamplingParams(max_new_tokens=8), 10 * i + turn, slot=f"s{i}")
            for i, row in enumerate(rows)
        ]
        for row, action in zip(rows, sample(engine, asked), strict=True):
            start = len(row)
            row += action.token_ids
            table = plain_log_probs(model, row, count)
            for k, token in enumerate(action.token_ids):
                worst = max(worst, abs(float(table[start - 1 + k, token]) - action.logprobs[k]))
            row += [rng.randrange(3, count - 3) for _ in range(4)]
    return rows, worst


def batch_of(rows: list[list[int]], pad: int) -> Any:
    """Rows as episodes of one turn, all but three tokens trained."""
    members = []
    for i, row in enumerate(rows):
        action = Action("", tuple(row[3:]), (0.0,) * (len(row) - 3))
        turn = Turn(0, "", action, "", 0.0, tuple(row[:3]), True)
        members.append(Trajectory(str(i), "corridor", "t", 0, (turn,), True, 1.0, "terminated"))
    return collate([Group("g", 0, tuple(members))], pad)


def largest_error(scores: Any, batch: Any, model: Any, count: int) -> float:
    """Of log-probs on trained tokens."""
    worst = 0.0
    for row_T, logp_T, mask_T in zip(batch.tokens_BT, scores.logp_BT, batch.mask_BT, strict=True):
        length = int(mask_T.nonzero()[-1]) + 1
        table = plain_log_probs(model, row_T[:length].tolist(), count)
        wanted = table[:-1].gather(1, row_T[1:length, None])[:, 0]
        worst = max(worst, float((logp_T[1:length].double() - wanted)[mask_T[1:length]].abs().max()))
    return worst


def after_update(folder: str, row: list[int], **values: Any) -> float:
    """Largest difference of engine and trainer after every trained weight moved."""
    student, engine = student_of(folder, **values), build(folder, device="cpu", max_context=512)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in student.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    engine.load_weights(student.weights())
    return max(abs(a - b) for a, b in zip(engine.score(row), student.score_tokens(row), strict=True))


def attempt(work: Any) -> Any:
    """A figure, or the one line with which it was refused."""
    try:
        return work()
    except AgentBenchError as error:
        return f"refused: {error}"
    except Exception as error:  # a table with one broken row tells more than none
        return f"BROKEN: {type(error).__name__}: {str(error)[:300]}"


def measure(name: str, root: Path, tokenizer: Any) -> dict[str, Any]:
    """One row of the table."""
    folder, count = write(root / name, name, tokenizer), len(tokenizer)
    other = write(root / f"{name}-teacher", name, tokenizer, seed=1)
    plain, teacher_plain = (
        AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (folder, other)
    )
    engine = build(folder, device="cpu", max_context=512)
    rows, engine_error = grown_rows(engine, plain, count)
    found: dict[str, Any] = {"engine": engine_error, "keeps_cache": engine.keeps_cache}

    def student() -> float:
        learner = student_of(folder)
        checkpoint.save(root / f"{name}-saved", learner, {"algorithm": "grpo"})
        names = {p.name for p in (root / f"{name}-saved").glob("model*.safetensors")}
        saved = AutoModelForCausalLM.from_pretrained(root / f"{name}-saved", dtype=torch.float32)
        same = all(
            torch.equal(a, b)
            for a, b in zip(saved.state_dict().values(), plain.state_dict().values(), strict=True)
        )
        found["checkpoint"] = "equal" if same and names else "differs"
        batch = batch_of(rows, learner.pad_id)
        teacher = LocalTeacher(TeacherConfig(model_name_or_path=other), learner)
        found["teacher"] = largest_error(teacher.score(batch), batch, teacher_plain, count)
        return largest_error(learner.score(batch), batch, plain, count)

    found["student"] = attempt(student)
    found["update"] = attempt(lambda: after_update(folder, rows[0][:24]))
    found["lora"] = attempt(lambda: after_update(folder, rows[0][:24], lora=LoraSettings(r=4, alpha=8)))
    return found


def main() -> None:
    """Measure and print a table."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    texts = [
        f"Room {n} of {m}. The red door is left, the blue door is right." for n in range(8) for m in range(8)
    ]
    table: dict[str, Any] = {}
    if options.output and options.output.is_file() and options.names:  # rows that are named are measured anew
        table = json.loads(options.output.read_text())["families"]
    with tempfile.TemporaryDirectory() as place:
        tokenizer = make_tokenizer(Path(place) / "tokenizer", texts, vocab_size=400)
        for name in options.names or FAMILIES:
            table[name] = attempt(lambda name=name: measure(name, Path(place), tokenizer))
            print(name, json.dumps(table[name]), flush=True)
    if options.output:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        options.output.write_text(json.dumps({"versions": versions, "families": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
