"""vLLM in this process and behind servers."""
