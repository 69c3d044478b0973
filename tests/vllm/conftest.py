import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests here share vllm_cases.py

ABSENT = importlib.util.find_spec("vllm") is None


def pytest_collection_modifyitems(items):
    """vLLM and its dependencies warn a lot; nothing here is about their warnings."""
    for item in items:
        if Path(__file__).parent not in Path(item.path).parents:
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore"))
        if ABSENT:
            item.add_marker(pytest.mark.skip(reason="vllm is not installed: make test-vllm"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Model folders by name: "tied", "untied", and "bf16" (tied, softer), with one tokenizer."""
    from vllm_cases import write_models

    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tied(folders):
    """The engine most tests share; a test that changes its weights puts them back."""
    from agentbench.engines.vllm.opening import build

    return build(str(folders["tied"]), slots=16)


@pytest.fixture(scope="session")
def untied(folders):
    from agentbench.engines.vllm.opening import build

    return build(str(folders["untied"]), slots=16)


@pytest.fixture(scope="session")
def bf16(folders):
    from agentbench.engines.vllm.opening import build

    return build(str(folders["bf16"]), slots=16, dtype="bfloat16")


@pytest.fixture(scope="session")
def reference(folders):
    """The tied model in transformers."""
    from vllm_cases import load

    return load(folders["tied"])
