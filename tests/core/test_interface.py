"""The public names of `agentbench`: which there are, how they are called, and that they cost nothing to have."""

import inspect
import subprocess
import sys

import pytest

import agentbench

NAMES = [
    *("TextEnv", "EnvSpec", "Expert", "Explorer", "register_gymnasium", "check_env"),
    *("Action", "Turn", "Trajectory", "Group", "RolloutPlan", "SamplingParams", "segment", "read_episodes"),
    *("Policy", "InstantPolicy", "View", "Decision", "Engine", "Request", "Completion"),
    *(
        "run_episodes",
        "collect",
        "evaluate",
        "EvalConfig",
        "compare_runs",
        "summarise_run",
        "train",
        "TrainConfig",
    ),
    *("Trainer", "TrainerSpec", "Update", "Section"),
    *("env_spec", "trainer_spec", "open_engine", "load_panel", "load_prompt"),
    *("AgentBenchError", "UsageError", "ContractError"),
]
SIGNATURES = {
    "register_gymnasium": "(spec, entry_point=None)",
    "segment": "(trajectory, keep=None)",
    "read_episodes": "(path)",
    "evaluate": "(config, *, resume=False, retry_errors=False, policy=None, progress=None, team=None, say=None, "
    "engine=None)",
    "train": "(config, *, resume=False, report=<built-in function print>)",
    "compare_runs": "(run_a, run_b)",
    "summarise_run": "(run, max_error_rate=None)",
    "env_spec": "(name)",
    "trainer_spec": "(name)",
    "open_engine": "(name, model, options)",
    "load_panel": "(name)",
    "load_prompt": "(reference)",
}


def test_the_public_names_are_these():
    assert sorted(NAMES) == agentbench.__all__
    for name in NAMES:
        assert getattr(agentbench, name).__name__ == name
    assert set(NAMES) <= set(dir(agentbench))


def test_their_signatures_are_these():
    def plain(function):
        signature = inspect.signature(function)
        bare = [item.replace(annotation=inspect.Parameter.empty) for item in signature.parameters.values()]
        return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))

    assert {name: plain(getattr(agentbench, name)) for name in SIGNATURES} == SIGNATURES


def test_none_of_them_loads_torch():
    code = f"import sys, agentbench\nfor name in {NAMES}: getattr(agentbench, name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_an_attribute_error_that_lists_the_others():
    with pytest.raises(AttributeError, match=r"it offers .*TextEnv"):
        agentbench.TextEnvironment  # noqa: B018
