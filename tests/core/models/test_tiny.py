"""Small models made from nothing: tokens are whole entities, folders are plain, weights follow the seed."""

import json

import pytest

from agentbench.errors import UsageError
from agentbench.models.tiny import make_model, make_tokenizer, mine_phrases

pytest.importorskip("transformers", reason="needs the extra 'train'")

TEXTS = [
    "You arrive at cabinet 3. On the cabinet 3, you see a mug 1 and a plate 2.\n> go to cabinet 12",
    "> take mug 1 from cabinet 3\nYou pick up the mug 1 from the cabinet 3.",
] * 5
ENTITIES = ["cabinet 3", "cabinet 1", "cabinet 12", "mug 1", "plate 2"]


def pieces(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]


def test_phrases_are_what_stands_between_entities():
    # each kind occurs 5 times; the words saved are 3 for "You pick up the " (4 words and a space, one token)
    # and for "You arrive at " 3, " from the " 2, ". On the " 3, ", you see a " 4, " and a " 2, "> go to " 3 ...
    found = mine_phrases(TEXTS, ENTITIES, 3)
    assert found == [", you see a ", "You pick up the ", ". On the "]
    assert mine_phrases(reversed(TEXTS), ENTITIES, 3) == found


def test_entities_and_phrases_are_one_token_each(tmp_path):
    phrases = ["You arrive at ", ". On the ", " and a "]
    tokenizer = make_tokenizer(tmp_path, TEXTS, entities=ENTITIES, phrases=phrases)
    assert pieces(tokenizer, "You arrive at cabinet 12. On the mug 1 and a plate 2") == [
        "You arrive at ", "cabinet 12", ". On the ", "mug 1", " and a ", "plate 2",
    ]  # fmt: skip
    assert "cabinet 1" not in pieces(tokenizer, "cabinet 13 xcabinet 1")  # whole words only
    assert pieces(tokenizer, "<|im_start|>user\n<|im_end|>") == ["<|im_start|>", "user\n", "<|im_end|>"]
    # 256 bytes, 3 specials, 3 headers, 3 phrases, 5 entities
    assert len(tokenizer) == 270


@pytest.mark.parametrize("text", ["plain", "cabinet 3 é 你 \n\t  two", "mug 1mug 1", "<|im_end|> x"])
def test_any_text_round_trips(tmp_path, text):
    tokenizer = make_tokenizer(tmp_path, TEXTS, vocab_size=300, entities=ENTITIES)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer) == 300


def test_without_merges_the_tokenizer_is_reproducible(tmp_path):
    for name in ("one", "two"):
        make_tokenizer(tmp_path / name, TEXTS, entities=ENTITIES)
    saved = [json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("one", "two")]
    assert saved[0] == saved[1]


def test_bad_vocabularies_are_refused(tmp_path):
    with pytest.raises(UsageError, match="use at least 259"):
        make_tokenizer(tmp_path, TEXTS, vocab_size=258)
    with pytest.raises(UsageError, match="ASCII"):
        make_tokenizer(tmp_path, TEXTS, entities=["tür 1"])
    tokenizer = make_tokenizer(tmp_path, TEXTS)
    with pytest.raises(UsageError, match="smaller than the tokenizer's 259"):
        make_model(tmp_path, tokenizer, vocab=100)
    with pytest.raises(UsageError, match="must divide hidden=32"):
        make_model(tmp_path, tokenizer, hidden=32, heads=3)


@pytest.mark.parametrize("tie", [True, False])
def test_model_folder_is_plain_and_follows_the_seed(tmp_path, tie):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tokenizer(tmp_path / "a", TEXTS)
    state = torch.random.get_rng_state()
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
        make_model(tmp_path / folder, tokenizer, hidden=32, layers=2, heads=4, kv_heads=2, seed=seed, tie=tie)
    assert torch.equal(state, torch.random.get_rng_state())
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in "abc")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.model.embed_tokens.weight, c.model.embed_tokens.weight)
    assert (a.lm_head.weight is a.model.embed_tokens.weight) == tie
    # embedding 259*32 (twice untied); per layer q 32*32, k and v 32*16, o 32*32, mlp 3*32*96, norms 2*32 + 2*8;
    # 2 layers and a last norm of 32
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 96 + 2 * 32 + 2 * 8
    assert a.num_parameters() == (1 if tie else 2) * 259 * 32 + 2 * layer + 32
    assert a.config.model_type == "qwen3"
    assert a.generation_config.eos_token_id == tokenizer.eos_token_id
    files = {path.name for path in (tmp_path / "b").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files
    assert AutoTokenizer.from_pretrained(tmp_path / "b").chat_template == tokenizer.chat_template
