"""A game of AlfWorld by hand: two cabinets share a location, in one stands a lamp."""

from agentrl.envs.alfworld import games, world

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
