"""The official WebShop files as a dataset plug-in: import into mapped stores, verification, published sources.

Two sets may be there side by side: "small" (1,000 products) and "full" (1.18 million). Leaves out what the files say
(`products`) and how they are used (`market`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agentbench.datasets import Dataset, ImportReport, Progress, Source
from agentbench.errors import CorruptData

from ..shop.catalog import fingerprint_of
from ..shop.goals import ORDERS, GoalTable
from ..shop.products import CatalogFiles, read_products
from .generate import ATTRIBUTES_FILE, HUMAN_FILE, ITEMS_FILE
from .market import NAME, OFFICIAL, build_stock, counted, open_stock

FINGERPRINTS = {"small": "edd702daa63627a6"}
"""Content of the catalogues that the shipped panels were made from."""

_FILES = {"small": (ITEMS_FILE, ATTRIBUTES_FILE), "full": ("items_shuffle.json", "items_ins_v2.json")}
_HUMAN = (HUMAN_FILE, "items_human_ins_1000.json")
_MIRROR = (
    "https://huggingface.co/datasets/YWZBrandon/webshop-data/resolve/ce990fff5aee388db2706f07820c578ab68e0453"
)


def find_files(folder: Path) -> dict[str, CatalogFiles]:
    """Return the sets of official files in a folder, by catalogue name."""
    human = next((folder / name for name in _HUMAN if (folder / name).is_file()), None)
    return {
        name: CatalogFiles(folder / items, folder / attributes, human)
        for name, (items, attributes) in _FILES.items()
        if (folder / items).is_file() and (folder / attributes).is_file()
    }


def import_dir(src: Path, dest: Path, progress: Progress) -> ImportReport:
    """Store and index every set of official files in `src`.

    Args:
        src: folder with items_shuffle*.json, items_ins_v2*.json and items_human_ins.json.
        dest: empty folder to fill.
        progress: told how far it is; the full set takes minutes.
    """
    for name, files in find_files(src).items():
        build_stock(read_products(files), dest / name, progress)
    return _report(dest)


def verify(folder: Path, progress: Progress) -> ImportReport:
    """Read every product again and compare with what was stored."""
    problems = []
    for name in _present(folder):
        try:
            goods = open_stock(folder / name)
            size = len(goods.catalog)
            products = (goods.catalog.read(place) for place in range(size))
            seen = fingerprint_of(counted(products, size, progress, f"{name} products"))
            if seen != goods.catalog.fingerprint:
                problems.append(f"{folder / name}: the products have changed on disk; import them again")
            elif not np.array_equal(goods.index.rank, goods.catalog.rank):
                problems.append(
                    f"{folder / name}: the search index belongs to other products; import them again"
                )
        except (CorruptData, ValueError, KeyError, IndexError, TypeError, EOFError, OSError) as error:
            problems.append(f"{folder / name}: {error}")
    if problems:
        return ImportReport({}, problems=problems)
    return _report(folder)


def _present(folder: Path) -> list[str]:
    return [name for name in OFFICIAL if (folder / name).is_dir()]


def _report(folder: Path) -> ImportReport:
    counts, notes = {}, []
    for name in _present(folder):
        catalog = open_stock(folder / name).catalog
        counts[f"{name} products"] = len(catalog)
        counts[f"{name} human goals"] = len(GoalTable(catalog, ORDERS["human"]))
        if name == "small":
            counts["small synthetic goals"] = len(GoalTable(catalog, ORDERS["orig"]))
        known = FINGERPRINTS.get(name)
        if known is None:
            notes.append(
                f"{name}: fingerprint {catalog.fingerprint}; no panel of this release was made from this set"
            )
        elif known != catalog.fingerprint:
            notes.append(f"{name}: fingerprint {catalog.fingerprint}, the panels were made from {known}")
    return ImportReport(counts, notes)


DATASET = Dataset(
    id=NAME,
    version="1",
    import_dir=import_dir,
    verify=verify,
    description="WebShop: 1,000 products with goals (fetch); the full 1.18 million only by import",
    licence="MIT (princeton-nlp/WebShop); product texts are Amazon listings",
    # The authors' Google Drive publishes no digests and sends a page instead of large files, so the full set has to be
    # downloaded by hand (ids in docs/webshop.md). This copy of the small set is pinned by revision and digest.
    sources=(
        Source(
            f"{_MIRROR}/{ITEMS_FILE}",
            "30a4765c3a327af72d9a9a95a6b2486d516f0fa1d3ecd83681901ce82a21b269",
            ITEMS_FILE,
        ),
        Source(
            f"{_MIRROR}/{ATTRIBUTES_FILE}",
            "f88a36314a397b53b3d9c3fa5878e5f7b26d35019a51ec83fbedeca61a948f6f",
            ATTRIBUTES_FILE,
        ),
        Source(
            f"{_MIRROR}/{HUMAN_FILE}",
            "cf78667548a71786e1d9049c24b802e48e1084ad4bb021cae56ce1f6d96954a3",
            HUMAN_FILE,
        ),
    ),
)
"""The plug-in."""
