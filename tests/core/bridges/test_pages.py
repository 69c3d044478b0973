"""The pages about bridges: their commands exist with those options, their code runs."""

import re
import shlex
import subprocess
import sys

import pytest
from places import ROOT

from agentbench.cli import run

PAGES = sorted((ROOT / "docs" / "bridges").glob("*.md"))
TEXTS = [page.read_text() for page in PAGES]
LINES = sorted(
    {
        line.strip("`").strip()
        for text in TEXTS
        for line in [
            *re.findall(r"^    (agentbench .*)$", text, re.MULTILINE),
            *re.findall(r"`(agentbench [^`]*)`", text),
        ]
    }
)


def test_the_pages_show_commands():
    assert any(line.startswith("agentbench serve-env") for line in LINES)
    assert any(line.startswith("agentbench bridge check") for line in LINES)


@pytest.mark.parametrize("line", LINES)
def test_commands_exist_with_their_options(line, capsys):
    words = shlex.split(line.partition(" -- ")[0])[1:]
    command = words[:2] if words[0] in ("bridge", "data") else words[:1]
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown, f"{option} is no option of {command}"


@pytest.mark.parametrize(
    "code", [code for text in TEXTS for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
)
def test_python_runs(code):
    if "alfworld" in code:
        pytest.importorskip("textworld", reason="the line patches TextWorld")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("option", ["--split", "--key-file", "--max-turns", "--replies", "--max-sessions"])
def test_options_that_the_page_names_are_the_commands(option, capsys):
    run(["serve-env", "--help"])
    assert option in capsys.readouterr().out
    assert any(option in text for text in TEXTS)
