"""What runs inside the sandbox: standard library only, no import of the rest of the project."""
