"""Scripted shoppers: one that knows the product, one that reads pages only."""

import dataclasses
import re
from collections.abc import Sequence

from agentrl.envs import base, parsing
from agentrl.envs.webshop import catalogue, environment, pages, search

_LIMIT = re.compile(r", and price lower than ([\d.]+) dollars$")
_NOT_SEARCHABLE = re.compile(r"[\[\]\s]+")  # brackets would end a search early
_RESULTS_HEADER = re.compile(r"Page \d+ \(Total results: \d+\)$")

Step = tuple[str, str]  # thought, action


class PrivilegedOracle:
    """Buys the product that the goal was made from."""

    def __init__(self, env: base.Environment):
        assert isinstance(env, environment.WebShop)
        self._env = env
        self._steps: list[Step] | None = None

    def act(self, observation: str) -> str:
        """Returns the next answer of its plan."""
        if self._steps is None:
            self._steps = plan(
                self._env.shop, self._env.goal, page_size=self._env.page_size
            )
            if self._steps is None:
                raise ValueError(
                    f"no plan for the goal {self._env.goal.instruction!r}; play tasks "
                    "of the panels, which leave such goals out."
                )
        return parsing.render_react(*self._steps.pop(0))


def plan(
    shop: catalogue.Catalogue,
    goal: catalogue.Goal,
    *,
    page_size: int = pages.PAGE_SIZE,
) -> list[Step] | None:
    """The shortest known way to buy what the goal was made from, None without one."""
    product = goal.product
    rank, query = _find_query(shop, goal)
    options = find_options(goal)
    if rank == search.MAX_RESULTS or options is None:
        return None
    num_next = rank // page_size
    return [
        (f"The product is {product.title}, so I search for it.", f"search[{query}]"),
        *[("It is on a later page.", f"click[{pages.NEXT}]")] * num_next,
        ("There it is.", f"click[{product.asin.lower()}]"),
        *((f"I need {value}.", f"click[{value}]") for value in options.values()),
        ("Everything is chosen, so I buy it.", f"click[{pages.BUY}]"),
    ]


def _find_query(shop: catalogue.Catalogue, goal: catalogue.Goal) -> tuple[int, str]:
    """Keywords that find the target, and its rank: its title or the instruction."""
    found = []
    for text in (goal.product.title, goal.instruction):
        query = _NOT_SEARCHABLE.sub(" ", text)
        results = search.get_index(shop).search(query.lower())
        listed = goal.product in results
        rank = results.index(goal.product) if listed else search.MAX_RESULTS
        if rank < pages.PAGE_SIZE:
            return rank, query
        found.append((rank, query))
    return min(found)


def find_options(goal: catalogue.Goal) -> dict[str, str] | None:
    """The value to choose by option name, None if one cannot be clicked."""
    chosen = {}
    clicks = pages.option_clicks(goal.product)
    for name, wanted in goal.options:
        value = wanted.strip().lower()
        offered = clicks.get(value)
        writable = not re.search(r"[\[\]\n]", value)
        if offered is None or name not in ("", offered) or not writable:
            return None
        chosen[offered] = value
    return chosen


@dataclasses.dataclass(frozen=True)
class _Request:
    """What an instruction asks for, as far as its wording tells."""

    query: str
    phrases: tuple[str, ...]  # attributes to look for in titles and features
    values: tuple[str, ...]  # option values to choose
    limit: float


def _read_request(instruction: str) -> _Request:
    """Takes apart `Find me A, B kind with C for D with name: value, and price ...`."""
    found = _LIMIT.search(instruction)
    limit = float(found.group(1)) if found else catalogue.NO_LIMIT
    text = _LIMIT.sub("", instruction).removeprefix("Find me ")
    head, _, tail = text.rpartition(" with ")
    values: list[str] = []
    if ": " in tail:
        text = head
        values = [option.partition(": ")[2] for option in tail.split(", and ")]
    rest, _, purposes = text.partition(" for ")
    front, _, parts = rest.partition(" with ")
    *phrases, kind = front.split(", ")
    first_two, others = kind.split()[:2], kind.split()[2:]
    if others and "&" not in (first_two[1], others[0]):
        phrases.append(" ".join(first_two))
    phrases += [p for listed in (parts, purposes) if listed for p in listed.split(", ")]
    query = " ".join([text, *values])
    return _Request(
        _NOT_SEARCHABLE.sub(" ", query.replace(",", "")),
        tuple(phrase.lower() for phrase in phrases),
        tuple(values),
        limit,
    )


class ObservationalOracle:
    """Reads pages: searches, opens the likeliest product, checks, chooses and buys.

    It understands instructions in upstream's synthetic form. Where a title leaves open
    whether the product fits, it reads the features, as long as turns are left for that.
    """

    def __init__(self, env: base.Environment):
        limit = environment.WebShop.turn_limits[env.config.profile]
        self._turns = env.config.max_turns or limit  # left, the coming one included
        self._request = _Request("", (), (), 0.0)
        self._rejected: set[str] = set()
        self._asin = ""  # of the product that is open
        self._title = ""
        self._checked = False
        self._to_choose: list[str] = []

    def act(self, observation: str) -> str:
        """Returns the answer to a page."""
        text = observation.partition("\nAVAILABLE ACTIONS: ")[0]
        parts = text.split(pages.SEPARATOR)
        self._request = _read_request(parts[parts.index("Instruction:") + 1])
        if parts[-1] == "Search":
            thought = "I search for what I need."
            action = f"search[{self._request.query}]"
        elif any(_RESULTS_HEADER.match(part) for part in parts):
            thought, action = self._open_product(parts)
        elif parts[-1] == "Buy Now":
            thought, action = self._use_product(parts)
        else:
            thought, action = self._judge_features(parts)
        self._turns -= 1
        return parsing.render_react(thought, action)

    def _open_product(self, parts: Sequence[str]) -> Step:
        """Opens the affordable product whose title says most of what is asked for."""
        header = next(i for i, p in enumerate(parts) if _RESULTS_HEADER.match(p))
        listed = [p for p in parts[header + 1 :] if p not in ("< Prev", "Next >")]
        candidates = []
        for asin, title, tag in zip(*(iter(listed),) * 3, strict=False):
            prices = [float(price.removeprefix("$")) for price in tag.split(" to ")]
            if asin in self._rejected or prices[0] > self._request.limit:
                continue
            missing = len(self._find_missing(title))
            doubtful = prices[-1] > self._request.limit
            candidates.append((missing, doubtful, len(candidates), asin, title))
        if not candidates:
            button = "Next >" if "Next >" in parts else "Back to Search"
            return "Nothing here fits.", f"click[{button}]"
        *_, self._asin, self._title = min(candidates)
        self._checked = False
        self._to_choose = list(self._request.values)
        return f"{self._title} is the closest match.", f"click[{self._asin}]"

    def _use_product(self, parts: Sequence[str]) -> Step:
        """Goes back, checks the features, chooses the next option, or buys."""
        if self._asin in self._rejected:
            return "I look at another product.", "click[< Prev]"
        to_buy = len(self._to_choose) + 1
        lacking = [value for value in self._to_choose if value not in parts]
        if lacking and self._turns >= to_buy + 2:
            self._rejected.add(self._asin)
            return f"It does not come in {lacking[0]}.", "click[< Prev]"
        missing = self._find_missing(self._title)
        if missing and not self._checked and self._turns >= to_buy + 2:
            self._checked = True
            return f"I check the features for {missing[0]}.", "click[Features]"
        for value in self._to_choose:
            if value in parts:
                self._to_choose.remove(value)
                return f"I need {value}.", f"click[{value}]"
        if self._to_choose:
            return "No turns are left to look further.", "click[Buy Now]"
        return "Everything is chosen, so I buy it.", "click[Buy Now]"

    def _judge_features(self, parts: Sequence[str]) -> Step:
        """Returns to the product, rejecting it if another one can still be bought."""
        missing = self._find_missing(" ".join([self._title, *parts[2:]]))
        if not missing:
            return "It has everything.", "click[< Prev]"
        if self._turns >= len(self._to_choose) + 4:
            self._rejected.add(self._asin)
        return f"The features do not name {missing[0]}.", "click[< Prev]"

    def _find_missing(self, text: str) -> list[str]:
        """The phrases of the request of which some word is not in `text`."""
        text = text.lower()
        return [
            phrase
            for phrase in self._request.phrases
            if not all(word in text for word in phrase.split())
        ]
