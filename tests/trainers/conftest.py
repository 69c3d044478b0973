import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders "student" and "teacher" with one tokenizer."""
    from trainer_cases import write_model

    from agentbench.models.tiny import make_tokenizer

    root = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer(root / "tokenizer", [])
    return {
        "tokenizer": tokenizer,
        "student": write_model(root / "student", tokenizer, seed=1),
        "teacher": write_model(root / "teacher", tokenizer, seed=2),
    }
