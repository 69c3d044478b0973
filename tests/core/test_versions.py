"""What the version ranges allow at both ends, and the card's commands: nothing of it is left to a later release."""

import re
import subprocess
import sys
import tomllib

import pytest
from places import ROOT

from agentbench.engines.hf.forward import cache_name


def cached(*, cache=None):
    """A forward pass as from transformers 5.24 on."""


def before(*, past_key_values=None):
    """A forward pass as until 5.23."""


def both(*, past_key_values=None, cache=None):
    """Both names, the old one deprecated."""


@pytest.mark.parametrize(
    ("forward", "name"), [(cached, "cache"), (both, "cache"), (before, "past_key_values")]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_cache_is_given_under_the_newest_name_that_a_model_takes(forward, name, wrapped):
    plain = type("Model", (), {"forward": staticmethod(forward)})()
    with_adapters = type("Adapters", (), {"get_base_model": lambda self: plain})()
    assert cache_name(with_adapters if wrapped else plain) == name


def ends(end):
    command = [sys.executable, str(ROOT / ".ci" / "bounds.py"), end]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_both_ends_of_every_range_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    without_torch = [line for line in ranges if not re.match(r"torch\b", line)]
    assert len(without_torch) == len(ranges) - 1
    assert ends("newest") == without_torch
    oldest = dict(line.split("==") for line in ends("oldest"))
    for line in without_torch:
        name, lowest = re.match(r"([\w.-]+)>=([\w.]+)", line).groups()
        assert oldest[name] == lowest


def recipe(target):
    lines = (ROOT / "Makefile").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.split(":")[0].split() == [target])
    body = []
    for line in lines[start + 1 :]:
        if not line.startswith("\t"):
            break
        body.append(line)
    return "\n".join(body)


def test_what_the_card_runs_is_there():
    """`make gpu` names tests and scripts; each of them exists, and none of the scripts is left out."""
    text = recipe("gpu")
    named = re.findall(r"(?:tests|benchmarks)/[\w/.]+", text)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
    scripts = {str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks" / "gpu").glob("*.py")}
    assert scripts == {"benchmarks/gpu/bench.py", "benchmarks/gpu/check.py", "benchmarks/gpu/learn.py"}
    assert scripts <= set(named)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "lines"),
    [
        ("bench.py", ["--tiny"], 9),
        ("learn.py", ["--tiny"], 5),  # sft, who is who, three methods
    ],
)
def test_the_cards_scripts_run_on_toy_sizes(script, options, lines, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    more = ["--runs", str(tmp_path / "runs")] if script == "learn.py" else []
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / script), *options, *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) >= lines
    assert "NaN" not in done.stdout or not torch.cuda.is_available()
