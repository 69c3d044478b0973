"""Programs as tasks: write, run, read the error, fix; judged in a sandbox that fails closed."""
