import itertools
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys

import pytest
import tiny_shop

from agentrl.envs import base, registry, webshop
from agentrl.envs.webshop import catalogue, oracles, reward, search, synthetic

STRICT = base.EnvConfig()


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """All tests share one cache folder, and leave the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# Search.


def test_search_reads_plain_text():
    index = search.get_index(catalogue.load(STRICT))
    plain = index.search("wool socks black")
    assert plain[0].query == "socks & hosiery"
    assert len(plain) == search.MAX_RESULTS
    for decorated in ('+wool -"socks" AND black', "text:wool OR (socks) black~2 ^9"):
        words = {"and", "or", "text"}
        kept = " ".join(
            w for w in re.findall(r"\w+", decorated) if w.lower() not in words
        )
        assert set(index.search(decorated)) & set(index.search(kept))
    assert (
        index.search("qwertyuiop") == index.search("") == index.search("[]^~*?") == ()
    )
    assert index.search("wool " * 10_000) == index.search("wool")


def test_ties_go_by_catalogue_order(tmp_path):
    same = [tiny_shop.make_item(asin, name="Lamp") for asin in ("B3", "B1", "B2")]
    other = tiny_shop.make_item("B0", name="Lamp lamp")
    shop = load_items(tmp_path, [*same, other])
    results = search.get_index(shop).search("lamp")
    assert [p.asin for p in results] == ["B0", "B3", "B1", "B2"]


# Catalogue and goals.


def load_items(folder, items, annotations=None, **options):
    tiny_shop.write_shop(folder, items, annotations or {})
    return catalogue.load(base.EnvConfig(options={"data_dir": str(folder), **options}))


def test_loader_reads_upstreams_fields(tmp_path):
    shop = load_items(
        tmp_path,
        [
            tiny_shop.LAMP,
            tiny_shop.make_item("B000000001", name="a second entry of the same code"),
            tiny_shop.make_item("nan"),
            tiny_shop.make_item("B0000000012"),
            tiny_shop.make_item(
                "B2", full_description=None, small_description="one bullet"
            ),
            tiny_shop.make_item("B3", customization_options=None),
        ],
        {tiny_shop.LAMP["asin"]: tiny_shop.LAMP_ANNOTATION, "B3": {"attributes": []}},
    )
    assert [p.asin for p in shop.products] == ["B000000001", "B2", "B3"]
    lamp, second, third = shop.products
    assert lamp.options == {
        "color": ("red | blue", "navy"),
        "size": ("large", "x-large"),
    }
    assert lamp.query == "desk lamps"
    assert (second.description, second.bullets) == ("", ("one bullet",))
    assert (second.attributes, third.attributes) == (("DUMMY_ATTR",), ())
    assert third.options == {}
    assert lamp.searched_text == (
        " bright lamp  a lamp. gives light color: red | blue, navy, and size: large, "
        "x-large"
    )


@pytest.mark.parametrize(
    ("pricing", "tag", "low", "high"),
    [
        ("$34.00", "$34.0", 34, 34),
        ("$1,299.50", "$1299.5", 1299.5, 1299.5),
        ("$10.00 - $20.00", "$10.0 to $20.0", 10, 20),
        ("$8.99$4.50$1.00", "$8.99 to $4.5", 4.5, 8.99),
        ("", "$100.0", 100, 100),
        (None, "$100.0", 100, 100),
    ],
)
def test_prices(tmp_path, pricing, tag, low, high):
    (product,) = load_items(
        tmp_path, [tiny_shop.make_item("B1", pricing=pricing)]
    ).products
    assert product.price_tag == tag
    assert low <= product.price <= high
    if low < high:
        assert low < product.price < high


def test_goals_are_upstreams(tmp_path):
    """Limits and order come from seed 233, as in upstream's server."""
    dear = tiny_shop.make_item("B2", pricing="$985.00")
    free = tiny_shop.LAMP_ANNOTATION | {"instruction": "Find me dear lamps"}
    shop = load_items(
        tmp_path,
        [tiny_shop.LAMP, dear],
        {tiny_shop.LAMP["asin"]: tiny_shop.LAMP_ANNOTATION, "B2": free},
    )

    limit = max(random.Random(233).sample([40.0, 50.0, 60.0, 70.0], 2))
    colors, sizes = ("red | blue", "navy"), ("large", "x-large")
    expected = [
        f"Find me easy clean lamps with color: {color}, and size: {size}, "
        f"and price lower than {limit:.2f} dollars"
        for color, size in itertools.product(colors, sizes)
    ]
    expected.append("Find me dear lamps")  # one limit above 985 is too few to draw from
    random.Random(233).shuffle(expected)
    assert [goal.instruction for goal in shop.goals] == expected
    without_limit = shop.goals[expected.index("Find me dear lamps")]
    assert without_limit.price_limit == catalogue.NO_LIMIT


def test_human_goals(tmp_path):
    entry = {
        "instruction": "i need a lamp.",
        "instruction_attributes": ["easy clean"],
        "instruction_options": ["Navy", "large"],
    }
    empty = entry | {"instruction_attributes": []}
    tiny_shop.write_shop(
        tmp_path, [tiny_shop.LAMP], {}, {tiny_shop.LAMP["asin"]: [entry, empty]}
    )
    config = base.EnvConfig(options={"data_dir": str(tmp_path), "goals": "human"})
    goals = catalogue.load(config).goals
    assert sorted(goal.instruction for goal in goals) == [
        f"i need a lamp, and price lower than {limit}.00 dollars"
        for limit in (40, 50, 60, 70)
    ]
    assert goals[0].options == (("", "Navy"), ("", "large"))
    assert oracles.find_options(goals[0]) == {"color": "navy", "size": "large"}


def test_human_goals_of_the_synthetic_catalogue():
    config = base.EnvConfig(options={"goals": "human"})
    env = registry.make("webshop", config)
    ids = webshop.SPEC.panel("test", config).item_ids
    assert len(ids) > 50
    for item_id in ids[:20]:
        observation = env.reset(item_id)
        assert "i am looking for" in observation
        *_, (_, last) = tiny_shop.play(env, item_id, oracles.PrivilegedOracle)
        assert last.info.success


def test_unsolvable_goals_are_in_no_panel(tmp_path):
    """Brackets end a click early, and of two equal values only one can be clicked."""
    options = {"size": [{"value": "6 [wide]"}, {"value": "6"}], "fit": [{"value": "6"}]}
    items = [
        tiny_shop.make_item(f"B{number:09}", customization_options=options)
        for number in range(30)
    ]
    annotations = {item["asin"]: tiny_shop.LAMP_ANNOTATION for item in items}
    tiny_shop.write_shop(tmp_path, items, annotations)
    config = base.EnvConfig(options={"data_dir": str(tmp_path)})
    shop = catalogue.load(config)
    unsolvable = webshop.unsolvable(config)
    assert len(unsolvable) == len(shop.goals) == 60
    with pytest.raises(base.EnvConfigError, match="no task for split 'test'"):
        webshop.SPEC.panel("test", config)
    env = registry.make("webshop", config)
    observation = env.reset(unsolvable[0])
    with pytest.raises(ValueError, match="no plan"):
        oracles.PrivilegedOracle(env).act(observation)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"products": 0}, "products = 0"),
        ({"products": "many"}, "products = 'many'"),
        ({"goals": "own"}, "goals = 'own'"),
        ({"nouns": "best"}, "nouns = 'best'"),
        ({"produts": 5}, "no option 'produts'"),
    ],
)
def test_options_that_cannot_work(options, problem):
    with pytest.raises(base.EnvConfigError, match=problem):
        registry.make("webshop", base.EnvConfig(options=options))


def test_missing_and_broken_files(tmp_path):
    env = registry.make("webshop", base.EnvConfig(options={"data_dir": str(tmp_path)}))
    with pytest.raises(base.MissingDataError, match=r"items_shuffle_1000\.json"):
        env.reset("webshop_0")
    (tmp_path / "items_shuffle.json").write_text("[")
    (tmp_path / "items_ins_v2.json").write_text("{}")
    with pytest.raises(base.MissingDataError, match="cannot read"):
        env.reset("webshop_0")
    item = tiny_shop.make_item("B1")
    del item["query"]
    for items in ({"B1": item}, [item], [tiny_shop.make_item("B1", pricing="$n/a")]):
        (tmp_path / "items_shuffle.json").write_text(json.dumps(items))
        with pytest.raises(base.MissingDataError, match="not in WebShop's format"):
            env.reset("webshop_0")


# The synthetic catalogue.


def test_synthetic_files_are_the_same_everywhere():
    contents = synthetic.generate(60)
    assert contents == synthetic.generate(60)
    code = (
        "import json; from agentrl.envs.webshop import synthetic; "
        "print(json.dumps(synthetic.generate(60)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )
    assert json.loads(done.stdout) == contents


def test_synthetic_catalogue_is_pinned():
    """A change of the words or the generator needs a new VERSION."""
    assert catalogue.load(STRICT).name == "webshop-synthetic-v1-1000 a8d289c9"


def test_workers_may_write_the_catalogue_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        folders = pool.map(synthetic.ensure_written, [40] * 6, chunksize=1)
    assert set(folders) == {tmp_path / "webshop-synthetic-v1-40"}
    assert sorted(os.listdir(tmp_path)) == [
        "webshop-synthetic-v1-40",
        "webshop-synthetic-v1-40.lock",
    ]
    assert sorted(os.listdir(folders[0])) == [
        "items_human_ins.json",
        "items_ins_v2_40.json",
        "items_shuffle_40.json",
    ]


def test_synthetic_words_do_not_match_by_accident():
    words = synthetic._load_words()
    for department in words["departments"]:
        for leaf in department["leaves"]:
            attributes = (
                leaf["front"] + leaf["with"] + leaf["for"] + department["front"]
            )
            for one, other in itertools.combinations(sorted(set(attributes)), 2):
                assert not reward._is_similar(one, other), (leaf["name"], one, other)
    for option in words["options"].values():
        for value in option["values"]:
            pair = (option["name"], value)
            assert reward.match_options_loosely(dict([pair]), (pair,)) == 1, pair


def test_size_of_the_catalogue_is_an_option():
    small = base.EnvConfig(options={"products": 150})
    shop = catalogue.load(small)
    assert len(shop.products) == 150
    assert len(webshop.SPEC.panel("train", small).item_ids) < webshop.TRAIN_SIZE
