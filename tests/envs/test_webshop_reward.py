import sys
import types

import pytest

from agentrl.envs import base, registry
from agentrl.envs.webshop import catalogue, pages, reward

# Reward. The vectors are those of WebShop's own test_goal.py.

SNEAKERS = "Mens D.O.N. Issue 2 Gca Basketball Sneakers Shoes Casual - Off White"
CORD = (
    "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD "
    "Soundbar"
)
OTHER_CORD = (
    "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR "
    "Combo Home Theater System"
)
TITLES = [
    (
        "PEAK High Top Mens Basketball Shoes Lou Williams Streetball Master Breathable "
        "Non Slip Outdoor Sneakers",
        SNEAKERS,
        0.333,
    ),
    (OTHER_CORD, f"{CORD} Home Theater System Subwoofer", 0.30),
    (OTHER_CORD, CORD, 0.15),
    (
        "Minkissy 2pcs Stainless Steel Eyebrow Tweezers Blackhead Acne Remover "
        "Portable Makeup Tweezers (Silver)",
        "Rusticware 921ORB Kitchen and Bath Cabinet Knob",
        0.0,
    ),
]


def make_product(**fields):
    values = {
        "asin": "B1",
        "title": "Name 1",
        "description": "",
        "bullets": (),
        "price": 35.0,
        "price_tag": "$35.0",
        "options": {},
        "attributes": (),
        "query": "query 1",
        "category": "c",
        "category_path": "a \u203a b \u203a c",
    }
    return catalogue.Product(**(values | fields))


def make_goal(product, attributes=(), options=(), limit=40.0):
    return catalogue.Goal(product, "", tuple(attributes), tuple(options), limit)


@pytest.mark.parametrize(("bought", "wanted", "upstream"), TITLES)
def test_title_scores_of_upstream(bought, wanted, upstream):
    """The word list comes close to spaCy's nouns, and to the same thresholds."""
    score = reward.score_title(bought, wanted)
    assert score == pytest.approx(upstream, abs=0.05)
    assert [score > t for t in (0, 0.1, 0.2)] == [upstream > t for t in (0, 0.1, 0.2)]


@pytest.mark.parametrize(
    ("path", "query", "title", "expected"),
    [
        ("a \u203a b \u203a c", "query 1", "Name 1", 1.0),
        ("b \u203a c \u203a a", "query 2", OTHER_CORD, 1.0),
        ("a \u203a a \u203a b", "query 2", OTHER_CORD, 1.0),
        ("a \u203a a \u203a d", "query 2", OTHER_CORD, 0.5),
        ("d \u203a e \u203a f", "query 2", OTHER_CORD, 0.5),
        ("d \u203a e \u203a f", "query 1", OTHER_CORD, 1.0),
        ("a \u203a b \u203a c", "query 1", "Socks", 0.0),
        ("d", "query 2", "Cord", 0.1),
    ],
)
def test_product_types(path, query, title, expected):
    wanted = make_product(title="Name 1" if title == "Name 1" else CORD)
    bought = make_product(category_path=path, query=query, title=title)
    assert reward.score_type(bought, wanted) == expected


def test_titles_without_nouns_count_a_little():
    assert reward.score_title("Anything", "12 of 4-5") == 0.2


TEA_TREE = ("tea tree", "essential oils", "natural ingredients")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"attributes": ("tea tree", "essential oil", "natural ingredients")}, 3),
        ({"attributes": ("essential oil", "natural ingredients"), "title": ""}, 2),
        (
            {
                "bullets": ("This shampoo has essential oils and smells like lemons",),
                "description": "Best shampoo, made with natural ingredients",
            },
            2,
        ),
        (
            {
                "attributes": ("tea bag", "earl gray", "lipton"),
                "title": "English tea for breakfast",
                "bullets": ("Soothing aroma", "Calming, great feeling"),
            },
            0,
        ),
    ],
)
def test_attributes_of_upstream(fields, expected):
    assert reward.match_attributes(make_product(**fields), TEA_TREE) == expected


@pytest.mark.parametrize(
    ("chosen", "wanted", "expected"),
    [
        (["pack of 12", "grey", "XL"], ["grey", "XL", "pack of 12"], 3),
        (["pack of 12", "blue", "XL"], ["grey", "XL", "pack of 12"], 2),
        (
            ["pack of 12", "powder snow", "XL"],
            ["cool powder snow", "XL", "pack of 12"],
            3,
        ),
        (["goal 1", "goal 2"], [], 0),
        ([], ["goal 1", "goal 2"], 0),
    ],
)
def test_options_of_upstream(chosen, wanted, expected):
    by_name = dict(enumerate(chosen))
    unnamed = tuple(("", value) for value in wanted)
    assert reward.match_options_loosely(by_name, unnamed) == expected


def test_total_rewards_of_upstream():
    """1, 2/3, 4/7 and 2/7.

    In upstream's vectors the bullets are one string, of which it joins the letters with
    spaces, so that nothing is found in them; here there are none.
    """
    options = {"color": "grey", "size": "XL"}
    wanted = make_product(title=SNEAKERS)
    goal = make_goal(wanted, TEA_TREE, options.items())
    same = make_product(
        title=SNEAKERS, attributes=("tea tree", "essential oil", "natural ingredients")
    )
    less = make_product(title=SNEAKERS, description="made with natural ingredients")

    def score(product, goal):
        return reward.score_purchase(product, options, goal, strict=False)

    assert score(same, goal).total == 1.0
    assert score(less, goal).total == pytest.approx(2 / 3)
    more = make_goal(wanted, TEA_TREE, [*options.items(), ("amount", "pack of 12")])
    assert score(less, more).total == pytest.approx(4 / 7)
    cord = make_goal(make_product(title=CORD), TEA_TREE, more.options)
    other = make_product(
        title=OTHER_CORD,
        description="made with natural ingredients",
        query="query 2",
        category_path="a \u203a d \u203a e",
    )
    assert score(other, cord).total == pytest.approx(2 / 7)
    assert score(other, cord) == reward.Reward(pytest.approx(2 / 7), 0.5, 1, 2, True)
    too_dear = make_goal(wanted, TEA_TREE, options.items(), limit=30.0)
    assert not score(same, too_dear).price


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({"size": "large"}, ("size", "x-large")),
        ({"size": "6"}, ("size", "6 wide")),
        ({"style": "size"}, ("size", "medium")),
        ({"color": "light blue"}, ("color", "dark blue")),
        ({"fit": "large"}, ("size", "large")),
    ],
)
def test_loose_options_do_not_pass_under_strict(chosen, wanted):
    assert reward.match_options_loosely(chosen, (wanted,)) == 1
    assert reward.match_options_exactly(chosen, (wanted,)) == 0
    name, value = wanted
    assert reward.match_options_exactly({name.upper(): f" {value} "}, (wanted,)) == 1


def test_spacy_nouns_on_request(monkeypatch):
    token = types.SimpleNamespace
    model = [token(text="Lamp", pos_="NOUN"), token(text="Bright", pos_="ADJ")]
    fake = types.SimpleNamespace(load=lambda name: lambda title: model)
    reward.load_noun_finder.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", fake)
    assert reward.load_noun_finder("spacy:any")("Bright Lamp") == ("lamp",)
    reward.load_noun_finder.cache_clear()


def test_a_model_that_is_not_installed_is_told_at_once(monkeypatch):
    """Not at the first purchase, inside a worker."""
    reward.load_noun_finder.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    for options, model in (
        ({"nouns": "spacy"}, "en_core_web_lg"),
        ({"nouns": "spacy", "noun_model": "en_core_web_sm"}, "en_core_web_sm"),
    ):
        with pytest.raises(base.MissingDataError, match=f"its model {model}"):
            registry.make("webshop", base.EnvConfig(options=options))
    with pytest.raises(base.EnvConfigError, match="it needs nouns='spacy'"):
        registry.make("webshop", base.EnvConfig(options={"noun_model": "any"}))


def test_the_model_is_the_one_asked_for(monkeypatch):
    names = []
    fake = types.SimpleNamespace(load=lambda name: names.append(name))
    reward.load_noun_finder.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", fake)
    options = {"nouns": "spacy", "noun_model": "en_core_web_sm"}
    registry.make("webshop", base.EnvConfig(options=options))
    assert names == ["en_core_web_sm"]
    reward.load_noun_finder.cache_clear()


def test_an_option_with_an_empty_value_prints_no_empty_part():
    product = catalogue.Product(
        asin="B000000009",
        title="Lamp",
        description="",
        bullets=(),
        price=1.0,
        price_tag="$1.0",
        options={"color": ("", "red"), "size": ("",)},
        attributes=(),
        query="",
        category="",
        category_path="",
    )
    page = pages.item_page("Find me a lamp", product)
    assert " [SEP] color [SEP] red [SEP] size [SEP] Lamp [SEP] " in page
    assert "" not in page.split(" [SEP] ") and "" not in pages.item_clicks(product)
