"""Where tests find things, wherever they stand themselves."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real benchmark files, never part of the repository; tests that want them skip where they are absent."""
TOY = TESTS / "core" / "toy_plugin.py"
FAKE_ENDPOINT = TESTS / "support" / "fake_endpoint.py"
FAKE_RETRIEVAL = TESTS / "support" / "fake_retrieval.py"
