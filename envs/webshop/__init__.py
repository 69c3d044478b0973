"""WebShop in one process: catalogue, search, pages, reward and goals of the original shop, without Java or a server.

Importing it registers `agentbench/WebShop-v1`.
"""

from .env import SPEC, WebShopEnv

__all__ = ["SPEC", "WebShopEnv"]
