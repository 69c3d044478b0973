import json
from collections import Counter
from itertools import islice

from agentbench.envs.webshop.shop.products import product_of, read_products
from agentbench.envs.webshop.stock.dataset import find_files
from agentbench.envs.webshop.stock.generate import generate, write_files


def test_a_seed_fixes_the_shop_and_a_larger_shop_begins_with_the_smaller():
    first = list(generate(50, 1))
    assert first == list(generate(50, 1)) == list(islice(generate(200, 1), 50))
    assert first != list(generate(50, 2))


def test_the_files_have_the_official_format(tmp_path):
    write_files(tmp_path, 40, 5)
    read = list(read_products(find_files(tmp_path)["small"]))
    assert read == [product_of(*entries) for entries in generate(40, 5)]
    items = json.loads((tmp_path / "items_shuffle_1000.json").read_text())
    assert len({item["asin"] for item in items}) == 40
    assert all(len(item["asin"]) == 10 for item in items)


def test_the_shop_is_as_varied_as_a_real_one():
    products = [product_of(*entries) for entries in generate(2000, 0)]
    assert len({product.asin for product in products}) == 2000
    share = {
        "price range": sum(len(product.prices) == 2 for product in products),
        "no price": sum(product.price_text == "$100.0" for product in products),
        "options": sum(bool(product.options) for product in products),
        "synthetic goal": sum(product.instruction is not None for product in products),
        "human goal": sum(bool(product.human) for product in products),
    }
    assert all(20 < count < 1980 for count in share.values()), share
    assert len({product.category for product in products}) == 5


def test_products_come_in_families_of_near_duplicates():
    # the model's name ends in the number of the family member
    families = Counter(
        product_of(*entries).title.rpartition(" ")[2].rpartition("-")[0] for entries in generate(500, 0)
    )
    assert set(families.values()) == {1, 2, 3, 4}
