"""`python -m agentbench` is the command `agentbench`."""

from .cli import main

if __name__ == "__main__":
    main()
