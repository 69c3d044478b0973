"""BM25 as Lucene computes it, on mapped arrays."""
