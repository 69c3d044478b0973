"""Prints requirements at one end of the ranges that pyproject.toml allows: python .ci/bounds.py oldest|newest.

torch is left out: which build fits depends on the machine, so the one of the lock is installed first.
"""

import re
import sys
import tomllib
from pathlib import Path

END = {"oldest": True, "newest": False}


def main() -> None:
    """Print one requirement a line."""
    oldest = END[sys.argv[1]]
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["train"]]:
        name, lowest = re.match(r"([\w.-]+)>=([\w.]+)", requirement).groups()
        if name != "torch":
            print(f"{name}=={lowest}" if oldest else requirement)


if __name__ == "__main__":
    main()
