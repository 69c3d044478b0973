"""Benchmarks: one package (or module) each, found by the entry-point group `agentbench.envs`.

Adding one takes a `TextEnv`, an `EnvSpec` and one entry point: see docs/adding-an-environment.md.
"""
