"""AlfWorld: what each command does and says, what is wanted, and shortest plans."""

import kitchen
import pytest

from agentrl.envs.alfworld import games, plan, world

KINDS = tuple(games.TASK_TYPES)
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
    played = world.World(kitchen.make_game())
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
    assert kitchen.play([*commands, "examine apple 1"])[1] == seen


def test_receptacles_of_one_location_are_reached_together():
    played, reply = kitchen.play(["go to cabinet 1"])
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
    played, reply = kitchen.play(commands)
    assert reply == "You turn on the desklamp 1."
    assert played.act("use desklamp 1") == "You turn on the desklamp 1."
    assert played.act("take desklamp 1 from cabinet 1") is None
    assert not played.is_won()
    played.act("open cabinet 2")
    played.act("take mug 1 from cabinet 2")
    assert played.is_won()


def test_the_old_wording_puts_and_tells_no_arrival():
    commands = ["go to countertop 1", "take apple 1 from countertop 1"]
    played, reply = kitchen.play([*commands, "go to fridge 1"], wording=games.PUT)
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
    played = world.World(kitchen.make_game(kind))
    seen = []
    for command in commands:
        assert played.act(command)
        seen.append(played.progress())
    assert seen == pytest.approx(progress)


@pytest.mark.parametrize("kind, turns", [("place", 5), ("look", 4), ("clean", 7)])
def test_plans_of_the_kitchen_are_shortest(kind, turns):
    assert len(plan.find_plan(kitchen.make_game(kind))) == turns


@pytest.mark.parametrize("kind", KINDS)
def test_plans_win_with_their_last_command(kind):
    played = world.World(kitchen.make_game(kind))
    for command in plan.find_plan(kitchen.make_game(kind)):
        assert not played.is_won()
        assert played.act(command)
    assert played.is_won()
    assert played.progress() == 1


def test_there_is_no_plan_for_what_is_missing():
    game = kitchen.make_game("heat")
    assert plan.find_plan(game_without(game, "microwave 1")) is None


def game_without(game, name):
    kept = [i for i, r in enumerate(game.receptacles) if r.name != name]
    changes = {
        "receptacles": tuple(game.receptacles[i] for i in kept),
        "contents": tuple(game.contents[i] for i in kept),
    }
    fields = {f: getattr(game, f) for f in game.__dataclass_fields__}
    return games.Game(**(fields | changes))
