"""Cost of full-vocabulary divergences: the naive form against `agentbench.trainers.kernels.fused`.

Each line of the table is a fresh process: forward and backward to hidden states and student head, float32. Extra
memory is the peak resident size above inputs, weights and already allocated gradients. Run with
`python benchmarks/divergence.py`; the size can be changed, see --help.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

GIB = 2**30
Record = dict[str, float]


def main() -> None:
    """Measure every form, kind and length and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--lengths", type=int, nargs="*", default=[128, 512, 2048])
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs per line; the median CPU time is printed"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        form, kind = args.one.split("/")
        print(json.dumps(measure(form, kind, args.tokens, args.vocab, args.width)))
        return
    import torch

    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads, float32, V={args.vocab}, D={args.width}\n"
    )
    print(f"{args.tokens} tokens, median of {args.repeats}\n")
    print("| kind | form | CPU s | extra GiB | loss | head gradient norm |\n|---|---|---|---|---|---|")
    for kind in ("reverse_kl", "jsd", "forward_kl"):
        for form in ("naive", "chunked"):
            record = run(form, kind, args.tokens, args.vocab, args.width, args.repeats)
            print(
                f"| {kind} | {form} | {record['cpu_s']:.1f} | {record['extra_gib']:.2f} "
                f"| {record['loss']:.6f} | {record['norm']:.6f} |",
                flush=True,
            )
    print("\nchunked jsd by length\n\n| tokens | CPU s | extra GiB |\n|---|---|---|")
    for tokens in args.lengths:
        record = run("chunked", "jsd", tokens, args.vocab, args.width, 1)
        print(f"| {tokens} | {record['cpu_s']:.1f} | {record['extra_gib']:.2f} |", flush=True)


def run(form: str, kind: str, tokens: int, vocab: int, width: int, repeats: int) -> Record:
    """Measure in fresh processes and return the record with the median CPU time."""
    command = [sys.executable, __file__, "--one", f"{form}/{kind}", "--tokens", str(tokens)]
    command += ["--vocab", str(vocab), "--width", str(width)]
    records = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    return sorted(records, key=lambda record: record["cpu_s"])[len(records) // 2]


def measure(form: str, kind: str, tokens: int, vocab: int, width: int) -> Record:
    """Run one forward and backward in this process."""
    import torch

    from agentbench.trainers.kernels.divergence import divergence
    from agentbench.trainers.kernels.fused import LinearHead

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.empty(*shape).normal_(generator=generator)

    hidden, head = normal(tokens, width), normal(vocab, width).mul_(1.5 / math.sqrt(width))
    teacher = LinearHead(normal(tokens, width), normal(vocab, width).mul_(1.5 / math.sqrt(width)))
    weight = torch.full((tokens,), 1 / tokens)
    for leaf in (hidden, head):
        leaf.requires_grad_()
        leaf.grad = torch.full_like(leaf, 0.0)  # resident before the clock starts
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.process_time()
    if form == "chunked":
        loss = divergence(hidden, head, teacher, kind=kind, weight_N=weight, vocab_size=vocab).loss
    else:
        loss = (weight * _naive(kind, hidden @ head.T, teacher.hidden_ND @ teacher.head_VD.T)).sum()
    loss.backward()
    cpu = time.process_time() - start
    assert head.grad is not None
    return {
        "cpu_s": cpu,
        "extra_gib": (_resident("VmHWM") - before) / GIB,
        "loss": loss.item(),
        "norm": head.grad.norm().item(),
    }


def _naive(kind: str, student_logits, teacher_logits):  # type: ignore[no-untyped-def]
    """Compute the usual form on whole logits, with the library's kernels."""
    import torch
    from torch.nn.functional import kl_div

    student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    del student_logits, teacher_logits
    if kind == "reverse_kl":
        return kl_div(teacher, student, reduction="none", log_target=True).sum(-1)
    if kind == "forward_kl":
        return kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    mixture = torch.logsumexp(torch.stack([student, teacher]) + math.log(0.5), dim=0)
    of_teacher = kl_div(mixture, teacher, reduction="none", log_target=True).sum(-1)
    return 0.5 * of_teacher + 0.5 * kl_div(mixture, student, reduction="none", log_target=True).sum(-1)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit(f"/proc/self/status has no {field}; this benchmark needs Linux")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
