"""Engines: what samples replies behind the contract in `agentbench.engine`."""
