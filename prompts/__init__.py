"""Prompt templates, one folder per benchmark: YAML files only, read by `agentbench.dialogue.prompt`."""
