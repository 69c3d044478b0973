import json

import pytest

from agentbench.envs.webshop.shop.products import (
    CatalogFiles,
    document_text,
    parse_price,
    product_of,
    read_array,
    read_products,
)
from agentbench.errors import CorruptData, MissingData
from agentbench.retrieval.bm25.analyzer import analyze


@pytest.mark.parametrize(
    ("text", "prices", "shown"),
    [
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
        ("$27.00", (27.0,), "$27.0"),
        ("$1,234.50", (1234.5,), "$1234.5"),
        ("$9.99 - $12.00", (9.99, 12.0), "$9.99 to $12.0"),
        ("from $3.00 to $4 or $5", (3.0, 4.0), "$3.0 to $4.0"),
    ],
)
def test_prices_are_read_as_the_original_reads_them(text, prices, shown):
    assert parse_price(text) == (prices, shown)


@pytest.mark.parametrize("text", ["12.00", "$", "$1.2.3"])
def test_a_price_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"price|float"):
        parse_price(text)


def test_options_and_query_are_cleaned(raw):
    groups = {"Color ": [{"value": " Red/Blue "}, {"value": "Red/Blue"}], "Size": None, "Fit": []}
    product = product_of(raw("B1", "Lamp", query=" Desk Lamps ", customization_options=groups), {}, [])
    # the name is lower-cased but not stripped; repeats stay; null groups go; empty groups stay
    assert product.options == {"color ": ("red | blue", "red | blue"), "fit": ()}
    assert product.query == "desk lamps"
    assert product.attributes == ("DUMMY_ATTR",)


def test_an_empty_attribute_list_stays_empty(raw):
    assert product_of(raw("B1", "Lamp"), {"attributes": []}, []).attributes == ()


def test_the_search_document_has_only_the_first_bullet(raw):
    groups = {"Color": [{"value": "Red"}, {"value": "Blue"}], "Size": [{"value": "S"}]}
    item = raw("B1", "Big Lamp", small_description=["One", "Two"], customization_options=groups)
    assert document_text(product_of(item, {}, [])) == "big lamp a lamp. one color: red, blue, and size: s"
    assert document_text(product_of(raw("B1", "X", small_description=[]), {}, [])) == "x a lamp.  "
    assert document_text(product_of(raw("B1", "X", small_description="Y"), {}, [])) == "x a lamp. y "


def write(folder, items, attributes=None, human=None):
    (folder / "items.json").write_text(items if isinstance(items, str) else json.dumps(items))
    (folder / "attributes.json").write_text(json.dumps(attributes or {}))
    (folder / "human.json").write_text(json.dumps(human or {}))
    return CatalogFiles(folder / "items.json", folder / "attributes.json", folder / "human.json")


def test_useless_and_repeated_asins_are_skipped(tmp_path, raw):
    items = [raw(asin, asin) for asin in ("B1", "nan", "B1234567890", "B2", "B1")]
    assert [product.asin for product in read_products(write(tmp_path, items))] == ["B1", "B2"]


def test_goals_come_from_the_other_two_files(tmp_path, raw):
    extra = {"B1": {"attributes": ["a"], "instruction": "Find me a", "instruction_attributes": ["a"]}}
    person = {"instruction": "i want a.", "instruction_attributes": ["a"], "instruction_options": ["red"]}
    files = write(tmp_path, [raw("B1", "Lamp"), raw("B2", "Sofa")], extra, {"B2": [person]})
    lamp, sofa = read_products(files)
    assert (lamp.instruction, lamp.instruction_attributes, lamp.human) == ("Find me a", ("a",), ())
    assert (sofa.instruction, sofa.human[0].text, sofa.human[0].options) == (None, "i want a.", ("red",))


@pytest.mark.parametrize("piece", [1 << 22, 7])
def test_an_array_is_read_piece_by_piece(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("agentbench.envs.webshop.shop.products._PIECE", piece)
    items = [{"name": 'b]r,a[c{k}et" é', "n": [1, {"x": None}]}, {}, {"number": 123456789}]
    path = tmp_path / "items.json"
    for text in (
        json.dumps(items),
        json.dumps(items, indent=2) + "\n",
        json.dumps(items, ensure_ascii=False),
    ):
        path.write_text(text, encoding="utf-8")
        assert list(read_array(path)) == items


@pytest.mark.parametrize("text", ['{"a": 1}', '[{"a": 1}', '[{"a": 1}, {"b', "[1, 2]", ""])
def test_a_file_that_is_no_array_or_cut_short_is_named(tmp_path, text):
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(CorruptData, match=r"items\.json"):
        list(read_array(path))


def test_a_broken_product_is_named(tmp_path, raw):
    item = raw("B7", "Lamp")
    del item["query"]
    with pytest.raises(CorruptData, match=r"B7.*query"):
        list(read_products(write(tmp_path, [item])))


def test_absent_files_are_named(tmp_path):
    with pytest.raises(MissingData, match=r"items\.json"):
        list(read_products(CatalogFiles(tmp_path / "items.json", tmp_path / "attributes.json")))


def test_official_documents_have_as_many_terms_as_in_lucene(official):
    # Lucene counts 107,608 terms in the index of the 1,000 products
    catalog = official.catalog
    assert (
        sum(len(analyze(document_text(catalog.product(place)))) for place in range(len(catalog))) == 107_608
    )
