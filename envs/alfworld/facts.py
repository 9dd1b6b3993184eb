"""What is known about rooms and things: AI2-THOR's floor plans, and common sense.

Everything is in lower case, as games show it. `envs/data/alfworld_rooms.json` says
where its facts come from.
"""

import functools
import importlib.resources
import json
from collections.abc import Mapping

# Receptacles that hold one thing at a time, and how many of them a room has.
SINGLE: Mapping[str, int] = {
    "coffeemachine": 1,
    "handtowelholder": 1,
    "stoveburner": 4,
    "toaster": 1,
    "toiletpaperhanger": 1,
    "towelholder": 1,
}
LAMP = "desklamp"
LAMP_STANDS = ("desk", "dresser", "shelf", "sidetable")


@functools.cache
def load() -> dict:
    """The facts as in the file."""
    path = importlib.resources.files("agentrl.envs") / "data" / "alfworld_rooms.json"
    return json.loads(path.read_text().lower())


@functools.cache
def accepts() -> Mapping[str, frozenset[str]]:
    """The kinds of items that fit each kind of receptacle."""
    return {kind: frozenset(kinds) for kind, kinds in load()["holds"].items()}


def weight(receptacle_kind: str) -> int:
    """How much a thing is rather kept in a kind of receptacle: open surfaces first."""
    narrow = receptacle_kind in SINGLE or receptacle_kind == "garbagecan"
    return 1 if narrow or receptacle_kind in load()["openable"] else 2
