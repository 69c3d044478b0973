import sys
from pathlib import Path

HERE = Path(__file__).parent
# Only these two: with this folder itself on the path, tests/vllm would pass for the package vllm.
sys.path[:0] = [str(HERE / "support"), str(HERE / "trainers")]
