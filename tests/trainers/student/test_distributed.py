import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT
from together import learn

from agentbench.registry import load

HERE = Path(__file__).parents[1]


def launch(models, output, algorithm, *, processes=2, asked=2, fsdp=False):
    output.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    words = [
        models["student"],
        models["teacher"],
        str(output),
        algorithm,
        str(asked),
        "fsdp" if fsdp else "ddp",
    ]
    return subprocess.run(
        [*command, str(HERE / "together.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    ("algorithm", "fsdp"),
    [("atod", False), ("atod", True), ("token", False), ("full", False), ("full", True), ("averaged", False)],
)
def test_two_processes_learn_what_one_learns(models, tmp_path, algorithm, fsdp):
    two_as_one(models, tmp_path, algorithm, fsdp=fsdp)


def test_two_processes_hand_over_from_the_guide_as_one(models, tmp_path):
    """A schedule that follows a measured figure is the same on both, is saved, and goes on where it was."""
    two_as_one(models, tmp_path, "guided")


def test_two_processes_read_the_same_peers_as_one(long_models, tmp_path):
    two_as_one(long_models, tmp_path, "mopd")


def test_two_processes_hold_the_debates_of_one(long_models, tmp_path):
    two_as_one(long_models, tmp_path, "mad_opd")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["phi", "gemma2", "gpt2", "qwen3_moe", "glm4_moe"])
def test_families_learn_on_two_processes_what_they_learn_on_one(models, tmp_path, family):
    # a bias on the head, a soft cap, dropout, experts that a process's rows may all pass by, a persistent buffer
    write = load("envs", f"{ROOT / 'benchmarks' / 'families.py'}:write")
    folders = {
        name: write(tmp_path / name, family, models["tokenizer"], seed=seed, padding=21)
        for seed, name in enumerate(("student", "teacher"))
    }
    two_as_one(folders, tmp_path, "full")


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_a_multimodal_folder_learns_on_two_processes_what_it_learns_on_one(models, tmp_path, fsdp):
    """No loss reaches its vision tower, and no process waits for that."""
    import transformers

    tokenizer, folders = models["tokenizer"], {}
    width = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = {
        **width,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(tokenizer) + 21,
    }
    sees = {**width, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config={**text, "max_position_embeddings": 512, "pad_token_id": tokenizer.pad_token_id},
        vision_config=sees,
        mm_tokens_per_image=4,
        eos_token_id=tokenizer.eos_token_id,
        **{
            f"{name}_index": len(tokenizer) + i
            for i, name in enumerate(("image_token", "boi_token", "eoi_token"))
        },
    )
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders[name] = str(tmp_path / name)
    two_as_one(folders, tmp_path, "full", fsdp=fsdp)


PROBED = {
    "entropy",
    "engine_gap",
    "engine_gap_max",
    "engine_ratio",
    "engine_ratio_max",
    "privileged_gap",
    "unlikely_share",
}

ASKED = {"debate/faults", "debate/recalled", "debate/tokens_per_trained_token"}
"""An equal state is debated once in each process."""


def two_as_one(models, tmp_path, algorithm, *, fsdp=False):
    """Launch two processes, learn the same alone, and compare figures and weights."""
    result = launch(models, tmp_path / "two", algorithm, fsdp=fsdp)
    assert result.returncode == 0, result.stderr[-3000:]
    *theirs, resumed = json.loads((tmp_path / "two" / "metrics.json").read_text())
    ours, weights = learn(models["student"], models["teacher"], algorithm, 1, False)
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            # probed figures look at the first rows of each process, and alarms at such figures
            if name.partition("/")[0] not in PROBED and name not in ASKED:
                assert two[name] == pytest.approx(one[name], abs=1e-4), name
    together = torch.load(tmp_path / "two" / "weights.pt")
    assert together.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.allclose(together[name], tensor, atol=1e-4), name
    assert resumed["resumed"] == resumed["after"]


def test_launch_of_another_number_of_processes_is_refused(models, tmp_path):
    result = launch(models, tmp_path / "out", "opd", processes=2, asked=1)
    assert result.returncode != 0
    assert "num_processes = 1, but 2 process(es) were launched" in result.stderr
