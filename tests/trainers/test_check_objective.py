"""`check-objective`: every algorithm passes on its own pair of models, and a crooked one is caught."""

import json

import numpy as np
import pytest
from debaters import TEXTS

from agentbench.cli import run as command
from agentbench.config import validate
from agentbench.errors import UsageError
from agentbench.registry import entry_points, trainer_spec
from agentbench.trainers.references import distributions
from agentbench.trainers.teachers.debate import load_debate
from agentbench.training.config import TeacherConfig, TrainConfig
from agentbench.training.verification import check_objective, compare, small

ENV = {"name": "corridor", "split": "train", "prompt": "corridor/transcript"}


def configuration(models, algorithm, teacher=True, **values):
    return validate(
        TrainConfig,
        {
            "algorithm": algorithm,
            "output_dir": "unused",
            "model_name_or_path": models["student"],
            "env": ENV,
            **({"teachers": [{"model_name_or_path": models["teacher"]}]} if teacher else {}),
            **values,
        },
    )


CASES = {
    "opd": {"trainer": {"gap_clip": 1.0, "entropy_coef": 0.01, "importance_cap": 2.0}},
    "gkd": {"trainer": {"divergence": "jsd", "beta": 0.3, "reduction": "trajectory_mean"}},
    "gkd tail": {
        "trainer": {"support": "top_k", "k": 7, "divergence": "forward_kl", "reduction": "turn_mean"}
    },
    "lsm": {"trainer": {"k": 5}},
    "lsm masked": {"trainer": {"k": 5, "masked_tokens": ["a", "e", "t"]}},
    "lsm V4": {"trainer": {"k": 5, "support": "student", "sampled_token": "tail"}},
    "sod": {"trainer": {"reduction": "turn_sum"}},
    "tcod": {},
    "atod": {"preset": "released"},
    "atod paper": {"preset": "paper"},
    "atod tokens": {"trainer": {"weights": "token", "smoothing": 0.2}},
    "atod rescaled": {"trainer": {"mean_preserving": True, "smoothing": 0.1, "min_turns": 1}},
    "opad": {"trainer": {"step_reduce": "sum"}, "rollout": {"tasks_per_step": 2}},
    "mad_opd": {"trainer": {"rounds": 0, "divergence": "jsd"}},
    "grpo": {"teacher": False, "preset": "released"},
    "gigpo": {"teacher": False},
    "opd balanced": {"trainer": {"reduction": "turn_balanced", "balance": 0.3}},
    "gkd balanced": {"trainer": {"reduction": "turn_balanced"}},
    "guided-opd": {"trainer": {"beta": 0.5, "coef": 2.0, "imitation": 0.5, "entropy_coef": 0.01}},
    "guided-opd expert": {"trainer": {"beta": 0.5, "guide": "expert", "reduction": "turn_balanced"}},
    "sft": {"teacher": False, "trainer": {"takeover": [0, 0]}},
}


@pytest.mark.parametrize("case", CASES)
def test_every_algorithm_passes(models, case):
    checks = check_objective(configuration(models, case.split()[0], **CASES[case]))
    failed = [check for check in checks if check.passed is False]
    assert failed == []
    passed = {check.name for check in checks if check.passed}
    assert {"the batch teaches", "float64 reference", "padding", "micro-batches", "row order"} <= passed
    if case in ("opd", "gkd", "lsm", "sod", "tcod", "opad", "mad_opd", "atod paper"):
        # the entropy bonus of "opd" is the one that is not at rest
        assert ("teacher = student" in passed) == (case != "opd")


@pytest.mark.parametrize("combine", ["sum", "mixture"])
def test_two_silent_teachers_pass(models, combine):
    keys = {"rounds": 0, "divergence": "reverse_kl", "combine": combine, "kd_temperature": 1.5}
    config = configuration(models, "mad_opd", trainer=keys)
    pair = (*config.teachers, config.teachers[0].model_copy(update={"model_name_or_path": models["student"]}))
    checks = check_objective(config.model_copy(update={"teachers": pair}))
    assert [check for check in checks if check.passed is False] == []
    assert "float64 reference" in {check.name for check in checks if check.passed}


@pytest.mark.parametrize(
    ("algorithm", "backend", "trainer"),
    [
        ("sdar", "student", {"distill_coef": 0.7, "gate_beta": 0.5, "importance_cap": 2.0}),
        ("sdar", "hf", {"distill_coef": 0.7, "reduction": "turn_balanced", "balance": 0.6}),
        ("mopd", "ema", {"k": 8, "importance_cap": None, "block_tokens": 512}),
        (
            "mopd",
            "hf",
            {"k": 8, "divergence": "reverse_kl", "reduction": "trajectory_mean", "block_tokens": 512},
        ),
    ],
)
def test_teachers_that_read_more_pass(long_models, algorithm, backend, trainer):
    config = configuration(long_models, algorithm, trainer=trainer)
    if backend != "hf":
        config = config.model_copy(update={"teachers": (TeacherConfig(backend=backend),)})
    checks = check_objective(config)
    assert [check for check in checks if check.passed is False] == []
    assert {"the batch teaches", "float64 reference"} <= {check.name for check in checks if check.passed}


@pytest.mark.parametrize(
    "trainer",
    [
        {"rounds": 2},
        {"rounds": 1, "confidence": "logprob", "combine": "mixture", "kd_temperature": 1.5},
        {"rounds": 1, "confidence": "logprob", "support": "top_k", "k": 7, "reduction": "turn_balanced"},
    ],
)
def test_two_debating_teachers_pass(long_models, trainer):
    config = configuration(long_models, "mad_opd", trainer={"debate": TEXTS} | trainer)
    pair = (*config.teachers, TeacherConfig(model_name_or_path=long_models["student"]))
    checks = check_objective(config.model_copy(update={"teachers": pair}))
    assert [check for check in checks if check.passed is False] == []
    assert {"the batch teaches", "float64 reference"} <= {check.name for check in checks if check.passed}


def test_the_reference_finds_the_debate_that_the_env_calls_for(models):
    config = configuration(models, "mad_opd")
    for name, found in (("auto", "agent"), ("code", "code")):
        settings = trainer_spec("mad_opd").config(debate=name)
        assert distributions._answer(config, settings).template == load_debate(found).answer


def test_confidence_weights_of_the_reference_by_hand():
    """T = 1, 95 and 70: exp(.95) / (exp(.95) + exp(.70)) = .5622; silence makes equal, absence leaves the rest."""
    assert distributions._confidence_weights("A 95.0, B 70.0", 1.0) == pytest.approx(
        [0.5622, 0.4378], abs=1e-4
    )
    assert distributions._confidence_weights("A 95.0, B none, C absent", 1.0) == [0.5, 0.5, 0.0]
    assert distributions._confidence_weights("A absent, B absent", 1.0) == [0.0, 0.0]


def test_every_algorithm_of_ours_has_a_reference():
    ours = [
        n for n, point in entry_points("trainers").items() if point.value.startswith("agentbench.trainers.")
    ]
    assert len(ours) >= 14
    assert [name for name in ours if trainer_spec(name).reference is None] == []


CROOKED = """
from dataclasses import replace
from agentbench.trainers import opd

class Crooked(opd.Opd):
    def _advantage(self, teacher, old, turn):
        split = self.run.tokens_per_micro_batch < 2**40
        return super()._advantage(teacher, old, turn) * (1.0001 if split else 1.0) * FACTOR

SPEC = replace(opd.SPEC, id="crooked", build=Crooked)
BARE = replace(SPEC, reference=None)
"""


@pytest.mark.parametrize(("factor", "failed"), [("1.0", {"padding", "micro-batches"}), ("1.001", None)])
def test_a_crooked_trainer_is_caught(models, tmp_path, capsys, factor, failed):
    file = tmp_path / "crooked.py"
    file.write_text(CROOKED.replace("FACTOR", factor))
    words = ["check-objective", "--algorithm", f"{file}:SPEC", "--model", models["student"]]
    assert command([*words, "--teacher", models["teacher"], "--json"]) == 1
    found = {check["name"]: check["passed"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {name for name, passed in found.items() if passed is False} == (
        failed or {"padding", "micro-batches", "float64 reference"}
    )


def test_without_a_reference_the_table_says_so(models, tmp_path, capsys):
    file = tmp_path / "crooked.py"
    file.write_text(CROOKED.replace("FACTOR", "1.0").replace("1.0001", "1.0"))
    words = ["check-objective", "--algorithm", f"{file}:BARE", "--model", models["student"]]
    assert command([*words, "--teacher", models["teacher"]]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("float64 reference")]
    assert "left out" in line
    assert "no reference" in line
    assert [line.split("  ")[0] for line in lines if "  passed" in line] == [
        "the batch teaches",
        "padding",
        "micro-batches",
        "row order",
        "mask",
        "broken episodes",
    ]


def test_a_configuration_lends_its_env_and_keys(models, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"algorithm": "lsm", "env": ENV, "trainer": {"k": 100_000}, "max_steps": 3}))
    words = ["check-objective", "--model", models["student"], "--teacher", models["teacher"]]
    assert command([*words, "--config", str(file), "--algorithm", "lsm"]) == 2
    assert "top_k = 100000 must lie in 1.." in capsys.readouterr().err
    assert command([*words, "--algorithm", "grpo"]) == 2
    assert "algorithm 'grpo' uses no teacher" in capsys.readouterr().err


def test_what_is_not_about_the_objective_is_made_plain(models):
    config = configuration(models, "grpo", teacher=False, preset="released", bf16=True, lora={"r": 4})
    made = small(config)
    assert (made.rows_per_update, made.updates_per_step, made.bf16, made.lora) == (None, 1, False, None)
    assert made.trainer["dual_clip"] == 3.0  # the preset's keys stay


def test_gradients_are_compared_by_their_largest_entry():
    a = {"w": np.array([1.0, 2.0]), "b": np.array([0.0])}
    # 2e-6 of 2 is 1e-6; a parameter without gradient is compared with a millionth of the largest
    assert compare({"w": np.array([1.0, 2.000002]), "b": np.array([0.0])}, a).deviation == pytest.approx(1e-6)
    assert compare({"w": np.array([1.0, 2.0]), "b": np.array([1e-6])}, a).passed is False
    assert compare({"w": np.array([1.0, np.nan]), "b": np.array([0.0])}, a).passed is False
    assert compare({"w": a["w"]}, a).passed is False


def test_a_trainer_without_a_gradient_is_refused(models, tmp_path):
    file = tmp_path / "shut.py"
    file.write_text(
        CROOKED.replace("FACTOR", "1.0").replace("    def _adv", "    gradient = None\n    def _adv")
    )
    with pytest.raises(UsageError, match="has no method gradient"):
        check_objective(configuration(models, f"{file}:SPEC"))
