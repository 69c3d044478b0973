"""Passages found for a query: BM25, dense vectors or a server behind one protocol. Knows no benchmark."""

from .contract import Hit, Passage, Retriever
from .passages import Passages, read_passages, write_passages

__all__ = ["Hit", "Passage", "Passages", "Retriever", "read_passages", "write_passages"]
