"""What docs/retrieval.md says works."""

import re
import shlex
import subprocess
import sys

import pytest
from places import ROOT

from agentbench.cli import run
from agentbench.retrieval.client import ClientRetriever
from agentbench.retrieval.dense import Encoder, open_dense

PAGE = (ROOT / "docs" / "retrieval.md").read_text()


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("Oslo ")


@pytest.mark.parametrize("line", re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].splitlines())
def test_the_commands_exist_with_their_options(line, capsys):
    words = shlex.split(line)
    assert words[:3] == ["agentbench", "serve", "retriever"]
    assert run(["serve", "retriever", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown


def test_the_settings_exist():
    import inspect

    known = {
        name for made in (Encoder, open_dense, ClientRetriever) for name in inspect.signature(made).parameters
    }
    table = PAGE.partition("| setting |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        for name in re.findall(r"`(\w+)`", row.split("|")[1]):
            assert name in known, name
