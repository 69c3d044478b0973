"""What one card does: sampling, divergences and updates in the shapes of Qwen3-0.6B and SmolLM2-135M.

    python benchmarks/gpu/bench.py [--output FILE.jsonl] [--seconds 200] [--only engine,divergence,update] [--tiny]

Random weights; nothing is downloaded. Every figure is one JSON line, written as soon as it is there; a section is left
out when `--seconds` have passed. `--tiny` runs the same code on toy sizes, on a CPU too, to prove that it works. MFU
counts 6 N T for what is trained and 2 N T for what is only scored (N without embeddings, the head at trained tokens),
against the rate of bfloat16 products measured here. Leaves out whether the numbers are right (`make gpu` tests that).
"""

import argparse
import gc
import json
import logging
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import HFEngine
from agentbench.models.loading import open_model
from agentbench.registry import trainer_spec
from agentbench.trainers.kernels.divergence import divergence
from agentbench.trainers.kernels.fused import LinearHead
from agentbench.training.config import EnvConfig, RolloutConfig, TeacherConfig, TrainConfig
from agentbench.types import Action, Group, SamplingParams, Trajectory, Turn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = "bfloat16" if DEVICE == "cuda" else "float32"
SHAPES = {  # family, width, inner width, layers, heads, key-value heads, width of a head, vocabulary
    "qwen3-0.6b": ("Qwen3", 1024, 3072, 28, 16, 8, 128, 151936),
    "smollm2-135m": ("Llama", 576, 1536, 30, 9, 3, 64, 49152),
    "tiny": ("Qwen3", 64, 192, 2, 4, 2, 16, 1024),
}
BEGAN = time.perf_counter()


def clock(work, repeats=3, warm=1):
    """Median wall seconds of `work`, and the peak of CUDA memory above what was there, in GiB."""
    for _ in range(warm):
        work()
    before, seconds = 0, []
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - before if DEVICE == "cuda" else 0
    return statistics.median(seconds), peak / 2**30


def folder_of(shape, root):
    """Write a random model and a tokenizer of as many tokens; returns folder, parameters of body and head."""
    from tokenizers import Tokenizer, decoders, models

    kind, width, inner, layers, heads, kv_heads, of_head, vocab = SHAPES[shape]
    folder = Path(root) / shape
    if not (folder / "config.json").exists():
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=of_head, vocab_size=vocab, max_position_embeddings=8192,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(DEVICE):
            model = getattr(transformers, f"{kind}ForCausalLM")(config)
        model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
        model.to(getattr(torch, DTYPE)).save_pretrained(folder)
        backend = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t1"))
        backend.decoder = decoders.Fuse()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="t2", pad_token="t0", unk_token="t1"
        )
        tokenizer.chat_template = "{{ messages[0].content }}"
        tokenizer.save_pretrained(folder)
    body = layers * (width * of_head * 2 * (heads + kv_heads) + 3 * width * inner)
    return str(folder), body, width * vocab


def engine(log, shape, root, *, count, turns, prompt, observation, reply, repeats=1):
    """Multi-turn sampling: the engine against `generate` from the start at each turn, at the same lengths."""
    folder, _, _ = folder_of(shape, root)
    model, tokenizer = open_model(folder, dtype=DTYPE)
    vocab, source = model.config.vocab_size, np.random.default_rng(0)
    prompts = [
        source.integers(3, vocab, n).tolist() for n in source.integers(prompt // 2, prompt * 3 // 2, count)
    ]
    later = source.integers(3, vocab, (count, turns, observation)).tolist()
    lengths = source.integers(1, 2 * reply, (count, turns))

    def by_generate():
        rows = [list(ids) for ids in prompts]
        for turn in range(turns):
            width, new = max(map(len, rows)), int(lengths[:, turn].max())
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
            made = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
            )
            for i, row in enumerate(rows):
                row += made[i, width : width + int(lengths[i, turn])].tolist() + later[i][turn]

    def by_engine():
        own = HFEngine(model, tokenizer, slots=count)
        rows = [list(ids) for ids in prompts]
        for turn in range(turns):
            asked = [
                Request(
                    f"{i}/{turn}",
                    tuple(row),
                    SamplingParams(max_new_tokens=n, min_new_tokens=n),
                    i,
                    slot=str(i),
                )
                for i, (row, n) in enumerate(zip(rows, lengths[:, turn].tolist(), strict=True))
            ]
            for i, action in enumerate(sample(own, asked)):
                rows[i] += [*action.token_ids, *later[i][turn]]
        return own.keeps_cache

    figures = {"keeps_cache": by_engine()}
    for name, way in (("engine", by_engine), ("generate", by_generate)):
        seconds, peak = clock(way, repeats=repeats, warm=0 if name == "engine" else 1)
        figures |= {f"{name}_tokens_per_s": int(lengths.sum()) / seconds, f"{name}_gib": peak}
    ratio = figures["engine_tokens_per_s"] / figures["generate_tokens_per_s"]
    log(section="engine", shape=shape, rows=count, turns=turns, ratio=ratio, **figures)


def compare_divergence(log, *, tokens, width, vocab, dtype):
    """Forward and backward of reverse KL over the vocabulary: in pieces against whole logits."""
    torch.manual_seed(0)
    of = {"device": DEVICE, "dtype": dtype}
    hidden, theirs = torch.randn(tokens, width, **of).requires_grad_(), torch.randn(tokens, width, **of)
    head = (torch.randn(vocab, width, **of) * width**-0.5).requires_grad_()
    teacher = LinearHead(theirs, torch.randn(vocab, width, **of) * width**-0.5)
    weight = torch.full((tokens,), 1 / tokens, device=DEVICE)
    values = {}

    def chunked():
        found = divergence(hidden, head, teacher, kind="reverse_kl", weight_N=weight, vocab_size=vocab).loss
        found.backward()
        values["chunked"] = float(found.detach())
        hidden.grad = head.grad = None

    def naive():
        q = (hidden @ head.T).float().log_softmax(-1)
        p = (teacher.hidden_ND @ teacher.head_VD.T).float().log_softmax(-1)
        found = (weight * (q.exp() * (q - p)).sum(-1)).sum()
        found.backward()
        values["naive"] = float(found.detach())
        hidden.grad = head.grad = None

    mine, mine_gib = clock(chunked)
    try:
        whole, whole_gib = clock(naive)
    except torch.OutOfMemoryError:
        whole = whole_gib = float("nan")
        torch.cuda.empty_cache()
    log(section="divergence", tokens=tokens, vocab=vocab, dtype=str(dtype)[6:], chunked_s=mine, naive_s=whole,
        chunked_gib=mine_gib, naive_gib=whole_gib, **values)  # fmt: skip


def episodes(rows, turns, context, reply, vocab):
    """Growing conversations of random ids: `turns` times `context` read and `reply` written tokens; groups of 8."""
    source = np.random.default_rng(1)
    members = []
    for row in range(rows):
        played = []
        for n in range(turns):
            said = (*source.integers(3, vocab, reply - 1).tolist(), 2)
            action = Action("", said, (-float(np.log(vocab)),) * reply)
            read = tuple(source.integers(3, vocab, context).tolist())
            played.append(Turn(n, f"o{n}", action, "x", float(source.integers(2)), read, fresh=not n))
        won, score = bool(source.integers(2)), float(source.integers(2))
        members.append(
            Trajectory(f"{row}", "corridor", f"t{row // 8}", row, tuple(played), won, score, "terminated")
        )
    return [Group(f"t{k}", 0, tuple(members[8 * k : 8 * k + 8])) for k in range(-(-rows // 8))]


def update(log, rate, shape, root, algorithm, settings, *, rows, turns, context, reply, micro):
    """One update of an algorithm."""
    folder, body, head = folder_of(shape, root)
    teaches = algorithm in ("opd", "gkd", "atod")
    run = TrainConfig(
        algorithm=algorithm, output_dir="", model_name_or_path=folder, env=EnvConfig(name="corridor", split="train"),
        teachers=(TeacherConfig(model_name_or_path=folder, dtype=DTYPE),) if teaches else (), learning_rate=1e-6,
        tokens_per_micro_batch=micro, bf16=DEVICE == "cuda",
        rollout=RolloutConfig(group_size=8, tasks_per_step=rows // 8),
    )  # fmt: skip
    spec = trainer_spec(algorithm)
    trainer = spec.build(run, spec.config(**settings))
    groups = episodes(rows, turns, context, reply, SHAPES[shape][-1])
    steps = iter(range(100))
    seconds, peak = clock(lambda: trainer.update(groups, next(steps)), repeats=2)
    tokens, trained = rows * turns * (context + reply), rows * turns * reply
    scored = {"gkd": 1, "opd": 1, "atod": 2, "grpo": 0}[
        algorithm
    ]  # forward passes beside the one that learns
    flops = (6 + 2 * scored) * (body * tokens + head * trained) / seconds
    push, _ = clock(lambda: sum(tensor.numel() for _, tensor in trainer.weights()), repeats=1)
    log(section="update", shape=shape, algorithm=algorithm, settings=settings, tokens=tokens, trained=trained,
        micro=micro, seconds=seconds, tokens_per_s=tokens / seconds, mfu=flops / 1e12 / rate, extra_gib=peak,
        weights_s=push)  # fmt: skip


def machine(log, tiny):
    """Say what runs here; returns the rate of bfloat16 products in TFLOP/s."""
    size = 256 if tiny else 8192
    one = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    seconds, _ = clock(lambda: one @ one, repeats=10, warm=3)
    rate = 2 * size**3 / seconds / 1e12
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    log(section="machine", device=name, torch=torch.__version__, transformers=transformers.__version__,
        agentbench=version("agentbench-opd"), matmul_tflops=rate)  # fmt: skip
    return rate


def main():
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="engine,divergence,update")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output")
    parser.add_argument(
        "--root", default="runs/gpu-models", help="where the random models are written, about 1.5 GB"
    )
    parser.add_argument("--seconds", type=float, default=200)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # the replies are made up, and the trainers say so

    def log(**figures):
        figures = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()}
        line = json.dumps({**figures, "at": round(time.perf_counter() - BEGAN, 1)})
        print(line, flush=True)
        if asked.output:
            with open(asked.output, "a") as file:
                file.write(line + "\n")

    rate = machine(log, asked.tiny)
    small, large = ("tiny", "tiny") if asked.tiny else ("smollm2-135m", "qwen3-0.6b")
    talk = {"turns": 2, "prompt": 20, "observation": 6, "reply": 4} if asked.tiny else {
        "turns": 3, "prompt": 200, "observation": 40, "reply": 8}  # fmt: skip
    batch = {"rows": 16, "turns": 3, "context": 12, "reply": 4, "micro": 512} if asked.tiny else {
        "rows": 64, "turns": 16, "context": 48, "reply": 16, "micro": 16384}  # fmt: skip
    loss = {"tokens": 64, "width": 32, "vocab": 1024, "dtype": torch.float32} if asked.tiny else {
        "tokens": 8192, "width": 1024, "vocab": 151936, "dtype": torch.bfloat16}  # fmt: skip
    work = [
        ("engine", lambda: engine(log, small, asked.root, count=6 if asked.tiny else 64, **talk)),
        ("update", lambda: update(log, rate, large, asked.root, "gkd", {"support": "full"}, **batch)),
        ("divergence", lambda: compare_divergence(log, **loss)),
        ("update", lambda: update(log, rate, small, asked.root, "gkd", {"support": "full"}, **batch)),
        ("update", lambda: update(log, rate, small, asked.root, "opd", {}, **batch)),
        ("update", lambda: update(log, rate, small, asked.root, "grpo", {"ref_kl_coef": 0.0}, **batch)),
        ("engine", lambda: engine(log, small, asked.root, count=12 if asked.tiny else 256, **talk)),
        ("update", lambda: update(log, rate, large, asked.root, "atod", {}, **batch)),
    ]
    for section, do in work:
        if section in asked.only.split(",") and time.perf_counter() - BEGAN < asked.seconds:
            do()
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
