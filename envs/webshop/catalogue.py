"""Products and goals, read from WebShop's own file formats.

A folder holds three files, as upstream publishes them, N being a number of products:

  items_shuffle_N.json  or items_shuffle.json   list of products
  items_ins_v2_N.json   or items_ins_v2.json    ASIN -> attributes, instruction
  items_human_ins.json                          ASIN -> human instructions

The synthetic catalogue of `synthetic.py` is written in the same formats and read by the
same functions. Formats and rules: princeton-nlp/WebShop, `web_agent_site/engine`, and
AgentGym's fork of it, which draws price limits and goal order from seed 233.
"""

import dataclasses
import decimal
import functools
import hashlib
import itertools
import json
import pathlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agentrl.envs import base
from agentrl.envs.webshop import synthetic

DEFAULT_PRODUCTS = 1000
NO_LIMIT = 1_000_000.0  # upstream's price limit of goals that name none
GOAL_KINDS = ("synthetic", "human")

_GOAL_SEED = 233
_PRICE_LIMITS = tuple(10.0 * i for i in range(1, 100))
_NO_ATTRIBUTES = ("DUMMY_ATTR",)  # upstream's, for products without a list


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """One product; compared by identity, as a catalogue holds each once."""

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price: float  # dollars; of a price range, one value fixed by the ASIN
    price_tag: str  # as shown: "$34.0" or "$10.0 to $20.0"
    options: Mapping[str, tuple[str, ...]]  # option name -> values, lower-cased
    attributes: tuple[str, ...]
    query: str
    category: str
    category_path: str  # segments joined by U+203A

    @functools.cached_property
    def searched_text(self) -> str:
        """What a search looks at: title, description, first bullet, options."""
        options = ", and ".join(
            f"{name}: {', '.join(values)}" for name, values in self.options.items()
        )
        first_bullet = self.bullets[0] if self.bullets else ""
        parts = (self.title, self.description, first_bullet, options)
        return " ".join(parts).lower()


@dataclasses.dataclass(frozen=True, eq=False)
class Goal:
    """What to buy. Human goals name no options, only values: their names are empty."""

    product: Product
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # (option name, value)
    price_limit: float  # dollars


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """All products, in file order, and all goals; `webshop_<k>` is `goals[k]`."""

    name: str  # of the folder, with a digest of the files
    products: tuple[Product, ...]
    goals: tuple[Goal, ...]

    def get_goal(self, index: int) -> Goal:
        """Returns `goals[index]`.

        Raises:
          UnknownItemError: if there are fewer goals.
        """
        if index >= len(self.goals):
            raise base.UnknownItemError(
                f"environment 'webshop' has no task 'webshop_{index}'; catalogue "
                f"{self.name} has webshop_0 to webshop_{len(self.goals) - 1}."
            )
        return self.goals[index]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a catalogue comes from, as an environment's options say."""

    folder: pathlib.Path | None  # of upstream's files; None is the synthetic catalogue
    num_products: int
    goal_kind: str

    @classmethod
    def from_config(cls, config: base.EnvConfig) -> "Source":
        """Reads the options `data_dir`, `products` and `goals`.

        Raises:
          EnvConfigError: for values that cannot work.
        """
        data_dir = config.options.get("data_dir", "")
        count = config.options.get("products", DEFAULT_PRODUCTS)
        goals = config.options.get("goals", "synthetic")
        if not isinstance(count, int) or count < 1:
            raise base.EnvConfigError(
                f"environment 'webshop': products = {count!r}; give an integer >= 1."
            )
        if goals not in GOAL_KINDS:
            raise base.EnvConfigError(
                f"environment 'webshop': goals = {goals!r}; choose one of {GOAL_KINDS}."
            )
        folder = pathlib.Path(str(data_dir)).expanduser() if data_dir else None
        return cls(folder, count, str(goals))


def load(config: base.EnvConfig) -> Catalogue:
    """Loads the catalogue that `config` asks for, once per process.

    Raises:
      EnvConfigError: for option values that cannot work.
      MissingDataError: if files are absent or not of the expected form.
    """
    source = Source.from_config(config)
    folder = source.folder or synthetic.ensure_written(source.num_products)
    return _load_folder(folder.resolve(), source.num_products, source.goal_kind)


@functools.lru_cache(maxsize=4)
def _load_folder(folder: pathlib.Path, count: int, goal_kind: str) -> Catalogue:
    digest = hashlib.sha256()
    items = _read_json(_find(folder, "items_shuffle", count), digest)
    annotations = _read_json(_find(folder, "items_ins_v2", count), digest)
    human = {}
    if goal_kind == "human":
        human = _read_json(folder / "items_human_ins.json", digest)
    try:
        products = _to_products(items[:count], annotations)
        if goal_kind == "human":
            goals = list(_human_goals(products, human))
        else:
            goals = list(_synthetic_goals(products, annotations))
    except (AttributeError, KeyError, TypeError, decimal.InvalidOperation) as error:
        raise base.MissingDataError(
            f"environment 'webshop': the files in {folder} are not in WebShop's "
            f"format: {type(error).__name__}: {error}; envs/webshop/catalogue.py says "
            "which fields are read."
        ) from error
    random.Random(_GOAL_SEED).shuffle(goals)
    name = f"{folder.name} {digest.hexdigest()[:8]}"
    return Catalogue(name, tuple(products), tuple(goals))


def _find(folder: pathlib.Path, stem: str, count: int) -> pathlib.Path:
    paths = (folder / f"{stem}_{count}.json", folder / f"{stem}.json")
    for path in paths:
        if path.is_file():
            return path
    raise base.MissingDataError(
        f"environment 'webshop': neither {paths[0]} nor {paths[1].name} exists; point "
        "option data_dir at a folder with WebShop's data files, or leave it out to use "
        "the synthetic catalogue."
    )


def _read_json(path: pathlib.Path, digest: Any) -> Any:
    try:
        content = path.read_bytes()
        digest.update(content)
        return json.loads(content)
    except (OSError, ValueError) as error:
        raise base.MissingDataError(
            f"environment 'webshop': cannot read {path}: {error}; fetch WebShop's file "
            "of that name again, or delete the folder if it is the synthetic catalogue."
        ) from error


def _to_products(
    items: Iterable[Mapping[str, Any]], annotations: Mapping[str, Any]
) -> list[Product]:
    """The first product of each ASIN; those of odd length are left out, as upstream."""
    products: dict[str, Product] = {}
    for item in items:
        asin = item["asin"]
        if asin != "nan" and len(asin) <= 10 and asin not in products:
            products[asin] = _to_product(item, annotations.get(asin, {}))
    return list(products.values())


def _to_product(item: Mapping[str, Any], annotation: Mapping[str, Any]) -> Product:
    bullets = item["small_description"]
    prices = _parse_prices(item.get("pricing"))
    attributes = annotation.get("attributes")
    return Product(
        asin=item["asin"],
        title=item["name"],
        description=item["full_description"] or "",
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets or "",),
        price=_fix_price(item["asin"], prices),
        price_tag=" to ".join(f"${price}" for price in prices),
        options=_parse_options(item["customization_options"]),
        attributes=_NO_ATTRIBUTES if attributes is None else tuple(attributes),
        query=item["query"].lower().strip(),
        category=item["category"],
        category_path=item["product_category"],
    )


def _parse_prices(pricing: str | None) -> tuple[float, ...]:
    """One price, or the two ends of a range; 100 dollars where none is given."""
    parts = (pricing or "").split("$")[1:]
    prices = [float(decimal.Decimal(re.sub(r"[^\d.]", "", part))) for part in parts]
    return tuple(prices[:2]) or (100.0,)


def _fix_price(asin: str, prices: tuple[float, ...]) -> float:
    """Draws within a range by ASIN; upstream draws anew whenever its server starts."""
    low, high = prices[0], prices[-1]
    return low + (high - low) * random.Random(base.stable_hash(asin)).random()


def _parse_options(raw: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    return {
        name.lower(): tuple(
            content["value"].strip().replace("/", " | ").lower() for content in contents
        )
        for name, contents in (raw or {}).items()
        if contents is not None
    }


def _synthetic_goals(
    products: Iterable[Product], annotations: Mapping[str, Any]
) -> Iterator[Goal]:
    """One goal per product with an instruction and combination of its options."""
    rng = random.Random(_GOAL_SEED)
    for product in products:
        annotation = annotations.get(product.asin, {})
        if annotation.get("instruction") is None:
            continue
        attributes = tuple(annotation["instruction_attributes"])
        limits = _limits_above(product.price)
        limit = max(rng.sample(limits, 2)) if len(limits) >= 2 else NO_LIMIT
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            options = tuple(zip(names, values, strict=True))
            wanted = ", and ".join(f"{name}: {value}" for name, value in options)
            text = annotation["instruction"] + (f" with {wanted}" if wanted else "")
            text += _limit_clause(limit)
            yield Goal(product, text, attributes, options, limit)


def _human_goals(
    products: Iterable[Product], instructions: Mapping[str, Any]
) -> Iterator[Goal]:
    """Four goals per human instruction, one for each of the next price limits."""
    for product in products:
        for entry in instructions.get(product.asin, ()):
            attributes = tuple(entry["instruction_attributes"])
            if not attributes:
                continue
            raw = entry["instruction_options"]
            named = raw.items() if isinstance(raw, dict) else [("", v) for v in raw]
            limits = _limits_above(product.price)
            for limit in limits if len(limits) >= 2 else [NO_LIMIT] * 4:
                text = entry["instruction"].strip(".") + _limit_clause(limit)
                yield Goal(product, text, attributes, tuple(named), limit)


def _limits_above(price: float) -> list[float]:
    return [limit for limit in _PRICE_LIMITS if limit > price][:4]


def _limit_clause(limit: float) -> str:
    if limit == NO_LIMIT:
        return ""
    return f", and price lower than {limit:.2f} dollars"
