from agentbench.envs.webshop.shop.pages import (
    Node,
    done_page,
    heading,
    item_page,
    make_page,
    results_page,
    rich_text,
    search_page,
    sub_page,
)
from agentbench.envs.webshop.shop.products import product_of


def test_white_space_shrinks_as_in_the_originals_parser():
    texts = ["", "\n", " \n ", "  ", "\u00a0", " kept \n as is "]
    page = make_page(Node("plain", text) for text in texts)
    # nothing and a lone newline go (also what shrinks to one); blanks become one blank; a no-break space is text
    assert [node.text for node in page.nodes] == [" ", "\u00a0", " kept \n as is "]
    assert page.text == " [SEP]  [SEP] kept \n as is"


def test_an_empty_bullet_leaves_a_trailing_separator(raw):
    product = product_of(raw("B1", "Lamp", small_description=["Bright ", ""]), {}, [])
    page = sub_page(product, "Features")
    assert page.text == "Back to Search [SEP] < Prev [SEP] Bright [SEP] "
    assert page.quoted == "'Back to Search' [SEP] '< Prev' [SEP] 'Bright' [SEP] ''"


def test_the_start_page():
    assert heading("Find me it", start=True).text == "WebShop [SEP] Instruction: [SEP] Find me it"
    page = search_page()
    assert (page.text, list(page.clickables), page.commands) == ("Search", ["search"], ())


def test_results_have_previous_only_after_the_first_page():
    def show(place):
        return Node("link", f"B{place}"), Node("plain", f"Lamp {place}"), Node("plain", "$1.0")

    found = list(range(12))
    first, second, third, none = (results_page(show, found, number) for number in (1, 2, 3, 0))
    assert first.text.startswith(
        "Back to Search [SEP] Page 1 (Total results: 12) [SEP] Next > [SEP] B0 [SEP] Lamp 0"
    )
    assert list(first.clickables) == ["back to search", "next >", *(f"b{place}" for place in range(10))]
    assert list(second.clickables) == ["back to search", "< prev", "next >", "b10", "b11"]
    assert third.text == "Back to Search [SEP] Page 3 (Total results: 12) [SEP] < Prev [SEP] Next >"
    assert none.text == "Back to Search [SEP] Page 0 (Total results: 12) [SEP] Next >"


def test_the_item_page_and_its_clickables(raw):
    groups = {"Color": [{"value": "Red"}, {"value": "One"}], "size": [{"value": "One"}, {"value": "A[1]"}]}
    product = product_of(raw("B1", "Lamp", customization_options=groups), {}, [])
    page = item_page(product, show_attrs=False)
    assert page.text == (
        "Back to Search [SEP] < Prev [SEP] color [SEP] red [SEP] one [SEP] size [SEP] one [SEP] a[1] [SEP] Lamp [SEP] "
        "Price: $20.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
    assert list(page.clickables) == [*buttons, "red", "one", "a[1]"]
    assert page.clickables["one"].group == "size"  # the last group that has the value wins
    assert page.commands[-2:] == ("click[red]", "click[one]")  # a bracket cannot be clicked
    assert list(item_page(product, show_attrs=True).clickables)[5] == "attributes"


def test_rich_text_marks_what_is_quoted_in_the_url():
    nodes = [
        Node("plain", "Instruction:"),
        Node("button", "< Prev"),
        Node("option", "red"),
        Node("option", 'a"b'),
    ]
    nodes += [Node("option", "big"), Node("link", "B1"), Node("link", "B2")]
    url = 'http://x/{"color": "red", "size": "big", "w": "a\\"b"}'
    assert rich_text(nodes, url, {"B2"}) == (
        "You have clicked big.\nYou have clicked red.\nInstruction:\n[button] < Prev [button_]\n"
        "  [clicked button] red [clicked button_]\n"
        '  [button] a"b [button_]\n'  # escaped in the URL, so it never shows as clicked
        "  [clicked button] big [clicked button_]\n"
        "\n[button] B1 [button_]\n\n[clicked button] B2 [clicked button_]\n"
    )


def test_the_last_page_writes_options_as_the_originals_web_framework():
    page = done_page("B1", {"size": "l", "color": "r&b <é> '"}, 0.5)
    assert '{"color": "r\\u0026b \\u003c\\u00e9\\u003e \\u0027", "size": "l"}' in page.text
    assert "instuction text" in page.text
    assert page.text.endswith("Your score (min 0.0, max 1.0) [SEP] 0.5 [SEP] Reward Details [SEP] None")
    assert page.clickables == {}


def test_separators_inside_product_text_split_for_the_agent_too(raw):
    page = sub_page(product_of(raw("B1", "Lamp", full_description="a [SEP] b"), {}, []), "Description")
    assert page.quoted == "'Back to Search' [SEP] '< Prev' [SEP] 'a' [SEP] 'b'"
