"""Task panels: versioned YAML files, found by the entry-point group `agentbench.panels`."""
