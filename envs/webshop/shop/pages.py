"""Pages of the shop as lists of nodes, and their two texts, byte for byte those of the original's HTML.

Leaves out what an action does (`session`) and the wording for models (`env`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from .catalog import Catalog
from .products import Product

Kind = Literal["plain", "button", "option", "link"]
SEPARATOR = " [SEP] "
PAGE_SIZE = 10
BACK, PREVIOUS, NEXT, BUY, SEARCH = "Back to Search", "< Prev", "Next >", "Buy Now", "Search"
SUB_PAGES = {name.lower(): name for name in ("Description", "Features", "Reviews", "Attributes")}
_WHITE = " \t\n\r\x0c"
_DONE_TEXTS = (
    "Thank you for shopping with us!|Your code: |None| (Paste it in your MTurk interface.)|Purchased|asin|{asin}|"
    "options|{options}|attrs|None|category|None|query|None|product category|None|Target|asin|options|attrs|price upper|"
    "instuction text|category|product category|query|Goal |None|Reward|Your score (min 0.0, max 1.0)|{reward}|"
    "Reward Details |None"
)
_DONE = tuple(_DONE_TEXTS.split("|"))


class Node(NamedTuple):
    """A piece of visible text; `group` names the option group of an option value."""

    kind: Kind
    text: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What follows the instruction on a page.

    Attributes:
        nodes: in the order shown; those that the original's parser drops are left out.
        text: their texts, stripped and joined, as in observation mode `text`.
        quoted: the same with every part in single quotes.
        clickables: lower-case name -> node; buttons in page order, then links, then option values.
        commands: a click for every clickable that an action can name and that does something.
    """

    nodes: tuple[Node, ...]
    text: str
    quoted: str
    clickables: Mapping[str, Node]
    commands: tuple[str, ...]


def make_page(nodes: Iterable[Node]) -> Page:
    """Drop what a browser would not show, and name what can be clicked.

    A repeated name keeps its first place but means the last node that has it.
    """
    found: dict[str, dict[str, Node]] = {"button": {}, "link": {}, "option": {}}
    shown, texts = [], []
    for node in nodes:
        if node.kind != "plain":
            found[node.kind][node.text if node.kind == "option" else node.text.lower()] = node
        stripped = node.text.strip()
        kept = node if stripped else _parsed(node)
        if kept.text not in ("", "\n"):
            shown.append(kept)
            texts.append(stripped)
    clickables = found["button"] | found["link"] | found["option"]
    text = SEPARATOR.join(texts)
    quoted = "'" + text.replace(SEPARATOR, f"'{SEPARATOR}'") + "'"  # product text may hold a separator too
    commands = tuple(
        f"click[{name}]"
        for name in clickables
        if name and name != "search" and "[" not in name and "\n" not in name
    )
    return Page(tuple(shown), text, quoted, clickables, commands)


def _parsed(node: Node) -> Node:
    """Shrink a node of white space only, as the original's HTML parser does."""
    if node.text and not node.text.strip(_WHITE):
        return Node(node.kind, "\n" if "\n" in node.text else " ", node.group)
    return node


def _plain(*texts: str) -> list[Node]:
    return [Node("plain", text) for text in texts]


@lru_cache(maxsize=1024)
def heading(instruction: str, *, start: bool) -> Page:
    """Return what stands above a page: the instruction, on the start page under the shop's name."""
    return make_page(
        _plain("WebShop", "Instruction: ", instruction) if start else _plain("Instruction:", instruction)
    )


def search_page() -> Page:
    """Return the start page: nothing but the search button."""
    return make_page([Node("button", SEARCH)])


def listing(catalog: Catalog, place: int) -> tuple[Node, ...]:
    """Return what a page of results shows of a product."""
    asin, title, price = (catalog.columns[name][place] for name in ("asin", "title", "price_text"))
    return Node("link", asin), Node("plain", title), Node("plain", price)


def results_page(show: Callable[[int], tuple[Node, ...]], found: Sequence[int], number: int) -> Page:
    """Return one page of search results.

    Args:
        show: returns the nodes of a product, see `listing`.
        found: all product numbers found.
        number: page, from 1; any integer is answered, pages beyond the end are empty.
    """
    nodes = [Node("button", BACK), *_plain(f"Page {number} (Total results: {len(found)})")]
    nodes += [Node("button", PREVIOUS)] if number > 1 else []
    nodes.append(Node("button", NEXT))
    for place in found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]:
        nodes += show(place)
    return make_page(nodes)


def item_page(product: Product, *, show_attrs: bool) -> Page:
    """Return a product's page."""
    nodes = [Node("button", BACK), Node("button", PREVIOUS)]
    for group, values in product.options.items():
        nodes += [Node("plain", group), *(Node("option", value, group) for value in values)]
    nodes += _plain(product.title, f"Price: {product.price_text}", "Rating: N.A.")
    names = [name for name in SUB_PAGES.values() if show_attrs or name != "Attributes"]
    return make_page(nodes + [Node("button", name) for name in (*names, BUY)])


def sub_page(product: Product, name: str) -> Page:
    """Return one of a product's `SUB_PAGES`."""
    nodes = [Node("button", BACK), Node("button", PREVIOUS)]
    if name == "Description":
        nodes += _plain(product.description)
    elif name == "Features":
        nodes += _plain(*(f" {bullet}" for bullet in product.bullets))
    elif name == "Attributes":
        nodes += _plain(*(f" {attribute}" for attribute in product.attributes))
        nodes += _plain(product.category, product.query, product.product_category)
    return make_page(nodes)


def done_page(asin: str, options: Mapping[str, str], reward: float) -> Page:
    """Return the thank-you page, misspelling included; unlike all others it has no instruction."""
    bought = json.dumps(dict(options), sort_keys=True)
    for character in "<>&'":
        bought = bought.replace(character, f"\\u{ord(character):04x}")
    blanks = {"{asin}": asin, "{options}": bought, "{reward}": str(reward)}
    return make_page(_plain(*(blanks.get(text, text) for text in _DONE)))


def rich_text(nodes: Iterable[Node], url: str, opened: Iterable[str]) -> str:
    """Write nodes as in observation mode `text_rich`.

    Args:
        nodes: of the whole page, instruction included.
        url: of the page; a value that stands in it in double quotes counts as clicked.
        opened: ASINs looked at since the last search page.
    """
    already = set(opened)
    lines: list[str] = []
    clicked: list[str] = []
    for node in nodes:
        if node.kind == "button":
            lines.append(f"[button] {node.text} [button_]")
        elif node.kind == "option":
            mark = "clicked button" if f'"{node.text}"' in url else "button"
            lines.append(f"  [{mark}] {node.text} [{mark}_]")
            if mark != "button":
                clicked.append(f"You have clicked {node.text}.")
        elif node.kind == "link":
            mark = "clicked button" if node.text in already else "button"
            lines.append(f"\n[{mark}] {node.text} [{mark}_]")
        else:
            lines.append(node.text)
    return "".join(f"{line}\n" for line in (*reversed(clicked), *lines))
