"""One judge for all tests of the room, the hostile programs, and real benchmark files where they are at hand."""

import pytest
from places import SHARED_DATA

from agentbench.envs.code.judge import Judge
from agentbench.envs.code.sandbox import NoIsolation


@pytest.fixture(scope="session")
def judge():
    try:
        made = Judge()
    except NoIsolation as reason:
        pytest.skip(str(reason))
    yield made
    made.close()


@pytest.fixture(scope="session")
def real():
    folder = SHARED_DATA / "code"
    if not (folder / "HumanEval.jsonl").is_file():
        pytest.skip("the published benchmark files are not at hand")
    return folder
