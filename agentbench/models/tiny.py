"""Makes small models from nothing: a byte-pair tokenizer with a ChatML template, and a random Qwen3-shaped model.

Both are saved as plain Hugging Face folders, so that everything runs offline by the code that runs real checkpoints.
Leaves out training (see `agentbench.trainers`). Needs the extra `train`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, missing_dependency
from .chatml import CHATML_TEMPLATE, END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, START_OF_TURN

_HEADERS = ("system\n", "user\n", "assistant\n")


def make_tokenizer(
    folder: Path | str,
    texts: Iterable[str],
    *,
    vocab_size: int | None = None,
    entities: Sequence[str] = (),
    phrases: Sequence[str] = (),
) -> Any:
    """Train a byte-level BPE tokenizer with ChatML special tokens and save it.

    Train once and share the folder: byte-pair training breaks ties between equally frequent pairs in an order that
    changes from run to run, so two trainings on one text may differ. Without `vocab_size` nothing is trained and the
    result is reproducible.

    Args:
        folder: where the tokenizer is saved; made when absent.
        texts: what to train on; any text can be encoded afterwards, byte by byte if need be.
        vocab_size: upper limit of all tokens: 256 bytes, the special, entity and phrase tokens, and as many merges as
            fit; None trains no merges.
        entities: strings that become one token each where they stand as whole words ("cabinet 3").
        phrases: further one-token strings, spaces included, wherever they occur; see `mine_phrases`.
    Returns: the tokenizer, as AutoTokenizer loads it from `folder`.
    """
    try:
        import tokenizers
        import transformers
    except ImportError as error:
        raise missing_dependency("transformers", "train", "making a tokenizer") from error
    whole = _checked([*_HEADERS, *phrases]) if entities or phrases else []
    words = [entity for entity in _checked(entities) if entity not in whole]
    extra = len(SPECIAL_TOKENS) + len(whole) + len(words)
    if vocab_size is not None and vocab_size < 256 + extra:
        raise UsageError(
            f"vocab_size={vocab_size} cannot hold 256 bytes and {extra} special, entity and phrase tokens; "
            f"use at least {256 + extra}"
        )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 if vocab_size is None else vocab_size - extra,
        show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    borders = _borders(words, whole)
    backend.train_from_iterator((part for text in texts for part in borders.split(text) if part), trainer)
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    backend.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in whole])
    backend.add_tokens([tokenizers.AddedToken(text, normalized=False, single_word=True) for text in words])
    hf: Any = transformers
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START_OF_TURN],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return hf.AutoTokenizer.from_pretrained(str(folder))


def _checked(texts: Sequence[str]) -> list[str]:
    """Drop repeats; refuse what a byte-level decoder could not give back unchanged."""
    for text in texts:
        if not text or not text.isascii():
            raise UsageError(f"an entity or phrase token must be non-empty ASCII text, got {text!r}")
    return list(dict.fromkeys(texts))


def _borders(words: Sequence[str], anywhere: Sequence[str]) -> re.Pattern[str]:
    """Match what is a token of its own: whole words, other strings, chat markers; the longest first."""
    parts = [*map(re.escape, [*SPECIAL_TOKENS, *anywhere]), *(rf"(?<!\w){re.escape(w)}(?!\w)" for w in words)]
    return re.compile("|".join(sorted(parts, key=lambda part: (-len(part), part))))


def mine_phrases(texts: Iterable[str], entities: Sequence[str], limit: int) -> list[str]:
    """Find the texts between entities that are worth one token each, such as "You arrive at ".

    A phrase's worth is its number of occurrences times the words it saves. Deterministic: ties go to the phrase that
    sorts first. Line breaks and chat markers end a phrase.

    Args:
        texts: what the model will read and write.
        entities: the strings that are tokens of their own.
        limit: how many phrases at most.
    Returns: phrases by falling worth, spaces around them included.
    """
    borders = _borders(entities, ["\n"])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(part for part in borders.split(text) if part)
    worth = {part: count * (len(part.split()) + part.endswith(" ") - 1) for part, count in counts.items()}
    best = sorted(
        (part for part in worth if worth[part] > 0 and part.isascii()), key=lambda p: (-worth[p], p)
    )
    return best[:limit]


def make_model(
    folder: Path | str,
    tokenizer: Any = None,
    *,
    hidden: int = 96,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int | None = None,
    max_position: int = 2048,
    seed: int = 0,
    tie: bool = True,
) -> Path:
    """Write a random model of the Qwen3 architecture as a plain Hugging Face folder.

    Deterministic: equal arguments give equal weights with one torch version; the global random state is untouched.

    Args:
        folder: where config, weights (safetensors), generation config and tokenizer go.
        tokenizer: a tokenizer object to save along; None takes the one already in `folder`.
        hidden: width; the feed-forward part is three times as wide.
        layers: number of decoder layers.
        heads: query heads; must divide `hidden`.
        kv_heads: key-value heads; must divide `heads`.
        vocab: rows of the embedding; None takes the tokenizer's size, more pads it.
        max_position: longest text the model is configured for.
        seed: of the weights.
        tie: share embedding and output head.
    Returns: `folder`.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise missing_dependency("transformers", "train", "making a model") from error
    from .loading import quiet_transformers

    hf: Any = transformers
    folder = Path(folder)
    if tokenizer is None:
        tokenizer = hf.AutoTokenizer.from_pretrained(str(folder))
    size = len(tokenizer) if vocab is None else vocab
    if size < len(tokenizer):
        raise UsageError(
            f"vocab={size} is smaller than the tokenizer's {len(tokenizer)} tokens; leave it out or pad"
        )
    if hidden % heads or heads % kv_heads or (hidden // heads) % 2:
        raise UsageError(
            f"heads={heads} must divide hidden={hidden} into even parts, and kv_heads={kv_heads} must divide heads"
        )
    config = hf.Qwen3Config(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=max_position,
        tie_word_embeddings=tie,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.Qwen3ForCausalLM(config)
    model.eval()
    model.generation_config = hf.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    with quiet_transformers():
        model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
