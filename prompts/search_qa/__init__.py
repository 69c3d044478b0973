"""Search-QA prompts."""
