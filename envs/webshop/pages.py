"""The shop's pages as text: visible words of upstream's pages, joined by ` [SEP] `."""

import functools
import json
from collections.abc import Mapping, Sequence

from agentrl.envs.webshop import catalogue

SEPARATOR = " [SEP] "
PAGE_SIZE = 10  # products on a page of results, unless option page_size says otherwise

BACK = "back to search"
PREVIOUS = "< prev"
NEXT = "next >"
BUY = "buy now"
SUB_PAGES = ("description", "features", "reviews")
_ITEM_BUTTONS = (BACK, PREVIOUS, *SUB_PAGES, BUY)


def search_page(instruction: str) -> str:
    """The page an episode starts on, with the search box."""
    return _join("WebShop", "Instruction:", instruction, "Search")


def results_page(
    instruction: str,
    results: Sequence[catalogue.Product],
    page: int,
    *,
    has_next: bool,
    size: int = PAGE_SIZE,
) -> str:
    """One page of results of `size` products; `page` counts from 1."""
    parts = ["Back to Search", f"Page {page} (Total results: {len(results)})"]
    if page > 1:
        parts.append("< Prev")
    if has_next:
        parts.append("Next >")
    for product in on_page(results, page, size):
        parts += (product.asin, product.title.strip(), product.price_tag)
    return _join("Instruction:", instruction, *parts)


def item_page(instruction: str, product: catalogue.Product) -> str:
    """A product with its options; which ones are chosen is not shown."""
    return _join("Instruction:", instruction, _item_body(product))


def sub_page(instruction: str, product: catalogue.Product, name: str) -> str:
    """Description, features or reviews of a product; there are no reviews."""
    texts = {"description": (product.description,), "features": product.bullets}
    parts = [text.strip() for text in texts.get(name, ()) if text.strip()]
    return _join("Instruction:", instruction, "Back to Search", "< Prev", *parts)


def done_page(asin: str, chosen: Mapping[str, str], reward: float) -> str:
    """The receipt; the empty fields are upstream's."""
    fields = ("attrs", "category", "query", "product category")
    nothing = [part for field in fields for part in (field, "None")]
    target = ("asin", "options", "attrs", "price upper", "instuction text", "category")
    return _join(
        "Thank you for shopping with us!",
        "Your code:",
        "None",
        "(Paste it in your MTurk interface.)",
        "Purchased",
        *("asin", asin, "options", json.dumps(dict(sorted(chosen.items())))),
        *nothing,
        *("Target", *target, "product category", "query", "Goal", "None"),
        *("Reward", "Your score (min 0.0, max 1.0)", str(reward)),
        *("Reward Details", "None"),
    )


def on_page(
    results: Sequence[catalogue.Product], page: int, size: int = PAGE_SIZE
) -> Sequence[catalogue.Product]:
    """The products that page `page` of the results shows, with `size` on each."""
    return results[(page - 1) * size : page * size]


@functools.lru_cache(maxsize=8192)
def option_clicks(product: catalogue.Product) -> Mapping[str, str]:
    """Option name by value to click; of equal values the last one is meant.

    A value that reads like a button is that button, as upstream. Empty values have no
    text on the page and cannot be clicked.
    """
    return {
        value: name
        for name, values in product.options.items()
        for value in values
        if value and value not in _ITEM_BUTTONS
    }


def item_clicks(product: catalogue.Product) -> list[str]:
    """Everything that can be clicked on the page of a product."""
    return [*_ITEM_BUTTONS, *option_clicks(product)]


@functools.lru_cache(maxsize=8192)
def _item_body(product: catalogue.Product) -> str:
    options = [
        part
        for name, values in product.options.items()
        for part in (name, *filter(None, values))
    ]
    return _join(
        "Back to Search",
        "< Prev",
        *options,
        product.title.strip(),
        f"Price: {product.price_tag}",
        "Rating: N.A.",
        *("Description", "Features", "Reviews", "Buy Now"),
    )


def _join(*parts: str) -> str:
    return SEPARATOR.join(parts)
