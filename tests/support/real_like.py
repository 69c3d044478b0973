"""A model that is random and yet behaves like a trained one where precision matters."""

import shutil
from pathlib import Path

from agentbench.models.tiny import make_model, make_tokenizer

_TEXTS = [
    "You are in the middle of a room. Room 3 of 5. The red door is left, the blue door is right.",
    "go left", "go right", "open door", "Your task is to: put some soap on the countertop.",
]  # fmt: skip


def make_real_like(folder: Path, dtype: str = "float32", *, layers: int = 24, hidden: int = 256) -> Path:
    """Write 24 layers of width 256 whose matrices, embeddings apart, are three times as large as initialised.

    Depth and large weights make bfloat16 results as noisy as those of trained models; as initialised, random models
    are nearly linear and every precision gives the same.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tokenizer = make_tokenizer(folder, _TEXTS, vocab_size=400)
    make_model(folder, tokenizer, hidden=hidden, layers=layers)
    weights = load_file(folder / "model.safetensors")
    kind = getattr(torch, dtype)
    for name, tensor in weights.items():
        large = tensor.ndim > 1 and "embed" not in name and "lm_head" not in name
        weights[name] = (tensor * 3.0 if large else tensor).to(kind)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"float32"', f'"{dtype}"'))
    return folder


def copied(folder: Path, target: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(folder, target))
