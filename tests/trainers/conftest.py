import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders "student" and "teacher" with one tokenizer."""
    return _pair(tmp_path_factory.mktemp("models"), 256)


@pytest.fixture(scope="session")
def long_models(tmp_path_factory):
    """The same for prompts of thousands of tokens."""
    return _pair(tmp_path_factory.mktemp("long"), 4096)


def _pair(root, positions):
    from trainer_cases import write_model

    from agentbench.models.tiny import make_tokenizer

    tokenizer = make_tokenizer(root / "tokenizer", [])
    return {
        "tokenizer": tokenizer,
        "student": write_model(root / "student", tokenizer, seed=1, positions=positions),
        "teacher": write_model(root / "teacher", tokenizer, seed=2, positions=positions),
    }
