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


def test_every_test_that_the_list_of_faults_names_exists():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "results/fault-kinds/README.md").read_text())
    assert len(named) > 100
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"


def test_the_page_on_training_shows_every_key_with_its_default():
    page = (ROOT / "docs" / "training.md").read_text()
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1))
    config = validate(TrainConfig, shown)
    given = {"algorithm", "output_dir", "model_name_or_path", "name", "split", "panel"}
    sections = [(shown, config), (shown["env"], config.env), (shown["rollout"], config.rollout)]
    sections += [(shown["teachers"][0], config.teachers[0]), (shown["eval"], config.eval)]
    for values, section in sections:
        fields = type(section).model_fields
        assert values.keys() == fields.keys()
        for key in values.keys() - given - {"env", "rollout", "teachers", "eval"}:
            assert getattr(section, key) == fields[key].get_default(call_default_factory=True), key
