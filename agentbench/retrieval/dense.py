"""Dense retrieval: texts become vectors by a Hugging Face encoder, and the nearest passages are found exactly.

The field's protocol is E5-base-v2: prefixes "query: " and "passage: ", mean over the tokens, length 1, inner product.
All of it are settings, since other encoders want others. Leaves out the search among vectors (`flat`).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets import Progress, silent
from ..errors import CorruptData, UsageError, missing_dependency
from ..models.loading import DTYPES, check_name, quiet_transformers
from .contract import Hit, check_k, clean_query
from .flat import FaissIndex, FlatIndex, open_vectors
from .passages import Passages
from .store import alone, cache_folder

__all__ = ["DenseRetriever", "Encoder", "FlatIndex", "open_dense"]

POOLINGS = ("mean", "cls")
_BUILD_ROWS = 4096


class Encoder:
    """Turns texts into vectors; may be used from any thread, one at a time is served."""

    def __init__(
        self,
        model: str | Path,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        pooling: str = "mean",
        normalise: bool = True,
        query_tokens: int = 256,
        passage_tokens: int = 256,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        """Load a model.

        Args:
            model: a local Hugging Face folder, or a hub id.
            query_prefix: put before queries: "query: " for E5; None is taken from the folder's
                config_sentence_transformers.json, and an error where that does not say.
            passage_prefix: put before passages: "passage: " for E5; None as above.
            pooling: "mean" over the tokens or "cls", the first one.
            normalise: scale vectors to length 1.
            query_tokens: queries are cut to so many tokens, prefix and special ones included; passages alike.
            passage_tokens: see `query_tokens`.
            dtype: "auto" is float16 on CUDA and float32 elsewhere.
            device: "auto" takes CUDA when there is one.
            batch_size: texts encoded at a time.
        Raises: UsageError: a value makes no sense. CorruptData: the model is broken. MissingDependency: no torch.
        """
        if pooling not in POOLINGS:
            raise UsageError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if min(query_tokens, passage_tokens, batch_size) < 1:
            raise UsageError("query_tokens, passage_tokens and batch_size must be at least 1")
        folder = str(Path(model).expanduser()) if check_name(str(model)) else str(model)
        self.query_prefix, self.passage_prefix = _prefixes(folder, query_prefix, passage_prefix)
        self.pooling, self.normalise, self.batch_size = pooling, normalise, batch_size
        self.query_tokens, self.passage_tokens = query_tokens, passage_tokens
        self._model, self._tokenizer = _load(folder, dtype, device)
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and max(query_tokens, passage_tokens) > longest:
            raise UsageError(
                f"{folder!r} reads {longest} tokens at most, got {max(query_tokens, passage_tokens)}"
            )
        self._lock = threading.Lock()
        self.digest = self._digest()

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors float32 [N, D]."""
        return self._encode([self.query_prefix + text for text in texts], self.query_tokens)

    def encode_passages(self, contents: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors float32 [N, D] of passages' `contents`."""
        return self._encode([self.passage_prefix + text for text in contents], self.passage_tokens)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._model.config.hidden_size)

    def _encode(self, texts: list[str], limit: int) -> NDArray[np.float32]:
        """Encode in batches of texts of like length, which are padded least."""
        import torch

        vectors = np.empty((len(texts), self.dimensions), np.float32)
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        with self._lock, torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                vectors[chosen] = self._batch([texts[number] for number in chosen], limit)
        return vectors

    def _batch(self, texts: list[str], limit: int) -> NDArray[np.float32]:
        import torch

        ids = self._tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        ids = ids.to(self._model.device)
        hidden = self._model(**ids).last_hidden_state.float()
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = ids["attention_mask"].unsqueeze(-1)
            pooled = hidden.masked_fill(mask == 0, 0.0).sum(1) / mask.sum(1).clamp(min=1)
        if self.normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        found: NDArray[np.float32] = pooled.cpu().numpy()
        if not np.isfinite(found).all():
            raise CorruptData("the encoder gives vectors that are not finite; try dtype float32")
        return found

    def _digest(self) -> str:
        """Hash everything that decides a vector."""
        import torch

        hasher = hashlib.sha256()
        facts = [self.query_prefix, self.passage_prefix, self.pooling, self.normalise]
        facts += [self.query_tokens, self.passage_tokens, str(self._model.dtype), _spelt(self._tokenizer)]
        hasher.update(json.dumps(facts).encode())
        for name, tensor in self._model.state_dict().items():
            hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()


def _prefixes(folder: str, query: str | None, passage: str | None) -> tuple[str, str]:
    """Fill in what the model's folder says about prefixes; a wrong one costs quality without a sign, so ask."""
    prompts: dict[str, Any] = {}
    path = Path(folder) / "config_sentence_transformers.json"
    if path.is_file():
        try:
            prompts = json.loads(path.read_bytes()).get("prompts") or {}
        except (ValueError, AttributeError) as error:
            raise CorruptData(f"{path} is broken: {error}") from error
    query = prompts.get("query") if query is None else query
    passage = prompts.get("passage", prompts.get("document")) if passage is None else passage
    if query is None or passage is None:
        raise UsageError(
            f"say which prefixes {folder!r} wants: query_prefix and passage_prefix, "
            "'query: ' and 'passage: ' for E5, '' for encoders without"
        )
    return query, passage


def _load(folder: str, dtype: str, device: str) -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise missing_dependency(error.name or "transformers", "train", "dense retrieval") from error
    from .flat import device_of

    where = device_of(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    wanted = ("float16" if where.type == "cuda" else "float32") if dtype == "auto" else DTYPES.get(dtype)
    if wanted is None:
        raise UsageError(f"no dtype {dtype!r}; allowed: auto, {', '.join(DTYPES)}")
    source = {"local_files_only": True} if Path(folder).is_dir() else {}
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, **source)
            model, report = AutoModel.from_pretrained(
                folder, dtype=getattr(torch, wanted), output_loading_info=True, **source
            )
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise CorruptData(f"cannot load the encoder {folder!r}: {type(error).__name__}: {first}") from error
    if model.config.is_encoder_decoder:
        raise UsageError(f"{folder!r} is an encoder-decoder; name an encoder, such as intfloat/e5-base-v2")
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise CorruptData(f"the encoder {folder!r} lacks {len(missing)} tensors, such as {missing[0]!r}")
    if tokenizer.pad_token is None:
        raise UsageError(f"the tokenizer of {folder!r} has no padding token; set one and save it again")
    return model.to(where).eval(), tokenizer


def _spelt(tokenizer: Any) -> str:
    """A text that differs where the tokenizer does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    settings = json.loads(text)
    if isinstance(settings, dict):  # set by every call, so they say what was encoded last
        settings = {key: value for key, value in settings.items() if key not in ("truncation", "padding")}
    return json.dumps(settings, sort_keys=True)


class DenseRetriever:
    """Finds passages by the nearness of vectors; see `Retriever`."""

    name = "dense"

    def __init__(
        self, passages: Passages, encoder: Encoder, index: FlatIndex | FaissIndex, digest: str
    ) -> None:
        """Bind passages and the vectors of their rows.

        Raises: UsageError: index and passages differ in number, or index and encoder in dimensions.
        """
        if len(index) != len(passages):
            raise UsageError(
                f"the index has {len(index)} rows, the corpus {len(passages)} passages; they must agree"
            )
        if index.dimensions != encoder.dimensions:
            raise UsageError(f"the index has {index.dimensions} dimensions, the encoder {encoder.dimensions}")
        self.passages, self.encoder, self.index, self.digest = passages, encoder, index, digest
        self._lock = threading.Lock()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find the best passages for each query; see `Retriever.search`. An empty query finds what lies nearest too."""
        check_k(k)
        if not queries:
            return []
        vectors = self.encoder.encode_queries([clean_query(query) for query in queries])
        with self._lock:
            rows, scores = self.index.search(vectors, k)
        return [
            # a row below 0 stands where an approximate index found too few
            [Hit(self.passages[row], score) for row, score in zip(*pair, strict=True) if row >= 0]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def close(self) -> None:
        """Do nothing: memory is given back with the object."""


def open_dense(
    corpus: str | Path | Passages,
    encoder: str | Path | Encoder,
    *,
    index: str | Path | None = None,
    folder: str | Path | None = None,
    devices: Sequence[str] | None = None,
    index_dtype: str = "float16",
    progress: Progress = silent,
    **settings: Any,
) -> DenseRetriever:
    """Open the vectors of a corpus, encoding it the first time.

    Args:
        corpus: a JSONL file, or passages.
        encoder: a model folder or hub id, or an encoder.
        index: vectors made elsewhere, in the order of the corpus: .npy or faiss; None encodes the corpus.
        folder: where indexes are kept; None is `cache_folder()`.
        devices: where rows lie, one shard on each; None is all CUDA devices, else the CPU.
        index_dtype: "float16" or "float32", how vectors are kept.
        progress: told passages while encoding.
        settings: of `Encoder`.
    Raises: UsageError, MissingData, CorruptData: something does not fit, is absent or broken.
    """
    if index_dtype not in ("float16", "float32"):
        raise UsageError(f"index_dtype must be float16 or float32, got {index_dtype!r}")
    if isinstance(encoder, Encoder):
        if settings:
            raise UsageError(f"{', '.join(settings)}: settings of an encoder, which is there already")
        model = encoder
    else:
        model = _encoder(encoder, settings)
    home = Path(folder) if folder is not None else cache_folder()
    passages = (
        corpus if isinstance(corpus, Passages) else Passages.open(corpus, cache=home, progress=progress)
    )
    where = _all_devices() if devices is None else devices
    if index is None:
        digest = _hash("dense", 1, passages.digest, model.digest, index_dtype)
        place = _built(home / f"dense-{digest[:32]}.npy", passages, model, np.dtype(index_dtype), progress)
    else:
        place = Path(index)
    vectors = open_vectors(place, where)
    if index is not None:
        digest = _hash("dense", 1, passages.digest, model.digest, _sampled(place))
    return DenseRetriever(passages, model, vectors, digest)


def _encoder(model: str | Path, settings: dict[str, Any]) -> Encoder:
    import inspect

    known = list(inspect.signature(Encoder.__init__).parameters)[2:]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise UsageError(
            f"retriever 'dense' has no setting {unknown[0]!r}; an encoder has {', '.join(known)}"
        )
    return Encoder(model, **settings)


def _all_devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return ["cpu"]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def _hash(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _sampled(path: Path) -> str:
    """Tell index files apart by size and 64 evenly spaced blocks: hashing all of a large one takes minutes."""
    size, hasher = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for number in range(64):
            file.seek(number * max(0, size - (1 << 16)) // 63)
            hasher.update(file.read(1 << 16))
    return f"{size} {hasher.hexdigest()}"


def _built(place: Path, passages: Passages, model: Encoder, dtype: np.dtype[Any], progress: Progress) -> Path:
    """Encode a corpus into `place`; what an interrupted run encoded is kept and gone on from."""
    if place.exists():
        return place
    with alone(place):
        if place.exists():
            return place
        part, counter = place.with_suffix(".part"), place.with_suffix(".rows")
        shape = (len(passages), model.dimensions)
        done = _counted(counter) if part.exists() else 0
        mode = "r+" if done else "w+"
        vectors = np.lib.format.open_memmap(part, mode, dtype, shape)
        for start in range(done, len(passages), _BUILD_ROWS):
            end = min(start + _BUILD_ROWS, len(passages))
            found = model.encode_passages([passages[number].contents for number in range(start, end)]).astype(
                dtype
            )
            if not np.isfinite(found).all():
                raise UsageError("vectors are too large for float16; set index_dtype to float32")
            vectors[start:end] = found
            vectors.flush()
            counter.write_text(str(end))  # after the rows are on disk
            progress(end, len(passages), f"encoding {os.path.basename(passages.source)}")
        del vectors
        os.replace(part, place)
        counter.unlink(missing_ok=True)
    return place


def _counted(counter: Path) -> int:
    try:
        return int(counter.read_text())
    except (FileNotFoundError, ValueError):
        return 0
