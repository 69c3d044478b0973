"""BM25 as Lucene computes it: text to index terms, scores equal to the bit, an index that is mapped from disk."""
