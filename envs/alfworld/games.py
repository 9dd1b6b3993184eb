"""What a game is: a room, the things in it and a goal. Nothing here changes in play.

Kinds and names are lower case, as the game shows them: the item `soapbar 2` is of kind
`soapbar`. Receptacles and items are known by their position in the game's tuples, which
stand in the order in which the game lists them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

GoalKind = Literal["place", "look", "clean", "heat", "cool", "two"]

# Upstream's names of the task types, in its order.
TASK_TYPES: Mapping[GoalKind, str] = {
    "place": "pick_and_place_simple",
    "look": "look_at_obj_in_light",
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "two": "pick_two_obj_and_place",
}
# By kind of goal: the command, what an item must allow, what it becomes, and where.
TREATMENTS = {
    "clean": ("cleanable", "clean", "sinkbasin"),
    "heat": ("heatable", "hot", "microwave"),
    "cool": ("coolable", "cool", "fridge"),
}


@dataclasses.dataclass(frozen=True)
class Wording:
    """Where the grammars of game files differ."""

    put: tuple[str, str] = ("move", "to")  # `move O to R`, or `put O in/on R`
    names_arrival: bool = True  # whether `go to` is answered by `You arrive at R.`
    has_help: bool = True


MOVE = Wording()  # alfworld 0.4
PUT = Wording(("put", "in/on"), names_arrival=False, has_help=False)  # 0.3, AgentGym


@dataclasses.dataclass(frozen=True)
class Goal:
    """What must hold in the end; `target` is a kind of receptacle, or of lamp."""

    kind: GoalKind
    item: str
    target: str
    text: str  # the task as the agent reads it


@dataclasses.dataclass(frozen=True)
class Receptacle:
    """Furniture or an appliance that holds items; never moves."""

    name: str
    kind: str
    location: int
    openable: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """An object on or in receptacles.

    `traits` are among pickupable, heatable, coolable, cleanable, sliceable, toggleable
    and container.
    """

    name: str
    kind: str
    traits: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Game:
    """A room at the start of play."""

    goal: Goal
    wording: Wording
    receptacles: tuple[Receptacle, ...]
    items: tuple[Item, ...]
    contents: tuple[tuple[int, ...], ...]  # items of each receptacle, ascending
    item_locations: frozenset[tuple[int, int]]  # (item, location)
    accepts: Mapping[str, frozenset[str]]  # kinds of items by kind of receptacle
    start: int  # the agent's location, which may be that of no receptacle
    opened: frozenset[int] = frozenset()  # receptacles
    states: frozenset[tuple[str, int]] = frozenset()  # such as ("hot", item)
    nested: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def receptacle_index(self) -> Mapping[str, int]:
        """Positions of receptacles by name."""
        return {r.name: i for i, r in enumerate(self.receptacles)}

    @functools.cached_property
    def item_index(self) -> Mapping[str, int]:
        """Positions of items by name."""
        return {item.name: i for i, item in enumerate(self.items)}

    @functools.cached_property
    def places(self) -> Mapping[int, tuple[int, ...]]:
        """Receptacles by location."""
        found: dict[int, tuple[int, ...]] = {}
        for i, receptacle in enumerate(self.receptacles):
            found[receptacle.location] = (*found.get(receptacle.location, ()), i)
        return found

    @functools.cached_property
    def wanted(self) -> frozenset[int]:
        """Items that the goal is about and that allow what it asks for."""
        trait = TREATMENTS[self.goal.kind][0] if self.goal.kind in TREATMENTS else None
        return frozenset(
            i
            for i, item in enumerate(self.items)
            if item.kind == self.goal.item and (trait is None or trait in item.traits)
        )

    @functools.cached_property
    def targets(self) -> tuple[int, ...]:
        """Receptacles that the goal is about; for `look`, none."""
        return tuple(
            i for i, r in enumerate(self.receptacles) if r.kind == self.goal.target
        )

    @functools.cached_property
    def lamps(self) -> frozenset[int]:
        """Items to switch on; none but for `look`."""
        return frozenset(
            i
            for i, item in enumerate(self.items)
            if item.kind == self.goal.target and "toggleable" in item.traits
        )


def sort_key(name: str) -> tuple[str, int]:
    """Orders names as the game lists them: by kind, the highest number first.

    Upstream orders identifiers such as `Sink_bar_..._bar_SinkBasin`, in which a basin
    is a part of something else and an underscore ends the kind.
    """
    kind, _, number = name.rpartition(" ")
    return f"{kind.removesuffix('basin')}_", -int(number)
