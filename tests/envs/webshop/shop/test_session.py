import pytest

from agentbench.envs.webshop.shop.session import parse_action


@pytest.mark.parametrize(
    ("action", "parsed"),
    [
        ("search[Red Lamp]", ("search", "red lamp")),
        ("search[foo] bar", ("search", "foo")),  # what follows the last ] is ignored
        ("search[a] b] c", ("search", "a] b")),
        ("search[[foo]", ("search[", "foo")),  # the last [ counts, so the name is not search
        ("click[a[b]", ("click[a", "b")),
        (" search[x]", (" search", "x")),
        ("search [x]", ("search ", "x")),
        ("search[ ]", ("search", " ")),
        ("search[]]", ("search", "]")),
        ("search[x]\nclick[y]", ("search", "x")),  # . stops at a newline
        ("sea\nrch[x]", ("", "")),
        ("search[x\n]", ("", "")),
        ("search[]", ("", "")),
        ("[x]", ("", "")),
        ("search", ("", "")),
        ("]search[", ("", "")),
        ("", ("", "")),
    ],
)
def test_actions_are_read_as_by_a_greedy_pattern(action, parsed):
    assert parse_action(action) == parsed


def test_hostile_actions_take_no_time():
    assert parse_action("[" * 200_000) == ("", "")
    assert parse_action("[" * 200_000 + "]") == ("[" * 199_998, "[")


def walk(session, *actions):
    """Give actions that must all be carried out; return the last outcome."""
    for action in actions:
        outcome = session.act(action)
        assert outcome.valid, (action, list(session.page.clickables))
        assert outcome.reward == 0.0 or outcome.done
    return outcome


@pytest.mark.parametrize(
    "action",
    [
        "search",
        "search[]",
        "click[search]",
        "click[buy now]",
        "CLICK[search]",
        "nonsense",
        "click[]",
        "buy now",
    ],
)
def test_the_impossible_changes_nothing(session, action):
    before = session.state, session.rich(), session.url()
    outcome = session.act(action)
    assert (outcome.reward, outcome.done, outcome.valid) == (0, False, False)
    assert type(outcome.reward) is int  # as in the original
    assert (session.state, session.rich(), session.url()) == before


def test_a_purchase_of_the_goal(session):
    outcome = walk(
        session,
        "search[desk lamp]",
        "click[B000000001]",
        "click[DARK blue]",
        "click[small]",
        "click[Buy Now]",
    )
    # attribute hit 1, option hits 2 or fewer as the goal asks, price 20 within its limit
    wanted = dict(session.goal.options)
    hits = (wanted["color"] == "dark blue") + (wanted["size"] == "small")
    assert outcome.done
    assert outcome.reward == (1 + hits + 1) / (1 + 2 + 1)
    assert session.text().startswith("Thank you for shopping with us!")
    assert session.url() == (
        "http://127.0.0.1:3000/done/7/B000000001/{'color': 'dark blue', 'size': 'small'}"
    )


def test_after_a_purchase_clicks_are_dead_but_a_search_works(session):
    walk(session, "search[desk lamp]", "click[b000000001]", "click[buy now]")
    assert session.available() == (False, [])
    assert not session.act("click[back to search]").valid
    walk(session, "search[sofa]", "click[b000000002]", "click[buy now]")


def test_urls_and_going_back(session):
    base = "http://127.0.0.1:3000"
    walk(session, "search[Plain  lamp]")
    assert session.url() == f"{base}/search_results/7/plain++lamp/1"
    walk(session, "click[next >]", "click[next >]", "click[next >]")
    # 26 lamps: pages 1 to 3; beyond that nothing but both buttons
    assert list(session.page.clickables) == ["back to search", "< prev", "next >"]
    walk(session, "click[< prev]", "click[< prev]", "click[< prev]")
    assert session.url().endswith("/1")
    assert not session.act("click[< prev]").valid
    walk(session, "search[desk lamp]", "click[b000000001]", "click[red]", "click[description]")
    assert session.url() == f"{base}/item_sub_page/7/B000000001/desk+lamp/1/Description/{{'color': 'red'}}"
    walk(session, "click[< prev]")
    assert session.url() == f'{base}/item_page/7/B000000001/desk+lamp/1/{{"color": "red"}}'
    walk(session, "click[< prev]")
    assert (session.state.view, session.state.options, session.state.asin) == ("results", (), "")
    assert "[clicked button] B000000001 [clicked button_]" in session.rich()
    walk(session, "click[back to search]")
    assert session.url() == f"{base}/7"
    assert session.state.opened == frozenset()


def test_an_option_is_replaced_in_place_and_never_unselected(session):
    walk(
        session,
        "search[desk lamp]",
        "click[b000000001]",
        "click[red]",
        "click[big]",
        "click[dark blue]",
        "click[dark blue]",
    )
    assert session.state.options == (("color", "dark blue"), ("size", "big"))
    assert session.rich().startswith("You have clicked big.\nYou have clicked dark blue.\nInstruction:\n")


def test_a_search_from_an_item_drops_options_but_not_what_was_opened(session):
    walk(session, "search[desk lamp]", "click[b000000001]", "click[red]", "search[desk lamp]")
    assert (session.state.options, session.state.opened) == ((), frozenset({"B000000001"}))


def test_a_query_can_mislead_the_shop_about_the_page(session):
    # the page's kind is looked for in the URL, query included
    walk(session, "search[desk lamp search_results]", "click[b000000001]", "click[< prev]")
    assert "Page 0 (Total results:" in session.text()
    assert list(session.page.clickables) == ["back to search", "next >"]
    walk(session, "click[next >]")
    assert "Page 1 " in session.text()
    walk(session, "search[desk lamp item_page]", "click[b000000001]", "click[features]", "click[< prev]")
    assert session.state.view == "results"


@pytest.mark.parametrize("query", [" ", "the", ".", "zzzz"])
def test_a_query_without_matches_has_a_page_of_its_own(session, query):
    walk(session, f"search[{query}]")
    assert "Page 1 (Total results: 0)" in session.text()


def test_special_queries(session):
    walk(session, "search[<c> garden ignored]")
    assert "(Total results: 27)" in session.text()  # the whole tiny shop, not cut to 50 either
    walk(session, "search[<q> sofas]")
    assert list(session.page.clickables)[2:] == ["b000000002"]
    walk(session, "search[<r>]")
    assert "(Total results: 27)" in session.text()  # at most 50, here all in another order


def test_a_random_query_is_drawn_anew_at_every_turn_but_the_same_for_a_seed(session):
    walk(session, "search[<r>]")
    first, state = session.text(), session.state
    walk(session, "click[next >]", "click[< prev]")
    assert session.text() != first
    again = session.text()
    session.restore(state)
    assert session.text() == first
    walk(session, "click[next >]", "click[< prev]")
    assert session.text() == again


@pytest.mark.parametrize("query", ["<c>", "<a> easy clean", "<a>"])
def test_what_crashes_the_original_is_merely_invalid(session, query):
    # Departure pinned: the original raises IndexError or TypeError here
    walk(session, "search[lamp]")
    before = session.state
    assert not session.act(f"search[{query}]").valid
    assert session.state == before


def test_more_than_1024_terms_are_refused_as_lucene_does(session):
    assert session.act(f"search[{' '.join(f'w{number}' for number in range(1024))}]").valid
    assert not session.act(f"search[{' '.join(f'w{number}' for number in range(1025))}]").valid
    assert session.act(f"search[{'lamp ' * 3000}]").valid


def test_restoring_a_state_brings_every_page_back(session):
    actions = [
        "search[desk lamp]",
        "click[b000000001]",
        "click[red]",
        "click[reviews]",
        "click[< prev]",
        "click[buy now]",
    ]
    seen = [(session.state, session.text(), session.rich(), session.available())]
    for action in actions:
        walk(session, action)
        seen.append((session.state, session.text(), session.rich(), session.available()))
    for state, text, rich, available in reversed(seen):
        session.restore(state)
        assert (session.text(), session.rich(), session.available()) == (text, rich, available)
