"""What a purchase earns.

  r = r_type * (n_attributes + n_options + r_price) / (|attributes| + |options| + 1)

WebShop, https://arxiv.org/abs/2207.01206, section 3.2; details as in AgentGym's
copy of `web_agent_site/engine/goal.py`. Two things differ. Nouns of titles are told by
a word list unless spaCy is asked for. And under `strict` an option counts only if its
own value was chosen: upstream compares loosely, so that `large` passes for `x-large`,
and any value that equals an option's name passes for that option.
"""

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping

import rapidfuzz

from agentrl.envs import base
from agentrl.envs.webshop import catalogue

NOUN_FINDERS = ("lexical", "spacy")
SPACY_MODEL = "en_core_web_lg"  # upstream's

_MIN_RATIO = 85  # a fuzzy match must exceed it

# Words of which upstream takes the first, in this order, that a chosen value contains.
_COLOR_WORDS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze
brown burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate
christmas coffee cognac copper coral cranberry cream crystal dark denim eggplant
elephant espresso fuchsia gold granite grape graphite grass gray green grey heather
indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve
merlot midnight mint mocha multicolor mushroom mustard natural navy nude olive orange
peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell
silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise
violet walnut wheat white wine yellow
"""
_COLORS = tuple(_COLOR_WORDS.split())

# Words of titles that say how, for whom or how many, never what.
_OTHER_WORDS = """
a an and as at by for from in into is it its of off on or per plus than that the to up
use used via with within without you your our this these all any each both more most
new best big large small medium mini extra ultra high low long short top men mens
men's women womens women's boys girls kids unisex adult cm ft inch inches kg lb lbs ml
mm oz pack pcs piece pieces set
"""
_NOT_NOUNS = frozenset(_OTHER_WORDS.split())


@dataclasses.dataclass(frozen=True)
class Reward:
    """A purchase's reward and the parts it is made of."""

    total: float  # in [0, 1]
    product_type: float  # 0, 0.1, 0.5 or 1
    num_attributes: int
    num_options: int
    price: bool


def score_purchase(
    product: catalogue.Product,
    chosen: Mapping[str, str],
    goal: catalogue.Goal,
    *,
    strict: bool,
    nouns: str = "lexical",
) -> Reward:
    """Scores buying `product` with the `chosen` option values, by option name."""
    match_options = match_options_exactly if strict else match_options_loosely
    product_type = score_type(product, goal.product, nouns=nouns)
    num_attributes = match_attributes(product, goal.attributes)
    num_options = match_options(chosen, goal.options)
    within_limit = product.price <= goal.price_limit
    wanted = len(goal.attributes) + len(goal.options) + 1
    total = product_type * (num_attributes + num_options + within_limit) / wanted
    return Reward(total, product_type, num_attributes, num_options, within_limit)


def score_type(
    bought: catalogue.Product, wanted: catalogue.Product, *, nouns: str = "lexical"
) -> float:
    """Whether the right kind of product was bought: 1, 0.5, 0.1 or 0."""
    similarity = score_title(bought.title, wanted.title, nouns=nouns)
    if similarity == 0:
        return 0.0
    if similarity < 0.1:
        return 0.1
    paths = [
        {segment.strip() for segment in product.category_path.split("\u203a")}
        for product in (bought, wanted)
    ]
    same_kind = bought.query == wanted.query or len(paths[0] & paths[1]) >= 2
    return 1.0 if same_kind or similarity > 0.2 else 0.5


def score_title(bought: str, wanted: str, *, nouns: str = "lexical") -> float:
    """Share of the wanted title's nouns that the bought title has; 0.2 without any."""
    find_nouns = load_noun_finder(nouns)
    wanted_nouns = find_nouns(wanted)
    if not wanted_nouns:
        return 0.2
    return len(set(wanted_nouns) & set(find_nouns(bought))) / len(wanted_nouns)


def match_attributes(product: catalogue.Product, wanted: tuple[str, ...]) -> int:
    """How many wanted attributes the product has, in its list or in its texts."""
    texts = (product.title, " ".join(product.bullets), product.description)
    texts = tuple(text.lower() for text in texts)
    return sum(
        any(_is_similar(own, attribute) for own in product.attributes)
        or any(attribute in text for text in texts)
        for attribute in wanted
    )


def match_options_exactly(
    chosen: Mapping[str, str], wanted: tuple[tuple[str, str], ...]
) -> int:
    """How many wanted values were chosen, each for its own option.

    A human goal names no options; its values may have been chosen for any.
    """
    by_name = {_squeeze(name): _squeeze(value) for name, value in chosen.items()}
    return sum(
        _squeeze(value) in (by_name.values() if not name else [by_name.get(name)])
        for name, value in ((_squeeze(name), value) for name, value in wanted)
    )


def match_options_loosely(
    chosen: Mapping[str, str], wanted: tuple[tuple[str, str], ...]
) -> int:
    """Upstream's count: the chosen value resembles the text of a (name, value) pair."""
    values = [_to_color(value) for value in chosen.values()]
    return sum(
        any(_is_similar(value, _describe(pair)) for value in values) for pair in wanted
    )


def _describe(pair: tuple[str, str]) -> str:
    """Upstream's text of a wanted option.

    Given a pair it finds a color only if one of the two *is* that color; of a bare
    value, in human goals, it takes the color that the value contains.
    """
    name, value = pair
    if not name:
        return _to_color(value)
    return next((color for color in _COLORS if color in pair), f"{name} {value}")


def _to_color(value: str) -> str:
    return next((color for color in _COLORS if color in value), value)


@functools.lru_cache(maxsize=65536)
def _is_similar(one: str, other: str) -> bool:
    ratio = rapidfuzz.fuzz.token_set_ratio(_to_plain(one), _to_plain(other))
    return round(ratio) > _MIN_RATIO


def _to_plain(text: str) -> str:
    ascii_only = text.encode("ascii", "ignore").decode()
    return rapidfuzz.utils.default_process(ascii_only)


def _squeeze(text: str) -> str:
    return " ".join(text.casefold().split())


@functools.cache
def load_noun_finder(nouns: str) -> Callable[[str], tuple[str, ...]]:
    """Returns a function from a title to its nouns, lower-cased, with repetitions.

    Args:
      nouns: "lexical", or "spacy:" and the name of a model that tags words.

    Raises:
      MissingDataError: if spaCy or its model is not installed.
    """
    if nouns == "lexical":
        return functools.lru_cache(maxsize=65536)(_find_nouns)
    name = nouns.removeprefix("spacy:")
    try:
        model = importlib.import_module("spacy").load(name)
    except (ImportError, OSError) as error:
        raise base.MissingDataError(
            f"environment 'webshop': option nouns='spacy' needs spaCy and its model "
            f"{name}: {error}; install both, name another model in option noun_model, "
            "or use nouns='lexical'."
        ) from error

    @functools.lru_cache(maxsize=65536)
    def find(title: str) -> tuple[str, ...]:
        return tuple(
            t.text.lower() for t in model(title) if t.pos_ in ("NOUN", "PROPN")
        )

    return find


def _find_nouns(title: str) -> tuple[str, ...]:
    """Words of letters only, without those that never name a thing."""
    words = (word.strip(".'") for word in re.split(r"[^\w.']+", title.lower()))
    return tuple(
        word
        for word in words
        if word.replace(".", "").replace("'", "").isalpha() and word not in _NOT_NOUNS
    )
