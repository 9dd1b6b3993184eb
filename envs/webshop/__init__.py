"""WebShop: find, configure and buy the right product in a web shop.

Actions: `search[keywords]` and `click[value]` after the last `Action:` of an answer.
What can be clicked is not listed unless `list_actions` says so.
Observations: the page as text, parts joined by ` [SEP] `: search box, results (ten a
page, fifty at most), product, its description, features and reviews, and the receipt.
Rewards: 0 until `Buy Now`; then a share of what was asked for, in [0, 1], see
`agentrl.envs.webshop.reward`. Success is reward 1, the score is the reward.
Ending: buying terminates; ten turns truncate, in both profiles.

Profile `strict` (default) departs from upstream in these points:
  * an option counts only if its own value was chosen, not one that resembles it;
  * searches are possible where a search box is, and keywords are plain text;
  * there is no `Next >` beyond the last result;
  * an action that is not possible is answered with a sentence before the page.
Profile `agentgym` keeps upstream's rules, among them the hidden commands `<r>`, `<c>`
and `<q>` of searches. In both, a price range costs one value fixed by the product's
code, nouns of titles are told by a word list (option `nouns="spacy"` takes spaCy with
the model `noun_model`, by default upstream's `en_core_web_lg`), and BM25 has other
constants than upstream's Lucene.

Tasks: `webshop_<k>` is goal k, in upstream's order: one goal per product with an
instruction and combination of its options. Splits are by product: about 15 % of those
with goals are for tests. Of their goals 200 make the test panel, of the others' 3,930
the train panel, evenly over products. Goals that the privileged oracle cannot solve
within ten turns, in either profile, are in no panel; `unsolvable(config)` lists them.
A task is easy if it names at most two attributes and options and its own instruction,
searched for, finds the target among the first ten. Subsets are the shop's
departments.

Data: by default the synthetic catalogue `synthetic-v1`, generated at first use into
`$AGENTRL_CACHE` (default `~/.cache/agentrl`) from word tables of this project, under
its licence; option `products` sets its size. Option `data_dir` names a folder with
upstream's own files, which are not part of this project; `products` then says how
many to take. Option `goals="human"` takes human instructions. Option `page_size`
(default 10) sets how many products a page of results shows, for policies with little
room; panels and tiers stay those of ten, and their versions name it. WebShop:
https://arxiv.org/abs/2207.01206.
"""

import collections
import functools
from collections.abc import Sequence

from agentrl.envs import base
from agentrl.envs.webshop import (
    catalogue,
    environment,
    oracles,
    pages,
    reward,
    search,
    synthetic,
)

TRAIN_SIZE = 3930
TEST_SIZE = 200

_TEST_SHARE = 0.15  # of the products with goals
_MAX_EASY_PARTS = 2  # attributes and options of an easy goal


def make_panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    """Chooses the tasks of a split by hash; fewer if the catalogue is small."""
    if split not in ("train", "test"):
        raise base.EnvConfigError(
            f"environment 'webshop' has no split {split!r}; it has 'train' and 'test'."
        )
    shop = catalogue.load(config)
    kept = [
        index
        for index in _solvable(shop)
        if _is_test_product(shop.goals[index].product) == (split == "test")
    ]
    if not kept:
        raise base.EnvConfigError(
            f"environment 'webshop': catalogue {shop.name} leaves no task for split "
            f"'{split}'; use more products."
        )
    chosen = _spread(shop, kept)[: TEST_SIZE if split == "test" else TRAIN_SIZE]
    size = environment.read_page_size(config)
    shown = "" if size == pages.PAGE_SIZE else f", {size} products a page"
    version = f"webshop-1 {shop.name}{shown}"
    ids = tuple(f"webshop_{index}" for index in sorted(chosen))
    return base.TaskPanel("webshop", split, version, ids)


def _spread(shop: catalogue.Catalogue, indices: Sequence[int]) -> list[int]:
    """Orders goals by hash, first one of each product, then a second one, and so on."""
    turns = collections.Counter[catalogue.Product]()
    ordered = []
    for index in sorted(indices, key=lambda i: base.stable_hash("webshop-panel", i)):
        product = shop.goals[index].product
        ordered.append((turns[product], len(ordered), index))
        turns[product] += 1
    return [index for *_, index in sorted(ordered)]


def unsolvable(config: base.EnvConfig) -> tuple[str, ...]:
    """The tasks that no panel holds, as the privileged oracle cannot solve them."""
    shop = catalogue.load(config)
    solvable = set(_solvable(shop))
    indices = range(len(shop.goals))
    return tuple(f"webshop_{index}" for index in indices if index not in solvable)


def find_tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    """Easy if little is asked for and a plain search shows the target."""
    shop, goal = _find_goal(item_id, config)
    if len(goal.attributes) + len(goal.options) > _MAX_EASY_PARTS:
        return "hard"
    results = search.get_index(shop).search(goal.instruction.lower())
    return "easy" if goal.product in pages.on_page(results, 1) else "hard"


def find_subset(item_id: str, config: base.EnvConfig) -> str:
    """The department of the product to buy."""
    return _find_goal(item_id, config)[1].product.category


def fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """What makes two tasks the same: the instruction and what has to be bought."""
    goal = _find_goal(item_id, config)[1]
    return base.make_fingerprint(
        " ".join(goal.instruction.lower().split()),
        goal.product.asin,
        goal.attributes,
        goal.options,
    )


def list_subsets(config: base.EnvConfig) -> tuple[str, ...] | None:
    """The departments of the synthetic catalogue; None for upstream's files."""
    return None if config.options.get("data_dir") else synthetic.list_departments()


def _find_goal(
    item_id: str, config: base.EnvConfig
) -> tuple[catalogue.Catalogue, catalogue.Goal]:
    shop = catalogue.load(config)
    return shop, shop.get_goal(base.parse_item_id("webshop", item_id))


def _is_test_product(product: catalogue.Product) -> bool:
    return base.stable_hash("webshop-split", product.asin) < _TEST_SHARE * 2**64


@functools.lru_cache(maxsize=4)
def _solvable(shop: catalogue.Catalogue) -> tuple[int, ...]:
    return tuple(i for i, goal in enumerate(shop.goals) if _is_solvable(shop, goal))


def _is_solvable(shop: catalogue.Catalogue, goal: catalogue.Goal) -> bool:
    """Whether the plan fits the turn limit and earns 1 under both profiles."""
    steps = oracles.plan(shop, goal)
    chosen = oracles.find_options(goal)
    if steps is None or chosen is None or len(steps) > environment.TURN_LIMIT:
        return False
    return all(
        reward.score_purchase(goal.product, chosen, goal, strict=strict).total == 1
        for strict in (True, False)
    )


SPEC = base.EnvSpec(
    name="webshop",
    make=environment.WebShop,
    splits=("train", "test"),
    panel=make_panel,
    tier=find_tier,
    subset=find_subset,
    subsets=list_subsets,
    fingerprint=fingerprint,
    oracles={
        "privileged": oracles.PrivilegedOracle,
        "observational": oracles.ObservationalOracle,
    },
    verbs=("search[", "click["),
)
