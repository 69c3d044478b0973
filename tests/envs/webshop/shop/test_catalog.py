import pytest

from agentbench.envs.webshop.shop.catalog import COLUMNS, build_catalog, fingerprint_of, open_catalog
from agentbench.envs.webshop.shop.products import product_of
from agentbench.envs.webshop.stock.generate import generate
from agentbench.errors import CorruptData


@pytest.fixture(scope="module")
def products(raw):
    odd = raw(
        "B9ODD",
        "Läm p \U0001f4a1",
        full_description="",
        small_description=[],
        customization_options={"é": []},
    )
    return [product_of(*entries) for entries in generate(60, 3)] + [product_of(odd, {"attributes": []}, [])]


@pytest.fixture(params=["memory", "disk"])
def catalog(request, products, tmp_path):
    return build_catalog(products, tmp_path / "store" if request.param == "disk" else None)


def test_products_come_back_as_they_were(catalog, products):
    assert [catalog.read(place) for place in range(len(catalog))] == products
    assert catalog.fingerprint == fingerprint_of(products)


def test_products_are_found_by_asin(catalog, products):
    assert [catalog.place(product.asin) for product in products] == list(range(len(products)))
    assert [catalog.place(asin) for asin in ("", "B0", "ZZZZZZZZZZ", "b9odd")] == [None] * 4
    by_name = sorted(range(len(products)), key=lambda place: products[place].asin)
    assert [int(catalog.rank[place]) for place in by_name] == list(range(len(products)))


def test_members_of_a_column_come_in_file_order(catalog, products):
    assert catalog.members("category", "beauty") == [
        i for i, p in enumerate(products) if p.category == "beauty"
    ]
    assert catalog.members("query", "lamps") == [len(products) - 1]
    assert (
        catalog.members("category", "Beauty")
        == catalog.members("query", "")
        == catalog.members("query", "zz")
        == []
    )


def test_places_with_goals(catalog, products):
    assert catalog.synthetic_places.tolist() == [
        i for i, p in enumerate(products) if p.instruction is not None
    ]
    assert catalog.human_places.tolist() == [i for i, p in enumerate(products) if p.human]


def test_a_fingerprint_sees_every_change(products):
    assert fingerprint_of(products) != fingerprint_of(products[:-1])
    assert fingerprint_of(products) != fingerprint_of([products[1], products[0], *products[2:]])


def test_a_failed_build_leaves_nothing_behind(products, tmp_path):
    def broken():
        yield products[0]
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        build_catalog(broken(), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["catalog.json", "title.bin", "rank.npy"])
def test_a_damaged_store_is_named(products, tmp_path, damage):
    build_catalog(products, tmp_path / "store")
    (tmp_path / "store" / damage).unlink()
    with pytest.raises(CorruptData, match="store"):
        open_catalog(tmp_path / "store")


FILES = sorted(
    [f"{name}.{end}" for name in COLUMNS for end in ("bin", "npy")]
    + [f"{name}.npy" for name in ("by_category", "by_query", "prices", "rank", "synthetic_places")]
    + [f"{name}.npy" for name in ("human_places", "sorted_asins", "by_rank")]
)


@pytest.mark.parametrize("damage", ["cut in half", "zeroed", "empty", "a byte flipped"])
def test_damage_to_any_file_of_a_store_is_refused_before_a_product_is_read(products, tmp_path, damage):
    build_catalog(products, tmp_path / "store")
    assert {path.name for path in (tmp_path / "store").glob("*.[bn]*")} == set(FILES)
    for name in FILES:
        path = tmp_path / "store" / name
        kept = path.read_bytes()
        flipped = bytearray(kept)
        flipped[len(kept) // 2] ^= 1
        spoilt = {"cut in half": kept[: len(kept) // 2], "zeroed": bytes(len(kept)), "empty": b""}
        path.write_bytes(spoilt.get(damage, bytes(flipped)))
        with pytest.raises(CorruptData, match=rf"{name} is not as it was written.*import its files again"):
            open_catalog(tmp_path / "store")
        path.write_bytes(kept)
    assert len(open_catalog(tmp_path / "store")) == len(products)


def test_another_format_is_refused(products, tmp_path):
    build_catalog(products, tmp_path / "store")
    (tmp_path / "store" / "catalog.json").write_text('{"format": 0, "fingerprint": ""}')
    with pytest.raises(CorruptData, match="format 0"):
        open_catalog(tmp_path / "store")
