"""The shop: pages, catalogue, search, goals, reward."""
