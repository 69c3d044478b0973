"""Bridges between this project's environments and other people's loops and trainers."""

from .bridge import Bridge, SideBySide, find_bridge, from_environment, say_once

__all__ = ["Bridge", "SideBySide", "find_bridge", "from_environment", "say_once"]
