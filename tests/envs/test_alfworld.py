import collections
import copy
import hashlib
import json
import random

import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.envs import alfworld, base, episodes, parsing, registry
from agentrl.envs.alfworld import export, facts, games, generate, plan, problem, world

STRICT = base.EnvConfig(list_actions="never")
AGENTGYM = base.EnvConfig(profile="agentgym", list_actions="never")
KINDS = tuple(games.TASK_TYPES)
BY_PROFILE = pytest.mark.parametrize(
    "config", [STRICT, AGENTGYM], ids=["strict", "agentgym"]
)


def start(index, config=STRICT):
    env = registry.make("alfworld", config)
    env.reset(f"alfworld_{index}")
    return env


def act(env, *actions):
    """Plays actions and returns the last result."""
    for action in actions:
        result = env.step(parsing.render_react("I try.", action))
    return result


# A kitchen by hand. Two cabinets share a location; a lamp stands in one of them.

TRAITS = {
    "apple 1": {"pickupable", "heatable", "coolable", "cleanable", "sliceable"},
    "desklamp 1": {"toggleable"},
    "knife 1": {"pickupable", "cleanable"},
    "mug 2": {"pickupable", "heatable", "coolable", "cleanable", "container"},
    "mug 1": {"pickupable", "heatable", "coolable", "cleanable", "container"},
}
APPLE, LAMP, KNIFE, MUG_2, MUG_1 = range(5)
ROOM = {  # location and contents
    "cabinet 2": (0, (MUG_1,)),
    "cabinet 1": (0, (LAMP,)),
    "countertop 1": (1, (APPLE, KNIFE)),
    "fridge 1": (2, (MUG_2,)),
    "microwave 1": (3, ()),
    "sinkbasin 1": (4, ()),
}
GOALS = {
    "place": ("mug", "countertop"),
    "look": ("mug", "desklamp"),
    "clean": ("mug", "cabinet"),
    "heat": ("apple", "fridge"),
    "cool": ("apple", "countertop"),
    "two": ("mug", "cabinet"),
}
ACCEPTS = {
    "cabinet": frozenset({"mug"}),
    "countertop": frozenset({"apple", "knife", "mug"}),
    "fridge": frozenset({"apple", "mug"}),
    "sinkbasin": frozenset({"apple", "knife", "mug"}),
}


def kind_of(name):
    return name.split()[0]


def make_game(kind="look", wording=games.MOVE):
    openable = ("cabinet", "fridge", "microwave")
    return games.Game(
        goal=games.Goal(kind, *GOALS[kind], f"do {kind}"),
        wording=wording,
        receptacles=tuple(
            games.Receptacle(name, kind_of(name), at, kind_of(name) in openable)
            for name, (at, _) in ROOM.items()
        ),
        items=tuple(
            games.Item(name, kind_of(name), frozenset(traits))
            for name, traits in TRAITS.items()
        ),
        contents=tuple(held for _, held in ROOM.values()),
        item_locations=frozenset((i, at) for at, held in ROOM.values() for i in held),
        accepts=ACCEPTS,
        start=9,
    )


def play(commands, **kwargs):
    """Plays commands in the kitchen; returns the world and the last reply."""
    played = world.World(make_game(**kwargs))
    reply = None
    for command in commands:
        reply = played.act(command)
    return played, reply


# Rules and replies.

REPLIES = [
    (
        "look",
        "You are in the middle of a room. Looking quickly around you, you see nothing.",
    ),
    ("inventory", "You are not carrying anything."),
    (
        "go to countertop 1",
        "You arrive at countertop 1. On the countertop 1, you see a apple 1, and a "
        "knife 1.",
    ),
    ("go to countertop 1", None),
    ("look", "You are facing the countertop 1. Next to it, you see nothing."),
    ("examine apple 1", None),
    (
        "take knife 1 from countertop 1",
        "You pick up the knife 1 from the countertop 1.",
    ),
    ("take apple 1 from countertop 1", None),
    ("inventory", "You are carrying: a knife 1."),
    ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),
    ("examine knife 1", "There's nothing special about knife 1."),
    ("move knife 1 to countertop 1", "You move the knife 1 to the countertop 1."),
    ("put knife 1 in/on countertop 1", None),
    (
        "take apple 1 from countertop 1",
        "You pick up the apple 1 from the countertop 1.",
    ),
    ("examine apple 1", "This is a sliced apple 1."),
    ("go to microwave 1", "You arrive at microwave 1. The microwave 1 is closed."),
    ("move apple 1 to microwave 1", None),
    ("heat apple 1 with microwave 1", "You heat the apple 1 using the microwave 1."),
    ("examine apple 1", "This is a hot sliced apple 1."),
    ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),
    ("heat apple 1 with fridge 1", None),
    ("cool apple 1 with fridge 1", "You cool the apple 1 using the fridge 1."),
    ("examine apple 1", "This is a cool sliced apple 1."),
    ("close fridge 1", None),
    ("move apple 1 to fridge 1", None),
    (
        "open fridge 1",
        "You open the fridge 1. The fridge 1 is open. In it, you see a mug 2.",
    ),
    ("open fridge 1", None),
    ("move apple 1 to fridge 1", "You move the apple 1 to the fridge 1."),
    (
        "examine fridge 1",
        "The fridge 1 is open. In it, you see a apple 1, and a mug 2.",
    ),
    ("close fridge 1", "You close the fridge 1."),
    ("take mug 2 from fridge 1", None),
    ("open fridge 1 ", None),
    ("Open fridge 1", None),
    ("go to moon 1", None),
    ("", None),
]


def test_replies_in_the_kitchen():
    played = world.World(make_game())
    assert played.overview() == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet "
        "2, a cabinet 1, a countertop 1, a fridge 1, a microwave 1, and a sinkbasin 1."
    )
    for command, reply in REPLIES:
        admissible = played.admissible()
        assert played.act(command) == reply, command
        assert (command in admissible) == (reply is not None), command


@pytest.mark.parametrize(
    "deeds, seen",
    [
        ("clean", "This is a clean apple 1."),
        ("heat", "This is a hot apple 1."),
        ("cool", "This is a cold apple 1."),
        ("heat cool", "This is a cold apple 1."),
        ("cool heat", "This is a hot apple 1."),
        ("clean heat", "This is a hot and clean apple 1."),
        ("cool clean", "This is a cool and clean apple 1."),
    ],
)
def test_heat_undoes_cold_and_cleanness_lasts(deeds, seen):
    commands = ["go to countertop 1", "take apple 1 from countertop 1"]
    for verb in deeds.split():
        appliance = games.TREATMENTS[verb][2]
        commands += [f"go to {appliance} 1", f"{verb} apple 1 with {appliance} 1"]
    assert play([*commands, "examine apple 1"])[1] == seen


def test_receptacles_of_one_location_are_reached_together():
    played, reply = play(["go to cabinet 1"])
    assert reply == "You arrive at cabinet 1. The cabinet 1 is closed."
    assert not {"go to cabinet 1", "go to cabinet 2"} & set(played.admissible())
    assert {"open cabinet 1", "open cabinet 2"} <= set(played.admissible())
    assert played.act("look") == (
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing."
    )
    for command in (
        "open cabinet 2",
        "open cabinet 1",
        "take mug 1 from cabinet 2",
        "move mug 1 to cabinet 1",
    ):
        assert played.act(command)
    assert played.act("look") == (
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see a mug 1."
    )
    assert played.act("examine cabinet 1").endswith(
        "you see a desklamp 1, and a mug 1."
    )
    assert played.act("take mug 1 from cabinet 1")
    assert played.act("examine mug 1") == (
        "This is a normal mug 1. In it, you see nothing."
    )


def test_a_lamp_behind_a_closed_door_goes_on_and_never_off():
    commands = ["go to cabinet 1", "use desklamp 1"]
    played, reply = play(commands)
    assert reply == "You turn on the desklamp 1."
    assert played.act("use desklamp 1") == "You turn on the desklamp 1."
    assert played.act("take desklamp 1 from cabinet 1") is None
    assert not played.is_won()
    played.act("open cabinet 2")
    played.act("take mug 1 from cabinet 2")
    assert played.is_won()


def test_the_old_wording_puts_and_tells_no_arrival():
    commands = ["go to countertop 1", "take apple 1 from countertop 1"]
    played, reply = play([*commands, "go to fridge 1"], wording=games.PUT)
    assert reply == "The fridge 1 is closed."
    assert played.act("help") is None
    assert played.act("open fridge 1")
    assert played.act("move apple 1 to fridge 1") is None
    assert "put apple 1 in/on fridge 1" in played.admissible()
    assert played.act("put apple 1 in/on fridge 1") == (
        "You put the apple 1 in/on the fridge 1."
    )


FETCH_MUG_2 = ["go to fridge 1", "open fridge 1", "take mug 2 from fridge 1"]
FETCH_APPLE = ["go to countertop 1", "take apple 1 from countertop 1"]


@pytest.mark.parametrize(
    "kind, commands, progress",
    [
        ("place", FETCH_MUG_2, [0, 0, 1 / 2]),
        ("two", FETCH_MUG_2, [1 / 2, 1 / 2, 3 / 4]),
        ("two", ["go to cabinet 2", "open cabinet 2"], [1 / 2, 1 / 2]),
        ("heat", [*FETCH_APPLE, "go to microwave 1"], [0, 1 / 3, 1 / 3]),
        (
            "cool",
            [*FETCH_APPLE, "go to fridge 1", "cool apple 1 with fridge 1"],
            [0, 1 / 3, 1 / 3, 2 / 3],
        ),
        ("look", ["go to cabinet 1", "use desklamp 1"], [0, 1 / 3]),
        ("look", [*FETCH_MUG_2, "go to cabinet 1"], [0, 0, 1 / 3, 1 / 3]),
    ],
)
def test_progress_counts_the_parts_of_a_goal(kind, commands, progress):
    played = world.World(make_game(kind))
    seen = []
    for command in commands:
        assert played.act(command)
        seen.append(played.progress())
    assert seen == pytest.approx(progress)


@pytest.mark.parametrize("kind, turns", [("place", 5), ("look", 4), ("clean", 7)])
def test_plans_of_the_kitchen_are_shortest(kind, turns):
    assert len(plan.find_plan(make_game(kind))) == turns


@pytest.mark.parametrize("kind", KINDS)
def test_plans_win_with_their_last_command(kind):
    played = world.World(make_game(kind))
    for command in plan.find_plan(make_game(kind)):
        assert not played.is_won()
        assert played.act(command)
    assert played.is_won()
    assert played.progress() == 1


def test_there_is_no_plan_for_what_is_missing():
    game = make_game("heat")
    assert plan.find_plan(game_without(game, "microwave 1")) is None


def game_without(game, name):
    kept = [i for i, r in enumerate(game.receptacles) if r.name != name]
    changes = {
        "receptacles": tuple(game.receptacles[i] for i in kept),
        "contents": tuple(game.contents[i] for i in kept),
    }
    fields = {f: getattr(game, f) for f in game.__dataclass_fields__}
    return games.Game(**(fields | changes))


# The environment.


@BY_PROFILE
def test_a_won_episode_is_rewarded_once(config):
    env = start(2420, config)
    for command in plan.find_plan(env.game)[:-1]:
        result = act(env, command)
        assert (result.reward, result.terminated) == (0, False)
        assert result.info.valid_action and not result.info.success
    result = act(env, plan.find_plan(env.game)[-1])
    assert (result.reward, result.terminated, result.truncated) == (1, True, False)
    assert result.info.success and result.info.score == result.info.progress == 1
    with pytest.raises(base.CallOrderError):
        act(env, "look")


@pytest.mark.parametrize(
    "answer, parsed, is_parse_error",
    [
        ("go to bed 1", "", True),
        ("", "", True),
        ("Action:\ndance", "dance", False),
        ("Action: look\nAction: go to moon 1", "go to moon 1", False),
        ("Action: look\nand rest", "look\nand rest", False),
        ("Thought: my Action: LOOK", "LOOK", False),
        ("Action: take\x00", "take\ufffd", False),
    ],
)
@BY_PROFILE
def test_impossible_actions_change_nothing(config, answer, parsed, is_parse_error):
    env = start(7, config)
    before = copy.deepcopy(vars(env._world))
    result = env.step(answer)
    assert result.observation == "Nothing happens."
    assert not result.info.valid_action and not result.done
    assert (result.info.parsed_action, result.info.parse_error) == (
        parsed,
        is_parse_error,
    )
    assert vars(env._world) == before


def test_the_last_of_several_actions_counts():
    result = start(7).step("Action: inventory\nAction: look")
    assert result.info.parsed_action == "look"


def test_profiles_differ_in_wording_only():
    for index in (0, 1500, 2700):
        one, other = (generate.generate(index, w) for w in (games.MOVE, games.PUT))
        assert one.contents == other.contents
        assert one.goal == other.goal
    assert "move O to R" in start(0, STRICT).instruction
    assert "put O in/on R" in start(0, AGENTGYM).instruction


def test_the_first_observation_lists_actions_natively():
    env = registry.make("alfworld")
    first = env.reset("alfworld_2421")
    assert first.splitlines()[1].startswith("Your task is to: ")
    listed = first.splitlines()[2].removeprefix("AVAILABLE ACTIONS: ").split(",")
    assert listed == sorted(listed) == list(env.available_actions())
    assert {"help", "inventory", "look"} <= set(listed)
    assert "AVAILABLE" not in act(env, "look").observation


CANDIDATES = ("go to {r}", "open {r}", "close {r}", "examine {r}", "examine {o}")
CANDIDATES += ("take {o} from {r}", "move {o} to {r}", "put {o} in/on {r}")
CANDIDATES += (
    "use {o}",
    "heat {o} with {r}",
    "cool {o} with {r}",
    "clean {o} with {r}",
)
CANDIDATES += ("slice {o} with {o2}", "look", "help", "inventory", "look {r}", "go {r}")


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    index=st.integers(0, 2753), seed=st.integers(0, 2**32), old=st.booleans()
)
def test_exactly_the_listed_commands_are_accepted(index, seed, old):
    wording = games.PUT if old else games.MOVE
    game = generate.generate(index, wording)
    played = world.World(game)
    rng = random.Random(seed)
    receptacles = [r.name for r in game.receptacles]
    items = [item.name for item in game.items]
    for _ in range(25):
        listed = played.admissible()
        at_hand = [receptacles[i] for i in played.here()] or receptacles
        command = rng.choice(CANDIDATES).format(
            r=rng.choice(at_hand), o=rng.choice(items), o2=rng.choice(items)
        )
        before = copy.deepcopy(vars(played))
        assert (played.act(command) is not None) == (command in listed), command
        if command not in listed:
            assert vars(played) == before
        verb = rng.choice(sorted({c.split()[0] for c in played.admissible()}))
        possible = [c for c in played.admissible() if c.startswith(verb)]
        assert played.act(rng.choice(possible)), possible


# Generated games.


def test_splits_have_the_published_mix():
    spec = registry.get_spec("alfworld")
    assert list(spec.splits) == ["train", "test", "test_unseen"]
    for split, first, size in (
        ("train", 0, 2420),
        ("test", 2420, 200),
        ("test_unseen", 2620, 134),
    ):
        panel = spec.panel(split, STRICT)
        numbers = range(first, first + size)
        assert panel.item_ids == tuple(f"alfworld_{number}" for number in numbers)
    found = collections.Counter(
        generate.generate(i, games.MOVE).goal.kind for i in generate.splits()["test"]
    )
    assert found == {
        "place": 46,
        "two": 45,
        "clean": 37,
        "cool": 28,
        "heat": 25,
        "look": 19,
    }
    with pytest.raises(base.EnvConfigError, match="no split 'dev'"):
        spec.panel("dev", STRICT)


def test_panels_stay_the_same():
    spec = registry.get_spec("alfworld")
    digests = {split: spec.panel(split, STRICT).digest for split in spec.splits}
    assert digests == PANEL_DIGESTS


def test_unseen_rooms_are_in_no_other_split():
    signature = {}
    for number, room in facts.load()["rooms"].items():
        names = tuple(r.name for r in generate._room(number).receptacles)
        assert room["objects"] and len(set(names)) == len(names)
        signature.setdefault(names, set()).add(int(number) in facts.load()["unseen"])
    for split, numbers in generate.splits().items():
        for index in numbers[::17]:
            game = generate.generate(index, games.MOVE)
            seen_as = signature[tuple(r.name for r in game.receptacles)]
            assert (split == "test_unseen") in seen_as
    assert sum(len(kinds) == 1 for kinds in signature.values()) > 100


def test_games_start_unsolved_with_a_short_plan():
    for index in range(0, 2754, 11):
        game = generate.generate(index, games.MOVE)
        assert not world.World(game).is_won()
        assert 2 <= len(plan.find_plan(game)) <= 10
        for receptacle, held in zip(game.receptacles, game.contents, strict=True):
            for item in held:
                kind = game.items[item].kind
                assert kind == facts.LAMP or kind in game.accepts[receptacle.kind]
            assert receptacle.kind not in facts.SINGLE or len(held) <= 1
        if game.goal.kind == "two":
            assert len(game.wanted) >= 2


def test_tasks_beyond_the_last_are_refused():
    env = registry.make("alfworld")
    with pytest.raises(base.UnknownItemError, match="last one is 'alfworld_2753'"):
        env.reset("alfworld_2754")


def test_tiers_and_subsets():
    spec = registry.get_spec("alfworld")
    for index in range(0, 2754, 101):
        game = generate.generate(index, games.MOVE)
        easy = game.goal.kind in ("place", "look") and len(game.receptacles) < 25
        item_id = f"alfworld_{index}"
        assert spec.tier(item_id, AGENTGYM) == ("easy" if easy else "hard")
        assert spec.subset(item_id, STRICT) == games.TASK_TYPES[game.goal.kind]


# Oracles.


@BY_PROFILE
@pytest.mark.parametrize("split", alfworld.SPEC.splits)
def test_the_privileged_oracle_solves_everything(config, split):
    for item_id in alfworld.make_panel(split, config).item_ids[::3]:
        turns = episodes.play_oracle("alfworld", config, item_id, "privileged")
        assert turns[-1][1].info.success, item_id
        assert all(result.info.valid_action for _, result in turns)


@BY_PROFILE
@pytest.mark.parametrize("split", ["test", "test_unseen"])
def test_the_observational_oracle_solves_most(config, split):
    ids = alfworld.make_panel(split, config).item_ids
    solved = 0
    for item_id in ids:
        turns = episodes.play_oracle("alfworld", config, item_id, "observational")
        solved += turns[-1][1].info.success
    assert solved >= 0.95 * len(ids)


def test_the_observational_oracle_demands_a_task():
    env = registry.make("alfworld")
    oracle = episodes.make_oracle(env, "observational")
    with pytest.raises(ValueError, match="no task and room"):
        oracle.act("You are in the middle of nowhere.")


def test_random_commands_hardly_ever_win():
    env = registry.make("alfworld", STRICT)
    won = 0
    for item_id in alfworld.make_panel("test", STRICT).item_ids:
        env.reset(item_id)
        rng = random.Random(item_id)
        while not (result := act(env, rng.choice(env.available_actions()))).done:
            pass
        won += result.info.success
    assert won < 0.05 * 200


# Upstream's files.

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
    text = export.write_problem(make_game())
    assert problem.read_game(text, OLD_GRAMMAR, DOMAIN).wording == games.PUT
    with pytest.raises(problem.ProblemError, match="putting things down"):
        problem.read_game(text, GRAMMAR.replace("move {o}", "lay {o}"), DOMAIN)


def test_facts_about_the_start_are_read():
    text = export.write_problem(make_game())
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
    text = export.write_problem(make_game("look"))
    assert text.count(old) == 1
    with pytest.raises(problem.ProblemError, match=message):
        problem.read_game(text.replace(old, new), GRAMMAR, DOMAIN)


@pytest.fixture
def data_dir(tmp_path):
    """Upstream's folders with a handful of games."""
    root = tmp_path / "data" / "json_2.1.1"

    def write(split, task, trial, **changes):
        folder = root / split / task / trial
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(
            json.dumps(make_texts(make_game()) | changes)
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
        make_game("place"), OLD_GRAMMAR.replace('put a \\"big\\" mug', "put a mug")
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


# What must stay as it is.

PANEL_DIGESTS = {
    "train": "c25a907ee347",
    "test": "473b13ff2ce4",
    "test_unseen": "fc385ca4460c",
}
CONTENTS_DIGEST = "4d4264813f4ed4c6"
GOLDEN = {  # first digits of the SHA-256 of both profiles
    0: "4d2c06f3dc3d20c8",
    220: "1fe12c21a66b0a82",
    440: "39e0278bcaba1b7e",
    660: "44a4211e1e9e3886",
    880: "abc4787ccd31cb8c",
    1100: "0602a018212347af",
    1320: "2b934a3f2cece6dc",
    1540: "e0664008d65fec31",
    1760: "3017919de4318b6f",
    1980: "1c512368735d7994",
    2200: "bf8670a1ef0acd22",
    2419: "974f804a921f31a2",
    2420: "507f68ed9ba1bbd5",
    2460: "27420169cb367500",
    2500: "fd5de570202e7fe0",
    2540: "099e4b6b6e4d357d",
    2580: "e83f06aa01da8b1d",
    2620: "dfe50842ba260309",
    2680: "f3884dea2b8c991b",
    2753: "c05b16fb12edd179",
}


@pytest.mark.parametrize("index", GOLDEN)
def test_first_observations_stay_the_same(index):
    first = "\n".join(
        registry.make("alfworld", base.EnvConfig(profile=profile)).reset(
            f"alfworld_{index}"
        )
        for profile in base.PROFILES
    )
    assert hashlib.sha256(first.encode()).hexdigest()[:16] == GOLDEN[index]


def test_what_lies_where_stays_the_same():
    digest = hashlib.sha256()
    for index in range(0, 2754, 51):
        game = generate.generate(index, games.MOVE)
        names = [[game.items[item].name for item in held] for held in game.contents]
        digest.update(repr(names).encode())
    assert digest.hexdigest()[:16] == CONTENTS_DIGEST
