"""AlfWorld with the files of its authors: problems, grammars, folders, mappings."""

import json

import kitchen
import pytest

from agentrl.envs import alfworld, base, episodes, parsing, registry
from agentrl.envs.alfworld import export, games, generate, plan, problem, world

GRAMMAR = """
grammar :: \"\"\"{"task": [{"rhs": "Your task is to: put a \\"big\\" mug in shelf."}],
"x": [{"rhs": "You arrive at {r.name}."}]}\"\"\";
action PutObject { template :: "move {o} to {r}"; }
action help { template :: "help"; }
"""
OLD_GRAMMAR = (
    GRAMMAR.replace('"move {o} to {r}"', '"put {o} in/on {r}"')
    .replace("{r.name}", "{lend.name}")
    .replace("action help", "action halt")
)
DOMAIN = "(define (domain alfred) (:action help))"


def make_texts(game, grammar=GRAMMAR):
    return {
        "pddl_problem": export.write_problem(game),
        "grammar": grammar,
        "pddl_domain": DOMAIN,
        "solvable": True,
        "walkthrough": [],
    }


@pytest.mark.parametrize("index", range(0, 2754, 150))
def test_games_survive_writing_and_reading(index):
    game = generate.generate(index, games.MOVE)
    texts = make_texts(game)
    read = problem.read_game(texts["pddl_problem"], GRAMMAR, DOMAIN)
    assert read.goal.text == 'put a "big" mug in shelf'
    assert (read.goal.kind, read.goal.item) == (game.goal.kind, game.goal.item)
    assert read.goal.target == game.goal.target
    assert read.wording == games.MOVE
    assert read.items == game.items
    assert read.contents == game.contents
    assert world.World(read).overview() == world.World(game).overview()
    assert plan.find_plan(read) == plan.find_plan(game)


def test_the_grammar_decides_the_wording():
    text = export.write_problem(kitchen.make_game())
    assert problem.read_game(text, OLD_GRAMMAR, DOMAIN).wording == games.PUT
    with pytest.raises(problem.ProblemError, match="putting things down"):
        problem.read_game(text, GRAMMAR.replace("move {o}", "lay {o}"), DOMAIN)


def test_facts_about_the_start_are_read():
    text = export.write_problem(kitchen.make_game())
    apple, mug, fridge = "apple_bar_00", "mug_bar_00", "fridge_bar_00"
    extra = f"(isHot {apple}) (opened {fridge}) (inReceptacleObject {apple} {mug})"
    extra += f" (inReceptacle {apple} {fridge}) (= (distance loc_bar_1 loc_bar_2) 7)"
    game = problem.read_game(text.replace("(:init", f"(:init {extra}"), GRAMMAR, DOMAIN)
    played = world.World(game)
    for command, reply in (
        (
            "go to fridge 1",
            "The fridge 1 is open. In it, you see a apple 1, and a mug 2.",
        ),
        ("take mug 2 from fridge 1", "You pick up the mug 2 from the fridge 1."),
        ("examine mug 2", "This is a normal mug 2. In it, you see a apple 1."),
        ("move mug 2 to fridge 1", "You move the mug 2 to the fridge 1."),
        ("take apple 1 from fridge 1", "You pick up the apple 1 from the fridge 1."),
        ("examine apple 1", "This is a hot apple 1."),
    ):
        assert played.act(command).endswith(reply)
    assert played.act("go to countertop 1").endswith(
        "you see a apple 1, and a knife 1."
    )


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("(:init", "(:init (floats apple_bar_00)", "floats"),
        ("(atlocation agent1 loc_bar_9)", "", "at 0 locations"),
        ("(:goal", "(:aim", ":goal"),
        ("(:goal (and", "(:goal (or", "'or'"),
        ("(istoggled ?t)", "(opened ?r)", "none of the six"),
        ("(define", "((define", "one bracketed"),
        ("(define", ")(define", "bracket too many"),
    ],
)
def test_problems_of_other_kinds_are_refused(old, new, message):
    text = export.write_problem(kitchen.make_game("look"))
    assert text.count(old) == 1
    with pytest.raises(problem.ProblemError, match=message):
        problem.read_game(text.replace(old, new), GRAMMAR, DOMAIN)


def act(env, action):
    return env.step(parsing.render_react("I try.", action))


@pytest.fixture
def data_dir(tmp_path):
    """Upstream's folders with a handful of games."""
    root = tmp_path / "data" / "json_2.1.1"

    def write(split, task, trial, **changes):
        folder = root / split / task / trial
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(
            json.dumps(make_texts(kitchen.make_game()) | changes)
        )

    write("train", "look_at_obj_in_light-B", "trial_2")
    write("train", "look_at_obj_in_light-A", "trial_9", grammar=OLD_GRAMMAR)
    write("train", "look_at_obj_in_light-C", "trial_1", solvable=False)
    write("train", "pick_and_place_with_movable_recep-A", "trial_1")
    write("train", "look_at_obj_in_light-AppleSliced", "trial_1")
    write("valid_seen", "look_at_obj_in_light-D", "trial_1")
    write("valid_unseen", "look_at_obj_in_light-E", "trial_1")
    return tmp_path / "data"


def with_files(data_dir, **options):
    return base.EnvConfig(options={"data_dir": str(data_dir), **options})


def test_games_of_a_folder_are_numbered_by_path(data_dir):
    config = with_files(data_dir)
    spec = registry.get_spec("alfworld")
    panels = {split: spec.panel(split, config) for split in spec.splits}
    assert panels["train"].item_ids == ("alfworld_0", "alfworld_1")
    assert panels["test"].item_ids == ("alfworld_2",)
    assert panels["test_unseen"].item_ids == ("alfworld_3",)
    assert panels["train"].version.startswith("files-")
    assert spec.subset("alfworld_0", config) == "look_at_obj_in_light"
    assert spec.tier("alfworld_0", config) == "easy"
    env = registry.make("alfworld", config)
    assert "put O in/on R" in env.instruction and "move O to R" in env.instruction
    env.reset("alfworld_0")
    assert act(env, "go to fridge 1").observation == "The fridge 1 is closed."
    first = env.reset("alfworld_1")
    assert '\nYour task is to: put a "big" mug in shelf.\n' in first
    assert act(env, "go to fridge 1").observation.startswith("You arrive at fridge 1.")
    with pytest.raises(base.UnknownItemError, match="4 games"):
        env.reset("alfworld_4")


def test_the_oracle_of_files_finds_the_wording(data_dir, tmp_path):
    texts = make_texts(
        kitchen.make_game("place"),
        OLD_GRAMMAR.replace('put a \\"big\\" mug', "put a mug"),
    )
    texts["grammar"] = texts["grammar"].replace("in shelf", "in countertop")
    path = data_dir / "json_2.1.1/train/look_at_obj_in_light-A/trial_9/game.tw-pddl"
    path.write_text(json.dumps(texts))
    turns = episodes.play_oracle(
        "alfworld", with_files(data_dir), "alfworld_0", "observational"
    )
    assert turns[-1][1].info.success
    assert "move mug" in turns[-2][0] and "put mug" in turns[-1][0]


def test_mappings_give_the_numbers_of_agentgym(data_dir, tmp_path):
    for split, row in (("train", ("B", "trial_2")), ("test", ("F", "trial_1"))):
        name, trial = row
        entry = {"task_type": f"look_at_obj_in_light-{name}", "task_id": trial}
        path = tmp_path / f"mappings_{split}.json"
        path.write_text(json.dumps([entry | {"item_id": 0}]))
    config = with_files(data_dir, mappings=str(tmp_path))
    env = registry.make("alfworld", config)
    assert "big" in env.reset("alfworld_0")
    with pytest.raises(base.MissingDataError, match="No such file"):
        env.reset("alfworld_1")
    with pytest.raises(base.EnvConfigError, match="test_unseen"):
        alfworld.make_panel("test_unseen", config)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "mappings_train.json").write_text("[{}]")
    other = with_files(data_dir, mappings=str(tmp_path / "damaged"))
    with pytest.raises(base.MissingDataError, match="agentenv-alfworld/configs"):
        registry.make("alfworld", other)


def test_the_folder_may_be_named_by_a_variable(data_dir, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(data_dir))
    env = registry.make("alfworld", with_files("$ALFWORLD_DATA"))
    assert "big" in env.reset("alfworld_1")
    assert "big" not in registry.make("alfworld").reset("alfworld_1")
    monkeypatch.delenv("ALFWORLD_DATA")
    with pytest.raises(base.MissingDataError, match="not set"):
        registry.make("alfworld", with_files("$ALFWORLD_DATA"))


def test_missing_and_damaged_files_are_named(data_dir, tmp_path):
    with pytest.raises(base.MissingDataError, match="alfworld-download"):
        registry.make("alfworld", with_files(tmp_path / "nowhere"))
    with pytest.raises(base.EnvConfigError, match="set data_dir"):
        registry.make("alfworld", base.EnvConfig(options={"mappings": "x"}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text.replace("(define", "(((define"), "one bracketed expression"),
        (lambda text: text[: len(text) // 2], "cannot play .*char"),
        (lambda text: "", "cannot play .*char"),
        (lambda text: "\xff\xfe", "cannot play .*decode"),
    ],
)
def test_damaged_games_are_told_when_a_panel_is_made(data_dir, damage, message):
    path = data_dir / "json_2.1.1/train/look_at_obj_in_light-A/trial_9/game.tw-pddl"
    path.write_bytes(damage(path.read_text()).encode("latin-1"))
    config, spec = with_files(data_dir), registry.get_spec("alfworld")
    with pytest.raises(base.MissingDataError, match=message) as caught:
        spec.panel("train", config)
    assert "1 of 2 games of split 'train'" in str(caught.value)
    assert spec.panel("test", config).item_ids == ("alfworld_2",)  # as if undamaged
    env = registry.make("alfworld", config)
    with pytest.raises(base.MissingDataError, match="light-A"):
        env.reset("alfworld_0")
