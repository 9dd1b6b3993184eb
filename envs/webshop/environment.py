"""The shop as an environment; see the package for its data sheet."""

import functools
import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentrl.envs import base, parsing, prompts
from agentrl.envs.webshop import catalogue, pages, reward, search

TURN_LIMIT = 10  # in both profiles

_BAD_FORMAT = "Invalid action: write search[keywords] or click[value]."
_NO_BOX = "Invalid action: this page has no search box."
_NO_CLICK = "Invalid action: this page has nothing of that name to click."

_INSTRUCTION = """\
You are shopping on the web. You are told what to buy, and every turn shows you a page
of the shop. Its parts are separated by [SEP]. Respond to each page with one action:

search[keywords] looks for products{where}. Choose the keywords well.
click[value] clicks a value of the page: a button, a product's code or an option.

An action that is not possible on the page changes nothing. Find the product that has
everything asked for, choose its options and then click[Buy Now], which ends the task.

Answer in this form:
Thought:
I think ...

Action:
click[something]"""


class WebShop(base.Environment):
    """Finding and buying the right product."""

    name = "webshop"
    turn_limits: ClassVar[Mapping[base.Profile, int]] = dict.fromkeys(
        base.PROFILES, TURN_LIMIT
    )
    acknowledgements: ClassVar = {"strict": prompts.ACKNOWLEDGEMENT, "agentgym": "Ok."}
    synonyms: ClassVar = {"search[": "find[", "click[": "press["}
    option_names = (
        *("data_dir", "products", "goals", "nouns", "noun_model"),
        "page_size",
    )

    goal: catalogue.Goal
    _results: Sequence[catalogue.Product]
    _chosen: dict[str, str]  # value by option name, of the product that is open

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        catalogue.Source.from_config(self.config)  # fails now rather than at a reset
        self._strict = self.config.profile == "strict"
        self.page_size = read_page_size(self.config)
        self._nouns = str(self.config.options.get("nouns", "lexical"))
        if self._nouns not in reward.NOUN_FINDERS:
            raise base.EnvConfigError(
                f"environment 'webshop': nouns = {self._nouns!r}; choose one of "
                f"{reward.NOUN_FINDERS}."
            )
        if "noun_model" in self.config.options and self._nouns != "spacy":
            raise base.EnvConfigError(
                "environment 'webshop': option noun_model names a model of spaCy; it "
                f"needs nouns='spacy', not nouns={self._nouns!r}."
            )
        if self._nouns == "spacy":
            model = self.config.options.get("noun_model", reward.SPACY_MODEL)
            self._nouns = f"spacy:{model}"
        reward.load_noun_finder(self._nouns)  # fails now rather than at a purchase

    @functools.cached_property
    def shop(self) -> catalogue.Catalogue:
        """The catalogue, loaded at the first use in this process."""
        return catalogue.load(self.config)

    @property
    def default_instruction(self) -> str:
        """The rules, in our own words."""
        where = ", on the page with the search box only" if self._strict else ""
        return _INSTRUCTION.format(where=where)

    def available_actions(self) -> Sequence[str]:
        """The page's clicks; where there is a search box, the form of a search."""
        if self._place == "search":
            return ["search[<keywords>]"]
        return [f"click[{value}]" for value in self._clicks()]

    def _start(self, index: int) -> str:
        self.goal = self.shop.get_goal(index)
        self._index = index
        self._target_listed = False
        self._go_to_search()
        return self._render()

    def _apply(self, text: str) -> base.StepResult:
        action = parsing.parse_last_action(text, self.config.profile).action
        verb, argument = _split_action(action)
        argument = argument.lower()
        if verb == "search":
            problem = self._search(argument)
        elif verb == "click":
            if argument == pages.BUY and self._place == "item":
                return self._buy()
            problem = self._click(argument)
        else:
            return self._refuse(_BAD_FORMAT, action, parse_error=True)
        parsed = f"{verb}[{argument}]"
        if problem:
            return self._refuse(problem, parsed)
        info = base.StepInfo(parsed_action=parsed, progress=self._progress())
        return base.StepResult(self._render(), info=info)

    def _refuse(
        self, problem: str, action: str, *, parse_error: bool = False
    ) -> base.StepResult:
        page = self._render()
        if self._strict:  # upstream shows the page again and says nothing
            page = problem + pages.SEPARATOR + page
        info = base.StepInfo(
            valid_action=False,
            parse_error=parse_error,
            parsed_action=action,
            progress=self._progress(),
        )
        return base.StepResult(page, info=info)

    # Actions. They return what is wrong with them, if anything.

    def _search(self, keywords: str) -> str:
        if self._strict and self._place != "search":
            return _NO_BOX
        if self._strict and not keywords.strip():
            return _BAD_FORMAT
        results = self._find(keywords)
        if results is None:
            return _BAD_FORMAT
        self._results = results
        self._go_to_results(1)
        return ""

    def _find(self, keywords: str) -> Sequence[catalogue.Product] | None:
        """Searches; `agentgym` keeps upstream's hidden commands that list products.

        `<r>` lists fifty at random, `<c> category` and `<q> query` those of one kind;
        `<a>` and a `<c>` without a category, which crash upstream's server, are None.
        """
        command, _, rest = keywords.partition(" ")
        if self._strict or command not in ("<r>", "<a>", "<c>", "<q>"):
            return search.get_index(self.shop).search(keywords)
        products = self.shop.products
        if command == "<r>":
            count = min(search.MAX_RESULTS, len(products))
            return random.Random(self._index).sample(products, count)
        if command == "<q>":
            return [p for p in products if p.query == rest.strip()]
        if command == "<c>" and rest:
            category = rest.split(" ")[0].strip()
            return [p for p in products if p.category == category]
        return None

    def _click(self, value: str) -> str:
        if value not in self._clicks():
            return _NO_CLICK
        if value == pages.BACK:
            self._go_to_search()
        elif self._place == "results":
            if value == pages.NEXT:
                self._go_to_results(self._page + 1)
            elif value == pages.PREVIOUS:
                self._go_to_results(self._page - 1)
            else:
                self._place = "item"
                listed = self._on_page(self._page)
                self._product = next(p for p in listed if p.asin.lower() == value)
        elif value == pages.PREVIOUS and self._place == "item":
            self._go_to_results(self._page)
        elif value == pages.PREVIOUS:
            self._place = "item"
        elif value in pages.SUB_PAGES:
            self._place = value
        else:
            self._chosen[pages.option_clicks(self._product)[value]] = value
        return ""

    def _buy(self) -> base.StepResult:
        earned = reward.score_purchase(
            self._product,
            self._chosen,
            self.goal,
            strict=self._strict,
            nouns=self._nouns,
        ).total
        success = earned == 1.0
        info = base.StepInfo(
            success=success,
            score=earned,
            parsed_action=f"click[{pages.BUY}]",
            progress=1.0 if success else self._progress(),
        )
        receipt = pages.done_page(self._product.asin, self._chosen, earned)
        return base.StepResult(receipt, earned, terminated=True, info=info)

    # Pages: "search", "results", "item", or the name of a sub-page of an item.

    def _go_to_search(self) -> None:
        self._place = "search"
        self._results = ()
        self._chosen = {}

    def _go_to_results(self, page: int) -> None:
        self._place = "results"
        self._page = page
        self._chosen = {}
        if self.goal.product in self._on_page(page):
            self._target_listed = True

    def _on_page(self, page: int) -> Sequence[catalogue.Product]:
        return pages.on_page(self._results, page, self.page_size)

    def _has_next(self) -> bool:
        """Upstream always offers a next page, even beyond the last result."""
        return not self._strict or self._page * self.page_size < len(self._results)

    def _clicks(self) -> Sequence[str]:
        if self._place == "search":
            return ()
        if self._place == "item":
            return pages.item_clicks(self._product)
        if self._place in pages.SUB_PAGES:
            return (pages.BACK, pages.PREVIOUS)
        clicks = [pages.BACK]
        if self._page > 1:
            clicks.append(pages.PREVIOUS)
        if self._has_next():
            clicks.append(pages.NEXT)
        listed = self._on_page(self._page)
        return clicks + [product.asin.lower() for product in listed]

    def _render(self) -> str:
        instruction = self.goal.instruction
        if self._place == "search":
            return pages.search_page(instruction)
        if self._place == "results":
            return pages.results_page(
                instruction,
                self._results,
                self._page,
                has_next=self._has_next(),
                size=self.page_size,
            )
        if self._place == "item":
            return pages.item_page(instruction, self._product)
        return pages.sub_page(instruction, self._product, self._place)

    def _progress(self) -> float:
        """Share reached of: target listed, opened, each option chosen, bought."""
        reached = int(self._target_listed)
        on_item = self._place == "item" or self._place in pages.SUB_PAGES
        if on_item and self._product is self.goal.product:
            reached += 1
            reached += reward.match_options_exactly(self._chosen, self.goal.options)
        return reached / (3 + len(self.goal.options))


def _split_action(action: str) -> tuple[str, str]:
    r"""Splits `verb[argument]`; both are empty if the action has another form.

    Equal to the groups of `(.+)\[(.+)\]` at the start, as upstream reads actions: the
    last bracket in the first line that can open one does. Linear in the length.
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 0, max(end - 1, 0))
    return (line[:start], line[start + 1 : end]) if start > 0 else ("", "")


def read_page_size(config: base.EnvConfig) -> int:
    """Products on a page of results, as the option `page_size` says.

    Raises:
      EnvConfigError: if it is no integer from 1 to `pages.PAGE_SIZE`.
    """
    size = config.options.get("page_size", pages.PAGE_SIZE)
    if type(size) is not int or not 1 <= size <= pages.PAGE_SIZE:
        raise base.EnvConfigError(
            f"environment 'webshop': page_size = {size!r}; give an integer from 1 to "
            f"{pages.PAGE_SIZE}."
        )
    return size
