"""Exact nearest vectors by inner product: a mapped matrix, multiplied in pieces. Leaves out where vectors come from.

Float products differ in their last bits between processors, widths and pieces, so products only choose candidates; the
candidates' scores are computed anew in float64, and equal ones are listed by row. Hence the answer is the same for any
batch, piece, number of shards and device.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptData, MissingData, UsageError, missing_dependency

SPARE = 32
"""Candidates kept beyond k; if even the last of them is within rounding of the k-th, everything is looked at again."""

_PRODUCT = 1 << 25
"""Scores held at a time on a CPU: 128 MiB in float32; four times as many on a GPU."""

_CONVERTED = 1 << 24
_RESCORED = 1 << 22

Vectors = NDArray[Any]
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


class FlatIndex:
    """Rows of a matrix, found by their inner product with a query."""

    def __init__(self, vectors: Vectors, devices: Sequence[str] = ("cpu",)) -> None:
        """Bind vectors.

        Args:
            vectors: float16 or float32 [N, D], mapped or in memory.
            devices: one shard of rows on each, in order; "cpu" reads the map, "cuda:0" holds its shard in memory.
        Raises: UsageError: the vectors are of another kind, or no device is given. MissingDependency: no torch.
        """
        if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32) or not vectors.size:
            raise UsageError(
                f"vectors must be float16 or float32 [rows, dimensions], got {vectors.dtype} {vectors.shape}"
            )
        if not devices:
            raise UsageError("name at least one device, such as cpu or cuda:0")
        self.vectors = vectors
        edges = np.linspace(0, len(vectors), min(len(devices), len(vectors)) + 1).astype(int).tolist()
        self._shards = [
            _Shard(vectors[start:end], start, device_of(name))
            for name, start, end in zip(devices, edges, edges[1:], strict=False)
        ]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        """Find the k rows with the greatest products.

        Args:
            queries: float32 [Q, D].
            k: how many at most, > 0.
        Returns: rows int64 and scores float32 [Q, min(k, N)], best first, equal scores by row.
        """
        found = [shard.search(queries, k) for shard in self._shards]
        rows = np.concatenate([part[0] for part in found], axis=1)
        scores = np.concatenate([part[1] for part in found], axis=1)
        return _best(rows, scores, min(k, len(self)))


@dataclass(eq=False)
class _Shard:
    """Some rows in a row, on one device."""

    vectors: Vectors
    first: int
    device: Any
    _resident: Any = field(init=False, default=None)
    _longest: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.device.type != "cpu":
            self._resident = self._load()

    def _load(self) -> Any:
        """Copy the shard to its device piece by piece; the file is never held a second time."""
        import torch

        shape, kind = self.vectors.shape, _torch_dtype(self.vectors)
        held = torch.empty(shape, dtype=kind, device=self.device)
        step = max(1, _CONVERTED // shape[1])
        for start in range(0, shape[0], step):
            held[start : start + step] = torch.from_numpy(np.array(self.vectors[start : start + step]))
        return held

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        """Find the k best rows of the shard; see `FlatIndex.search`."""
        import torch

        k = min(k, len(self.vectors))
        kept = min(k + SPARE, len(self.vectors))
        with torch.inference_mode():
            asked = torch.from_numpy(np.ascontiguousarray(queries, np.float32)).to(self.device)
            values, places = self._candidates(asked, kept)
            rows, scores = _best(places, self._exact(asked, places), k)
            if kept < len(self.vectors):
                slack = self._slack(asked)
                for number in np.flatnonzero(values[:, -1] >= scores[:, -1] - slack).tolist():
                    floor = float(scores[number, -1]) - float(slack[number])
                    rows[number], scores[number] = self._all_above(asked[number : number + 1], floor, k)
        return rows + self.first, scores

    def _products(self, asked: Any) -> Any:
        """Yield (first row, products [Q, C] in float32, largest vector's length) piece by piece."""
        import torch

        on_cpu = self._resident is None
        step = (_PRODUCT if on_cpu else 4 * _PRODUCT) // max(1, len(asked))
        step = max(1, min(step, _CONVERTED // asked.shape[1] if on_cpu else step))
        for start in range(0, len(self.vectors), step):
            if on_cpu:  # NumPy multiplies a map as it lies; torch would want a copy that may be written
                part = np.asarray(self.vectors[start : start + step], np.float32)
                length = (
                    0.0
                    if self._longest is not None
                    else float(np.einsum("ij,ij->i", part, part).max()) ** 0.5
                )
                yield start, torch.from_numpy(asked.numpy() @ part.T), length
            else:
                piece = self._resident[start : start + step].float()
                length = 0.0 if self._longest is not None else float(piece.norm(dim=1).max())
                yield start, asked @ piece.T, length

    def _candidates(self, asked: Any, kept: int) -> tuple[NDArray[np.float32], Rows]:
        """Return the `kept` rows with the greatest products, nearly sorted, and those products."""
        import torch

        values = torch.empty((len(asked), 0), device=self.device)
        places = torch.empty((len(asked), 0), dtype=torch.int64, device=self.device)
        longest = 0.0
        for start, products, length in self._products(asked):
            longest = max(longest, length)
            best, where = products.topk(min(kept, products.shape[1]), dim=1)
            values, places = torch.cat([values, best], 1), torch.cat([places, where + start], 1)
            values, order = values.topk(min(kept, values.shape[1]), dim=1)
            places = places.gather(1, order)
        if self._longest is None:
            self._longest = longest
        return values.cpu().numpy(), places.cpu().numpy()

    def _slack(self, asked: Any) -> NDArray[np.float32]:
        """How far a float32 product may be off [Q]: the bound for sums of D terms, both sides."""
        assert self._longest is not None
        lengths = asked.norm(dim=1).cpu().numpy()
        slack: NDArray[np.float32] = lengths * np.float32(self._longest * self.vectors.shape[1] * 2.0**-22)
        return slack

    def _exact(self, asked: Any, places: Rows) -> Scores:
        """Compute products of rows [Q, K] with their queries in float64, rounded to float32."""
        wanted, scores = asked.cpu().numpy().astype(np.float64), np.empty(places.shape, np.float32)
        step = max(1, _RESCORED // (places.shape[1] * wanted.shape[1]))
        for start in range(0, len(places), step):
            block = slice(start, start + step)
            taken = self._take(places[block].reshape(-1)).astype(np.float64)
            taken = taken.reshape(*places[block].shape, -1)
            scores[block] = (taken * wanted[block, None]).sum(-1)
        return scores

    def _take(self, places: Rows) -> Vectors:
        if self._resident is None:
            return np.asarray(self.vectors[places])
        taken: Vectors = self._resident[places].cpu().numpy()
        return taken

    def _all_above(self, asked: Any, floor: float, k: int) -> tuple[Rows, Scores]:
        """Score every row of one query whose product reaches `floor`; for indexes with many equal vectors."""
        import torch

        rows, scores = np.empty((1, 0), np.int64), np.empty((1, 0), np.float32)
        for start, products, _ in self._products(asked):
            places = torch.nonzero(products[0] >= floor).flatten().cpu().numpy() + start
            for piece in np.array_split(places, 1 + len(places) * asked.shape[1] // _RESCORED):
                if len(piece):
                    more = self._exact(asked, piece[None])
                    rows, scores = np.concatenate([rows, piece[None]], 1), np.concatenate([scores, more], 1)
                    rows, scores = _best(rows, scores, min(k, rows.shape[1]))
        return rows[0], scores[0]


def _best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Order [Q, M] by score, equal ones by row, and keep k."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def device_of(name: str) -> Any:
    """Find a device; raises UsageError where torch does not see it."""
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "train", "dense retrieval") from error
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}; allowed: cpu, cuda:0, cuda:1 ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"no device {name!r}; torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _torch_dtype(vectors: Vectors) -> Any:
    import torch

    return torch.float16 if vectors.dtype == np.float16 else torch.float32


# --- files ---


class FaissIndex:
    """Any faiss index that ranks by inner product, searched by faiss itself; may be approximate."""

    def __init__(self, path: Path) -> None:
        """Read an index file; needs the package faiss (faiss-cpu or faiss-gpu)."""
        try:
            import faiss
        except ImportError as error:
            raise missing_faiss(path) from error
        # the default sends small batches through a loop that is twenty times slower than BLAS
        faiss.cvar.distance_compute_blas_threshold = 20
        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise CorruptData(f"index {path} cannot be read by faiss: {reason}") from error
        if self._index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise UsageError(
                f"index {path} does not rank by inner product; build it with METRIC_INNER_PRODUCT"
            )

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        """Find rows as `FlatIndex.search` does; -1 where faiss found too few."""
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, len(self)))
        return rows, scores


def missing_faiss(path: Path) -> UsageError:
    """Build the error for an index file that only faiss can read."""
    return UsageError(
        f"index {path} is not flat, so the package faiss has to read it; run: pip install faiss-cpu"
    )


def open_vectors(path: str | Path, devices: Sequence[str] = ("cpu",)) -> FlatIndex | FaissIndex:
    """Open an index file.

    Args:
        path: a .npy of float16 or float32 [rows, dimensions], or a faiss index. Flat ones (IndexFlatIP, as the field's
            published index is) are mapped without faiss, others are read by it.
        devices: see `FlatIndex`.
    Raises: MissingData: no such file. CorruptData: it is broken. UsageError: it is of a kind that cannot be used.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise MissingData(f"no index at {path}: {error.strerror}; name a .npy or a faiss file") from error
    if head.startswith(b"\x93NUMPY"):
        try:
            return FlatIndex(np.load(path, mmap_mode="r"), devices)
        except ValueError as error:
            if isinstance(error, UsageError):
                raise UsageError(f"index {path}: {error}") from error
            raise CorruptData(f"index {path} cannot be read: {error}") from error
    if head[:4] in (b"IxFI", b"IxF2"):
        return FlatIndex(_flat_faiss(path, head), devices)
    return FaissIndex(path)


def _flat_faiss(path: Path, head: bytes) -> NDArray[np.float32]:
    """Map the vectors of a faiss IndexFlat file.

    Its head: name, dimensions (int32), vectors (int64), two unused int64, trained (bool), metric (int32; 0 is inner
    product), then the number of float32 values (int64) and the values.
    Source: faiss, index_write.cpp.
    """
    if head[:4] == b"IxF2":
        raise UsageError(
            f"index {path} ranks by distance, not by inner product; build it with METRIC_INNER_PRODUCT"
        )
    try:
        dimensions, count, _, _, _, metric, values = struct.unpack_from("<iqqq?iq", head, 4)
    except struct.error as error:
        raise CorruptData(f"index {path} is cut off") from error
    start = 4 + struct.calcsize("<iqqq?iq")
    if metric != 0 or dimensions <= 0 or values != dimensions * count:
        raise CorruptData(
            f"index {path}: {values} values for {count} vectors of {dimensions}, metric {metric}"
        )
    if os.path.getsize(path) < start + 4 * values:
        raise CorruptData(f"index {path} is cut off: {os.path.getsize(path)} bytes of {start + 4 * values}")
    return np.memmap(path, np.dtype("<f4"), "r", start, (count, dimensions))
