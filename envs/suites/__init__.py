"""Suites: versioned lists of panels with their protocol, found by the entry-point group `agentbench.suites`."""
