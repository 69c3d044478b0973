"""What the documents say works: code runs, commands and options exist, links lead somewhere."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from places import ROOT

from agentbench.cli import run
from agentbench.config import validate
from agentbench.registry import names, trainer_spec
from agentbench.training.config import TrainConfig

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_of_the_readme_runs(code):
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


COMMANDS = sorted(
    {line.split("#")[0].strip() for line in "\n".join(blocks("bash")).splitlines() if "agentbench " in line}
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_exist_with_their_options(line, capsys):
    words = shlex.split(line)[1:]
    until = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    command = [word for word in words[:until] if re.fullmatch("[a-z-]+", word)][
        : 2 if words[0] in ("data", "env", "serve") else 1
    ]
    command += ["model"] if command == ["serve"] else []  # serve MODEL
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown, f"{option} is no option of {command}"


def test_readme_names_every_plug_in():
    for kind in ("envs", "trainers"):
        for name in names(kind):
            assert f"`{name}`" in README, f"{name} is missing in README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tree_of_the_readme_is_true():
    for folder in (
        "agentbench",
        "envs",
        "trainers",
        "prompts",
        "examples",
        "benchmarks",
        "results",
        "docs",
        "tests",
    ):
        assert f"\n{folder}/" in README or f" {folder}/ " in README
        assert (ROOT / folder).is_dir()


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/*.yaml")), ids=lambda path: path.stem)
def test_example_configurations_are_valid(path):
    values = yaml.safe_load(path.read_text())
    if "algorithm" in values:
        config = validate(TrainConfig, values)
        validate(trainer_spec(config.algorithm).config, config.trainer)


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
