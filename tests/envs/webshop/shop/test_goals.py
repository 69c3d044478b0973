import itertools
import random

import pytest

from agentbench.envs.webshop.shop.catalog import build_catalog
from agentbench.envs.webshop.shop.goals import NO_LIMIT, ORDERS, GoalOrder, GoalTable
from agentbench.envs.webshop.shop.products import product_of
from agentbench.errors import CorruptData

PLAIN = GoalOrder("plain", draw_seed=0, shuffle_seed=0)


def table(raw, *items, order=PLAIN):
    return GoalTable(build_catalog(product_of(*item) for item in items), order)


def asked(*attributes):
    return {"attributes": [], "instruction": "Find me it", "instruction_attributes": list(attributes)}


def test_one_goal_for_each_combination_groups_by_name(raw):
    groups = {"size": [{"value": "S"}, {"value": "L"}], "Color": [{"value": "Red"}, {"value": "Tan"}]}
    goals = table(raw, (raw("B1", "Lamp", customization_options=groups, pricing="$985.00"), asked("x"), []))
    # 985 leaves one step (990) above it: no limit, no text
    assert sorted(goal.instruction for goal in goals) == [
        "Find me it with color: red, and size: l",
        "Find me it with color: red, and size: s",
        "Find me it with color: tan, and size: l",
        "Find me it with color: tan, and size: s",
    ]
    assert {goal.price_limit for goal in goals} == {NO_LIMIT}
    unshuffled = sorted(goals, key=lambda goal: goals.choices[goal.index])
    assert [goal.options for goal in unshuffled] == [
        (("color", first), ("size", second))
        for first, second in itertools.product(("red", "tan"), ("s", "l"))
    ]


def test_no_options_make_one_goal_and_an_empty_group_none(raw):
    assert len(table(raw, (raw("B1", "Lamp"), asked("x"), []))) == 1
    assert len(table(raw, (raw("B1", "Lamp", customization_options={"size": []}), asked("x"), []))) == 0


def test_the_limit_is_the_larger_of_two_of_the_next_four_steps(raw):
    seen = set()
    for seed in range(40):
        goals = table(raw, (raw("B1", "Lamp"), asked("x"), []), order=GoalOrder("s", seed, 0))
        seen.add(goals[0].price_limit)
        assert goals[0].instruction == f"Find me it, and price lower than {goals[0].price_limit:.2f} dollars"
    # price 20: the steps are 30, 40, 50, 60; the larger of two is never 30
    assert seen == {40.0, 50.0, 60.0}


def test_draws_come_in_the_originals_order(raw):
    items = [
        (raw("B1", "Lamp", pricing="$10.00 - $20.00"), asked("x"), []),
        (raw("B2", "Sofa"), {}, []),
        (raw("B3", "Bed", pricing="$30.00 - $35.00"), asked("y"), []),
    ]
    goals = table(raw, *items, order=GoalOrder("o", draw_seed=5, shuffle_seed=9))
    draw = random.Random(5)
    prices = [draw.uniform(10, 20), 20.0, draw.uniform(30, 35)]  # all prices first
    limits = {
        "B1": max(draw.sample([step for step in range(10, 1000, 10) if step > prices[0]][:4], 2)),
        "B3": max(draw.sample([step for step in range(10, 1000, 10) if step > prices[2]][:4], 2)),
    }
    order = ["B1", "B3"]
    random.Random(9).shuffle(order)
    assert goals.price.tolist() == prices
    assert [goals.catalog.product(goal.place).asin for goal in goals] == order
    assert [goal.price_limit for goal in goals] == [limits[asin] for asin in order]


def test_human_goals_lose_dots_at_both_ends_and_need_attributes(raw):
    people = [
        {
            "instruction": "..i want a lamp...",
            "instruction_attributes": ["x"],
            "instruction_options": ["red"],
        },
        {"instruction": "nothing to score", "instruction_attributes": [], "instruction_options": []},
    ]
    goals = table(raw, (raw("B1", "Lamp", pricing="$995.00"), {}, people), order=ORDERS["human"])
    assert [(goal.instruction, goal.attributes, goal.options) for goal in goals] == [
        ("i want a lamp", ("x",), ("red",))
    ]


def test_an_instruction_without_attributes_cannot_be_scored(raw):
    with pytest.raises(CorruptData, match="B1"):
        table(raw, (raw("B1", "Lamp"), asked(), []))


def test_weights_and_the_draw_that_is_off_by_one(raw):
    items = [(raw(f"B{number}", "Lamp"), asked(*names), []) for number, names in enumerate(("x", "xy", "x"))]
    goals = table(raw, *items)
    # x is in 3 goals, y in 1: x weighs 1/3, x and y (1/3 + 1) / 2 = 2/3
    by_asin = {
        goals.catalog.product(goal.place).asin: weight
        for goal, weight in zip(goals, goals.weights(), strict=True)
    }
    assert by_asin == pytest.approx({"B0": 1 / 3, "B1": 2 / 3, "B2": 1 / 3})

    class Fixed(random.Random):
        def uniform(self, a, b):
            return self.value

    rng, cumulative = Fixed(), [0.0, 0.2, 0.5, 1.0]
    drawn = []
    for rng.value in (0.0, 0.1, 0.2, 0.4, 0.6, 1.0):
        drawn.append(goals.draw(rng, cumulative))
    # the right bisection point in a list that starts with 0: never goal 0, capped at the last
    assert drawn == [1, 1, 2, 2, 2, 2]


def test_a_stored_table_is_the_drawn_one(raw, tmp_path):
    items = [(raw(f"B{number}", "Lamp", pricing="$10.00 - $20.00"), asked("x"), []) for number in range(9)]
    held = table(raw, *items)
    catalog = build_catalog((product_of(*item) for item in items), tmp_path / "store")
    for _ in range(2):  # drawn and kept, then read
        stored = GoalTable(catalog, PLAIN)
        assert list(stored) == list(held)
        assert stored.price.tolist() == held.price.tolist()
    assert (tmp_path / "store" / "goals" / "plain-0-0" / "limits.npy").exists()


def test_digests_tell_goals_apart(raw):
    first, second = (
        table(raw, (raw("B1", "Lamp"), asked("x"), [])),
        table(raw, (raw("B1", "Lamp"), asked("y"), [])),
    )
    assert first[0].digest != second[0].digest
    assert first[0].digest == table(raw, (raw("B1", "Lamp"), asked("x"), []))[0].digest
