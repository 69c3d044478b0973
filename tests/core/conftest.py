import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random model that speaks of the corridor; the folder's path."""
    from agentbench.models.tiny import make_model, make_tokenizer

    folder = tmp_path_factory.mktemp("model")
    words = [
        f"Room {n} of {m}. The red door is left, the blue door is right." for n in range(8) for m in range(8)
    ]
    texts = [*words, "go left", "go right", "open door", "Leave by the green, yellow, white or black door."]
    return str(make_model(folder, make_tokenizer(folder, texts, vocab_size=400), hidden=32, layers=1))
