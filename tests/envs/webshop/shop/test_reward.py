import json

import pytest

from agentbench.envs.webshop.shop.goals import Goal
from agentbench.envs.webshop.shop.nouns import LetterWords
from agentbench.envs.webshop.shop.products import product_of
from agentbench.envs.webshop.shop.reward import COLOURS, option_hit, score, similar, type_factor


def goal(attributes=("easy clean",), options=(), limit=50.0):
    return Goal(0, 0, "", attributes, options, limit)


def pay(bought, target, wanted, price=20.0, **chosen):
    return score(bought, target, wanted, price=price, options=chosen, nouns=LetterWords())


@pytest.fixture
def lamp(raw):
    return product_of(raw("B1", "Red Desk Lamp"), {"attributes": ["easy clean", "solid wood"]}, [])


@pytest.mark.parametrize(
    ("title_score", "same_kind", "factor"),
    [(0.0, True, 0.0), (0.05, True, 0.1), (0.05, False, 0.1), (0.1, True, 1.0), (0.1, False, 0.5), (0.2, False, 0.5),
     (0.21, False, 1.0), (1.0, False, 1.0)],
)  # fmt: skip
def test_type_factor(title_score, same_kind, factor):
    assert type_factor(title_score, same_kind=same_kind) == factor


def test_everything_right_is_one(lamp):
    wanted = goal(("easy clean", "solid wood"), (("color", "red"), ("size", "big")))
    earned = pay(lamp, lamp, wanted, color="red", size="big")
    assert earned.total == 1.0
    # 2 attributes + 2 options + price = 5 parts
    assert earned.weights == (2 / 5, 2 / 5, 1 / 5)
    assert earned.parts() == {
        "r_type": 1.0, "r_att": 1.0, "w_att": 0.4, "query_match": True, "category_match": True, "title_score": 1.0,
        "r_option": 1.0, "w_option": 0.4, "r_price": True, "w_price": 0.2,
    }  # fmt: skip


def test_partial_credit(lamp, raw):
    other = product_of(raw("B2", "Blue Lamp", query="x", product_category="Home › Lighting › Y"), {}, [])
    earned = pay(
        other, lamp, goal(("easy clean", "gives light"), (("size", "big"),)), price=50.01, size="small"
    )
    # categories Home and Lighting in common; 1 of 3 title words; "gives light" only in the bullet text;
    # option and price missed: 1 / (2 + 1 + 1) * 1
    assert (earned.query_match, earned.category_match, earned.title_score) == (False, True, 1 / 3)
    assert (earned.attribute_score, earned.option_score, earned.price_ok) == (0.5, 0.0, False)
    assert earned.total == 1 / 4


def test_without_goal_options_their_parts_are_left_out(lamp):
    parts = pay(lamp, lamp, goal()).parts()
    assert "r_option" not in parts
    assert parts["w_price"] == 1 / 2


def test_a_title_without_nouns_counts_a_fifth(lamp, raw):
    bare = product_of(raw("B2", "12 34", query="x", product_category="Z"), {}, [])
    earned = pay(lamp, bare, goal())
    assert (earned.title_score, earned.type_factor) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("chosen", "wanted", "hit"),
    [
        ("dark red", "dark pink", True),  # both become "dark", the first in alphabetical order
        ("dark red", "dark blue", False),  # blue comes before dark
        ("infrared", "cherry red", True),  # both become "red"
        ("big", "big", True),
        ("big", "small", False),
        ("red", ("color", "red"), True),  # a pair becomes the colour only if one of the two equals it
        ("dark red", ("color", "dark red"), True),  # "dark" against the words of ('color', 'dark red')
        ("black137", ("color", "black137"), False),  # "black" is no word of ('color', 'black137')
        ("size", ("size", "12"), True),  # the group's name takes part
    ],
)
def test_options_match_by_colour_and_shared_words(chosen, wanted, hit):
    assert option_hit((chosen,), wanted) is hit


def test_the_group_of_a_chosen_value_does_not_matter(lamp):
    assert pay(lamp, lamp, goal(options=(("color", "teal"),)), size="teal").option_score == 1.0


def test_words_are_compared_without_latin_accents_and_marks():
    assert similar("Crème brûlée!", "crme brle")  # characters 128 to 255 are dropped, not unaccented
    assert similar("easy to clean", "easy clean")
    assert not similar("", "")
    # 86 is above 85: "abcdef abcdefg" style near misses are decided on the rounded ratio
    assert similar("abcdefg", "abcdef")  # 2 * 6 / 13 = 92.3
    assert not similar("abcde", "abcxy")  # 2 * 3 / 10 = 60


def test_the_colour_words_are_the_recorded_ones(recordings):
    assert list(COLOURS) == json.loads((recordings / "colours.json").read_text())
    assert len(COLOURS) == 102
