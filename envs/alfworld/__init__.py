"""ALFWorld: household text games, official and generated. Importing it registers `agentbench/ALFWorld-v1`."""

from .env import SPEC, AlfworldEnv

__all__ = ["SPEC", "AlfworldEnv"]
