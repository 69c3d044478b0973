"""Who acts: experts, scripts and language models behind the contract in `agentbench.policy`."""
