"""Crafting plans, and the two scripted players that follow one."""

import collections
import functools
import math
from collections.abc import Iterator, Mapping, Sequence

from agentrl.envs import parsing
from agentrl.envs.textcraft import recipes

MAX_GET = 64  # items that one `get` may take, in profile `strict`

_GENERIC = ("planks", "wool")  # names that stand for any item called "... planks"
_NO_KIND = ("white wool",)  # the game's own files leave it out of the kinds of wool


class Plan:
    """Simulated crafting: raw items to get, then crafting commands in order.

    Attributes:
      gets: raw items and how many of each.
      crafts: recipes in order, generic ingredients replaced by the items used.
      subgoals: names, special or generic, that something is crafted for.
    """

    def __init__(self, by_name: Mapping[str, Sequence[recipes.Recipe]], goal: str):
        self.gets: collections.Counter[str] = collections.Counter()
        self.crafts: list[recipes.Recipe] = []
        self.subgoals: set[str] = set()
        self._recipes = by_name  # by output, and by generic name
        self._held: collections.Counter[str] = collections.Counter()
        self._make(goal, 1)

    @property
    def actions(self) -> list[str]:
        """The plan in the words of the environment."""
        gets = [f"get {count} {item}" for item, count in self.split_gets()]
        return gets + [str(recipe) for recipe in self.crafts]

    def split_gets(self) -> Iterator[tuple[str, int]]:
        """Raw items and counts, no count above what one action may get."""
        for item, count in self.gets.items():
            for taken in range(0, count, MAX_GET):
                yield item, min(count - taken, MAX_GET)

    def _make(self, name: str, count: int) -> str:
        """Plans to hold `count` of one item that is a `name`; returns that item."""
        costs = {
            recipe: self._cost(recipe, count, ())
            for recipe in self._recipes.get(name, ())
        }
        if min(costs.values(), default=math.inf) == math.inf:
            missing = count - self._held[name]
            if missing > 0:
                self.gets[name] += missing
                self._held[name] += missing
            return name
        self.subgoals.add(name)
        recipe = min(costs, key=lambda recipe: (costs[recipe], str(recipe)))
        while self._held[recipe.output] < count:
            self._craft(recipe)
        return recipe.output

    def _craft(self, recipe: recipes.Recipe) -> None:
        used = []
        for name, count in recipe.ingredients:
            item = self._make(name, count)
            self._held[item] -= count  # reserved: a later ingredient must not take it
            used.append((item, count))
        self.crafts.append(recipe.with_ingredients(used))
        self._held[recipe.output] += recipe.count

    def _cost(self, recipe: recipes.Recipe, count: int, path: tuple[str, ...]) -> float:
        """Crafts and gets for `count` to be held; infinite for a circle."""
        missing = count - self._held[recipe.output]
        if missing <= 0:
            return 0
        if recipe.output in path:
            return math.inf
        path = (*path, recipe.output)
        times = -(-missing // recipe.count)
        total = float(times)
        for name, number in recipe.ingredients:
            options = self._recipes.get(name, ())
            total += min(
                (self._cost(option, times * number, path) for option in options),
                default=1,
            )
        return total


@functools.lru_cache(maxsize=4096)
def plan_goal(book: recipes.Book, goal: str) -> Plan:
    """A short plan for a goal, from all recipes that can lead to it."""
    by_name: dict[str, list[recipes.Recipe]] = collections.defaultdict(list)
    for recipe in book.closure(goal):
        by_name[recipe.output].append(recipe)
        if tag := book.tag_of.get(recipe.output):
            by_name[tag].append(recipe)
    return Plan(by_name, goal)


def _read_plan(observation: str) -> Plan:
    """A plan from the recipes and the goal of a first observation."""
    listed = [r for r in map(recipes.parse, observation.split("\n")) if r]
    goal = observation.rpartition("Goal: craft ")[2].split("\n")[0].rstrip(".")
    by_name: dict[str, list[recipes.Recipe]] = collections.defaultdict(list)
    for recipe in listed:
        by_name[recipe.output].append(recipe)
        kind = recipe.output.split(" ")[-1]
        if kind in _GENERIC and recipe.output not in (kind, *_NO_KIND):
            by_name[kind].append(recipe)
    return Plan(by_name, goal)


def _write_steps(plan: Plan) -> Iterator[tuple[str, str]]:
    """(thought, action) of each step of a plan."""
    for item, count in plan.split_gets():
        yield f"I need {count} {item}.", f"get {count} {item}"
    for recipe in plan.crafts:
        yield f"I can craft {recipe.output} now.", str(recipe)


class PlanOracle:
    """Follows a plan; made from `book`, or else read from the first observation.

    A reader knows that planks and wool come in kinds; anything else that no listed
    recipe makes is raw.
    """

    def __init__(self, plan: Plan | None = None):
        self._steps = None if plan is None else _write_steps(plan)

    def act(self, observation: str) -> str:
        """Next step of the plan."""
        if self._steps is None:
            self._steps = _write_steps(_read_plan(observation))
        thought, action = next(self._steps, ("The plan is done.", "inventory"))
        return parsing.render_react(thought, action)
