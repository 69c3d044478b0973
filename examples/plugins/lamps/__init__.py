"""An environment and an algorithm for agentbench, in a package of their own."""
