import hashlib
import random
import re

import hypothesis
import hypothesis.strategies as st
import pytest
import tiny_shop

from agentrl.envs import base, parsing, registry, webshop
from agentrl.envs.webshop import catalogue, oracles, pages, search

STRICT = base.EnvConfig()
AGENTGYM = base.EnvConfig(profile="agentgym")
PROFILES = pytest.mark.parametrize(
    "config", [STRICT, AGENTGYM], ids=["strict", "agentgym"]
)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """All tests share one cache folder, and leave the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def shop_dir(tmp_path):
    """One lamp with options and goals, and 24 other lamps."""
    others = [tiny_shop.make_item(f"B{number:09}") for number in range(100, 124)]
    return tiny_shop.write_shop(
        tmp_path,
        [tiny_shop.LAMP, *others],
        {tiny_shop.LAMP["asin"]: tiny_shop.LAMP_ANNOTATION},
    )


@pytest.fixture
def make_env(shop_dir):
    def make(profile="strict", **fields):
        options = {"data_dir": str(shop_dir)}
        return registry.make(
            "webshop", base.EnvConfig(profile=profile, options=options, **fields)
        )

    return make


def find_goal(env, **options):
    """The id of the goal with these option values."""
    wanted = tuple(sorted(options.items()))
    return next(
        f"webshop_{index}"
        for index, goal in enumerate(env.shop.goals)
        if goal.options == wanted
    )


def act(env, *actions):
    """Plays actions and returns the last result."""
    for action in actions:
        result = env.step(f"Thought:\nI try.\n\nAction:\n{action}")
    return result


# Pages.

REQUEST = (
    "Instruction: [SEP] Find me easy clean lamps with color: navy, and size: large, "
    "and price lower than {limit:.2f} dollars"
)
ITEM = (
    " [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] red | blue [SEP] navy [SEP] "
    "size [SEP] large [SEP] x-large [SEP] Bright Lamp [SEP] Price: $34.0 [SEP] Rating: "
    "N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
)


def test_a_page_shows_as_many_products_as_the_option_says():
    config = base.EnvConfig(options={"page_size": 3})
    tens = registry.get_spec("webshop").panel("test", base.EnvConfig())
    threes = registry.get_spec("webshop").panel("test", config)
    assert threes.item_ids == tens.item_ids
    assert threes.version == f"{tens.version}, 3 products a page"
    for item_id in threes.item_ids[:3]:
        env = registry.make("webshop", config)
        first = env.reset(item_id)
        oracle = registry.get_spec("webshop").oracles["privileged"](env)
        result = env.step(oracle.act(first))
        assert len(result.observation.split(" [SEP] ")) <= 5 + 3 * 3
        while not result.done:
            result = env.step(oracle.act(result.observation))
        assert result.info.success
    for size in (0, 11, True, "3"):
        with pytest.raises(base.EnvConfigError, match="page_size"):
            registry.make("webshop", base.EnvConfig(options={"page_size": size}))


@pytest.mark.parametrize("profile", base.PROFILES)
def test_every_page_word_for_word(make_env, profile):
    env = make_env(profile)
    first = env.reset(find_goal(env, color="navy", size="large"))
    request = REQUEST.format(limit=env.goal.price_limit)

    assert first == f"WebShop [SEP] {request} [SEP] Search"
    results = act(env, "search[Bright lamp]").observation
    assert results.startswith(
        f"{request} [SEP] Back to Search [SEP] Page 1 (Total results: 25) [SEP] Next > "
        "[SEP] B000000001 [SEP] Bright Lamp [SEP] $34.0 [SEP] B"
    )
    assert results.count("$34.0") == pages.PAGE_SIZE
    second = act(env, "click[Next >]").observation
    assert second.startswith(
        f"{request} [SEP] Back to Search [SEP] Page 2 (Total results: 25) [SEP] < Prev "
        "[SEP] Next > [SEP] B"
    )
    item = act(env, "click[< Prev]", "click[b000000001]").observation
    assert item == request + ITEM
    assert act(env, "click[navy]").observation == item
    sub_page = f"{request} [SEP] Back to Search [SEP] < Prev"
    assert act(env, "click[Description]").observation == f"{sub_page} [SEP] A lamp."
    features = act(env, "click[< Prev]", "click[Features]").observation
    assert features == f"{sub_page} [SEP] Gives light [SEP] Stands alone"
    assert act(env, "click[< Prev]").observation == item


def test_receipt_word_for_word(make_env):
    env = make_env(max_turns=20)
    env.reset(find_goal(env, color="navy", size="large"))
    result = act(
        env,
        "search[bright lamp]",
        "click[B000000001]",
        "click[reviews]",
        "click[< prev]",
        "click[large]",
        "click[red | blue]",
        "click[navy]",
        "click[buy now]",
    )
    assert result.observation == (
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it "
        "in your MTurk interface.) [SEP] Purchased [SEP] asin [SEP] B000000001 [SEP] "
        'options [SEP] {"color": "navy", "size": "large"} [SEP] attrs [SEP] None [SEP] '
        "category [SEP] None [SEP] query [SEP] None [SEP] product category [SEP] None "
        "[SEP] Target [SEP] asin [SEP] options [SEP] attrs [SEP] price upper [SEP] "
        "instuction text [SEP] category [SEP] product category [SEP] query [SEP] Goal "
        "[SEP] None [SEP] Reward [SEP] Your score (min 0.0, max 1.0) [SEP] 1.0 [SEP] "
        "Reward Details [SEP] None"
    )
    assert result.terminated and not result.truncated
    assert (result.reward, result.info.success, result.info.score) == (1.0, True, 1.0)
    assert result.info.progress == 1.0


# Actions.


@pytest.mark.parametrize(
    ("place", "actions", "refused"),
    [
        ("search", [], ["click[search]", "click[buy now]", "click[back to search]"]),
        ("results", ["search[lamp]"], ["click[< prev]", "click[navy]", "click[b1]"]),
        (
            "item",
            ["search[bright lamp]", "click[b000000001]"],
            ["click[next >]", "click[b000000100]", "click[red/blue]", "click[color]"],
        ),
        (
            "description",
            ["search[bright lamp]", "click[b000000001]", "click[description]"],
            ["click[buy now]", "click[navy]", "click[features]"],
        ),
    ],
)
@pytest.mark.parametrize("profile", base.PROFILES)
def test_impossible_actions_change_nothing(make_env, profile, place, actions, refused):
    env = make_env(profile, max_turns=50)
    page = env.reset(find_goal(env, color="navy", size="large"))
    if actions:
        page = act(env, *actions).observation
    formless = ["", "buy now", "look[lamp]", "search[]", "search[a\nb]", "click navy"]
    for action in [*formless, "Search[lamp]", "please click[navy]", *refused]:
        result = act(env, action)
        assert not result.info.valid_action, action
        assert result.reward == 0 and not result.done
        if profile == "agentgym":
            assert result.observation == page
        else:
            reason, _, rest = result.observation.partition(" [SEP] ")
            assert reason.startswith("Invalid action: ")
            assert rest == page, place


def test_format_errors_are_told_from_impossible_clicks(make_env):
    env = make_env()
    env.reset("webshop_0")
    assert act(env, "navy please").info.parse_error
    refused = act(env, "click[navy]").info
    assert (refused.parse_error, refused.parsed_action) == (False, "click[navy]")
    assert env.step("no action at all").info.parse_error
    assert env.step("I search: search[lamp]").info.valid_action is False
    assert env.step("search[lamp]").info.valid_action


def test_options_are_forgotten_with_the_product(make_env):
    env = make_env(max_turns=50)
    item_id = find_goal(env, color="navy", size="large")
    choose = ("search[bright lamp]", "click[b000000001]", "click[navy]", "click[large]")
    for leave in (("click[< prev]",), ("click[back to search]", "search[bright lamp]")):
        env.reset(item_id)
        act(env, *choose, *leave, "click[b000000001]")
        result = act(env, "click[buy now]")
        assert result.reward == 0.5  # attribute and price, but neither option
        assert not result.info.success


def test_progress_counts_listed_opened_and_chosen(make_env):
    env = make_env()
    env.reset(find_goal(env, color="navy", size="large"))
    path = ("search[bright lamp]", "click[b000000001]", "click[navy]", "click[x-large]")
    found = [act(env, action).info.progress for action in path]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert act(env, "click[back to search]").info.progress == pytest.approx(0.2)


def test_search_and_pages_are_bounded_under_strict(make_env):
    env = make_env(max_turns=50)
    env.reset("webshop_0")
    last = act(env, "search[lamp]", "click[next >]", "click[next >]").observation
    assert "Page 3 (Total results: 25) [SEP] < Prev [SEP] B" in last
    assert not act(env, "click[next >]").info.valid_action
    assert not act(env, "search[bright]").info.valid_action
    assert act(env, "click[back to search]", "search[bright]").info.valid_action
    env.reset("webshop_0")
    assert not act(env, "search[  ]").info.valid_action


def test_search_and_pages_are_unbounded_in_agentgym(make_env):
    env = make_env("agentgym", max_turns=50)
    env.reset("webshop_0")
    act(env, "search[lamp]", *["click[next >]"] * 5)
    beyond = act(env, "click[next >]").observation
    assert beyond.endswith("Page 7 (Total results: 25) [SEP] < Prev [SEP] Next >")
    found = act(env, "search[bright]").observation
    assert "Page 1 (Total results: 1) [SEP] Next > [SEP] B000000001" in found
    act(env, "click[b000000001]", "click[features]")
    assert act(env, "search[bright]").observation == found
    nothing = act(env, "search[  ]")
    assert nothing.info.valid_action and "Total results: 0" in nothing.observation


@pytest.mark.parametrize(
    ("keywords", "num_results"),
    [("<r>", 25), ("<c> garden", 25), ("<c> beauty", 0), ("<q> desk lamps", 25)],
)
def test_hidden_commands_work_in_agentgym_only(make_env, keywords, num_results):
    env = make_env("agentgym")
    env.reset("webshop_0")
    first = act(env, f"search[{keywords}]").observation
    assert f"(Total results: {num_results})" in first
    env.reset("webshop_0")
    assert act(env, f"search[{keywords}]").observation == first
    strict = make_env()
    strict.reset("webshop_0")
    plain = re.sub("[<>]", "", keywords)
    expected = len(search.get_index(strict.shop).search(plain))
    shown = act(strict, f"search[{keywords}]").observation
    assert f"(Total results: {expected})" in shown


@pytest.mark.parametrize("keywords", ["<a> easy clean", "<c>"])
def test_commands_that_crash_upstream_are_refused(make_env, keywords):
    env = make_env("agentgym")
    env.reset("webshop_0")
    assert not act(env, f"search[{keywords}]").info.valid_action


@hypothesis.given(text=st.text(max_size=60), wrap=st.sampled_from(["{}", "click[{}]"]))
@hypothesis.settings(max_examples=60, deadline=None)
def test_unlisted_text_changes_nothing(text, wrap):
    env = registry.make("webshop", base.EnvConfig(max_turns=2))
    env.reset("webshop_5")
    act(env, "search[lamp]")
    listed = list(env.available_actions())
    action = wrap.format(text)
    hypothesis.assume(not any(a.lower() in action.lower() for a in listed))
    hypothesis.assume("search[" not in action)
    assert not act(env, action).info.valid_action
    assert list(env.available_actions()) == listed


@pytest.mark.parametrize("profile", base.PROFILES)
def test_a_wrong_option_earns_nothing_under_strict_only(make_env, profile):
    env = make_env(profile)
    env.reset(find_goal(env, color="navy", size="x-large"))
    path = ("search[bright lamp]", "click[b000000001]", "click[navy]", "click[large]")
    result = act(env, *path, "click[buy now]")
    assert result.info.success == (profile == "agentgym")
    assert result.reward == (1.0 if profile == "agentgym" else 0.75)


def test_ids_beyond_the_goals(make_env):
    env = make_env()
    for call in (env.reset, lambda i: webshop.SPEC.tier(i, env.config)):
        with pytest.raises(base.UnknownItemError, match="webshop_0 to webshop_3"):
            call("webshop_4")


# Tasks and oracles.


@PROFILES
def test_panels(config):
    shop = catalogue.load(config)
    panels = {split: webshop.SPEC.panel(split, config) for split in webshop.SPEC.splits}
    assert {s: len(p.item_ids) for s, p in panels.items()} == {
        "train": 3930,
        "test": 200,
    }
    targets = {
        split: {
            shop.goals[base.parse_item_id("webshop", i)].product for i in p.item_ids
        }
        for split, p in panels.items()
    }
    assert not targets["train"] & targets["test"]
    assert len(targets["test"]) >= 40
    assert webshop.unsolvable(config) == ()
    assert (panels["train"].digest, panels["test"].digest) == (
        "d6e3fed15cfb",
        "e9950143c36d",
    )
    with pytest.raises(base.EnvConfigError, match="no split 'dev'"):
        webshop.SPEC.panel("dev", config)


def test_tiers_and_subsets():
    ids = webshop.SPEC.panel("test", STRICT).item_ids
    shop = catalogue.load(STRICT)
    tiers = [webshop.SPEC.tier(item_id, STRICT) for item_id in ids]
    assert min(tiers.count("easy"), tiers.count("hard")) >= 60
    for item_id, tier in zip(ids, tiers, strict=True):
        goal = shop.goals[base.parse_item_id("webshop", item_id)]
        if tier == "easy":
            assert len(goal.attributes) + len(goal.options) <= 2
        assert webshop.SPEC.subset(item_id, STRICT) == goal.product.category
    departments = {"beauty", "electronics", "fashion", "garden", "grocery"}
    assert {webshop.SPEC.subset(item_id, STRICT) for item_id in ids} == departments


def test_tier_depends_on_what_a_plain_search_shows(tmp_path):
    """The instruction's words fit the eleven other lamps better than the target."""
    target = tiny_shop.make_item(
        "B2", name="Thing", full_description="", small_description=[]
    )
    lamps = [
        tiny_shop.make_item(f"B{n:09}", name="easy clean lamps") for n in range(11)
    ]
    tiny_shop.write_shop(tmp_path, [target, *lamps], {"B2": tiny_shop.LAMP_ANNOTATION})
    config = base.EnvConfig(options={"data_dir": str(tmp_path)})
    assert webshop.SPEC.tier("webshop_0", config) == "hard"
    tiny_shop.write_shop(
        tmp_path, [target | {"name": "easy clean"}], {"B2": tiny_shop.LAMP_ANNOTATION}
    )
    catalogue._load_folder.cache_clear()
    assert webshop.SPEC.tier("webshop_0", config) == "easy"


@PROFILES
@pytest.mark.parametrize(
    ("kind", "needed"), [("privileged", 1.0), ("observational", 0.95)]
)
def test_oracles_solve_the_test_panel(config, kind, needed):
    ids = webshop.SPEC.panel("test", config).item_ids
    env = registry.make("webshop", config)
    oracle = webshop.SPEC.oracles[kind]
    last = [tiny_shop.play(env, item_id, oracle)[-1] for item_id in ids]
    assert sum(result.info.success for _, result in last) >= needed * len(ids)


@PROFILES
def test_random_clicks_rarely_succeed(config):
    env = registry.make("webshop", config)
    ids = webshop.SPEC.panel("test", config).item_ids
    solved = 0
    for item_id in ids:
        rng = random.Random(base.stable_hash(item_id))
        env.reset(item_id)
        query = parsing.render_react("", f"search[{env.goal.instruction}]")
        result = env.step(query)  # with a sensible search, to give it a chance
        while not result.done:
            action = rng.choice(list(env.available_actions()))
            result = env.step(parsing.render_react("", action))
        solved += result.info.success
    assert solved < 0.05 * len(ids)


def test_observational_oracle_turns_to_the_next_product():
    """It goes back from a product that lacks an option or an attribute."""
    env = registry.make("webshop", STRICT)
    answers = []
    for item_id in webshop.SPEC.panel("train", STRICT).item_ids[:600]:
        turns = tiny_shop.play(env, item_id, oracles.ObservationalOracle)
        assert all(result.info.valid_action for _, result in turns)
        answers += [answer for answer, _ in turns]
    assert sum("It does not come in" in answer for answer in answers) > 20
    assert sum("The features do not name" in answer for answer in answers) > 0


GOLDEN = {  # SHA-256, first 16 digits, of first observations
    "webshop_14": "742529f88ce37bba",
    "webshop_547": "04be591686b0221f",
    "webshop_1103": "7095ecbae2e913db",
    "webshop_1591": "dc1ded0ec256dd6b",
    "webshop_2286": "f22c03f58e22384a",
    "webshop_3156": "e6140aff292ee543",
    "webshop_3827": "835349a37fc3f0fb",
    "webshop_4291": "835a6694f030b5f6",
    "webshop_4842": "64ae7bbbe8efcc5d",
    "webshop_5453": "83045cd7f8a6c4d2",
    "webshop_0": "ae34bae2fccda479",
    "webshop_597": "50f236ce55471215",
    "webshop_1203": "8ff2027034d5cd9c",
    "webshop_1810": "b4daebedd13083f5",
    "webshop_2398": "cc6e57afb715a3e1",
    "webshop_2970": "cfe53741e04dc7a9",
    "webshop_3560": "fb0ca279e3ce259e",
    "webshop_4181": "da936ad0764a2564",
    "webshop_4790": "beee643c48c97f74",
    "webshop_5383": "58fdcbab3890cc34",
}


@pytest.mark.parametrize("item_id", GOLDEN)
def test_golden_first_observations(item_id):
    observation = registry.make("webshop", STRICT).reset(item_id)
    assert hashlib.sha256(observation.encode()).hexdigest()[:16] == GOLDEN[item_id]
