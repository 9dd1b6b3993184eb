"""The text of a view, and the macro actions that the agent may take in it."""

import dataclasses
import functools
from collections.abc import Mapping

from agentrl.envs.babyai import view

CHECK = "check available actions"


@dataclasses.dataclass(frozen=True)
class Macro:
    """A walk to a cell, if `target` is one, followed by fixed low-level actions."""

    target: int = -1
    enter: bool = False  # walk onto the cell, not in front of it
    suffix: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scene:
    """One view, read: what is told, what may be done and why other things may not.

    Scenes are shared; nobody changes the dictionaries.
    """

    text: str
    actions: Mapping[str, Macro]
    refusals: Mapping[str, str]
    free: int  # cells that a walk may cross

    def plan(self, macro: Macro) -> tuple[int, ...]:
        """The low-level actions of a listed macro action."""
        if macro.target < 0:
            return macro.suffix
        path = view.find_path(self.free, macro.target, enter=macro.enter)
        return path + macro.suffix


@functools.lru_cache(maxsize=512)  # about 3 MB; a group often sees the same
def read_scene(seen: bytes, window: int) -> Scene:
    """Puts a view into words and lists the macro actions, in upstream's order.

    Args:
      seen: the view.
      window: cells that walks may cross; one of `view.WINDOWS`.
    """
    blocked = 0
    anything = False
    objects: list[tuple[str, int]] = []
    for cell in view.SCAN:
        code = seen[cell]
        if code > view.EMPTY:
            anything = True
            if view.BLOCKS_PATH[code]:
                blocked |= 1 << cell
            if code != view.WALL:
                objects.append((view.NAMES[code], cell))
    free = window & ~blocked
    menu = _Menu(objects, view.flood(free), view.NAMES[seen[view.AGENT]])
    facing, distance = find_barrier(seen)
    menu.add_moves(barrier=distance == 1)
    menu.add_pickups()
    menu.add_drop(blocked=bool(blocked >> view.AHEAD & 1))
    menu.add_doors()
    menu.add_walks()
    menu.actions[CHECK] = Macro()
    text = _describe(objects, anything) + "The room has walls around you. "
    if facing:
        text += f"You are facing a {facing} {distance} steps away. "
    text += f"You are carrying a {menu.carried}." if menu.carried else _EMPTY_HANDS
    return Scene(text, menu.actions, menu.refusals, free)


_EMPTY_HANDS = "You are not carrying anything."


def _locate(cell: int) -> str:
    ahead, right = 6 - cell // view.SIDE, cell % view.SIDE - 3
    if right == 0:
        return f"right in front of you {ahead} steps away. "
    side = "right" if right > 0 else "left"
    return f"{ahead} steps in front of you and {abs(right)} steps to your {side}. "


_PLACES = tuple(map(_locate, range(view.SIDE * view.SIDE)))


def _describe(objects: list[tuple[str, int]], anything: bool) -> str:
    if not anything:
        return "You cannot see any objects within sight."
    counts: dict[str, int] = {}
    parts = ["In front of you in this room, you can see several objects: "]
    for name, cell in objects:
        counts[name] = number = counts.get(name, 0) + 1
        parts.append(f"There is a {name} {number} {_PLACES[cell]} ")
    return "".join(parts)


def find_barrier(seen: bytes) -> tuple[str, int]:
    """What the agent faces, a wall or a box, and how far it is; ("", 0) if nothing."""
    for distance, cell in enumerate(view.STRAIGHT, start=1):
        name = view.NAMES[seen[cell]]
        if name == "wall" or name.endswith("box"):
            return name.rpartition(" ")[2], distance
    return "", 0


class _Menu:
    """Collects the macro actions of a view and the refusals of those out of reach.

    Doors are numbered as the text numbers them. What can be walked to is numbered
    among the reachable objects of its name alone; upstream does both.
    """

    def __init__(self, objects: list[tuple[str, int]], reached: int, carried: str):
        self.actions: dict[str, Macro] = {}
        self.refusals: dict[str, str] = {}
        self.carried = carried
        self._objects = [
            (name, cell, bool(reached & view.NEIGHBOUR_SETS[cell]))
            for name, cell in objects
        ]
        self._reached = reached

    def add_moves(self, *, barrier: bool) -> None:
        self.actions["turn left"] = Macro(suffix=(view.LEFT,))
        self.actions["turn right"] = Macro(suffix=(view.RIGHT,))
        if barrier:
            self.refusals["move forward"] = (
                "There is a barrier in front of you, you can't move forward."
            )
        else:
            self.actions["move forward"] = Macro(suffix=(view.FORWARD,))

    def add_pickups(self) -> None:
        if not self.carried:
            self._add_numbered("pickup", view.PICKUP)

    def add_walks(self) -> None:
        self._add_numbered("go to")

    def add_drop(self, *, blocked: bool) -> None:
        if self.carried and not blocked:
            self.actions["drop"] = Macro(suffix=(view.DROP,))
            return
        why = "there is already an object in front of you"
        if not self.carried:
            why = "you are not carrying anything"
        self.refusals["drop"] = f"You cannot drop the object, as {why}."

    def add_doors(self) -> None:
        counts: dict[str, int] = {}
        for name, cell, reachable in self._objects:
            if not name.endswith("door"):
                continue
            counts[name] = counts.get(name, 0) + 1
            label = f"{name} {counts[name]}"
            if name.endswith("open door"):
                if self._reached >> cell & 1:
                    self.actions[f"go through {label}"] = Macro(cell, enter=True)
                else:
                    self._refuse("go through", label, _NO_PATH)
            else:
                self._add_shut_door(name, label, cell, reachable)

    def _add_shut_door(self, name: str, label: str, cell: int, reachable: bool) -> None:
        color, state, _ = name.split()
        if state == "closed":
            self._refuse(
                "go through", label, "it is closed. You should toggle it first"
            )
        elif not self.carried.endswith("key"):
            return self._refuse(_OPEN, label, "you are not carrying a key")
        elif self.carried != f"{color} key":
            return self._refuse(_OPEN, label, _WRONG_KEY)
        if not reachable:
            return self._refuse(_OPEN, label, _NO_PATH)
        after = (view.TOGGLE, view.FORWARD)
        self.actions[f"{_OPEN} {label}"] = Macro(cell, suffix=after)
        if cell == view.AHEAD:
            self.actions["toggle"] = Macro(suffix=(view.TOGGLE,))

    def _add_numbered(self, verb: str, *suffix: int) -> None:
        counts: dict[str, int] = {}
        for name, cell, reachable in self._objects:
            if suffix and name.endswith("door"):
                continue
            number = counts.get(name, 0) + 1
            if reachable:
                counts[name] = number
                self.actions[f"{verb} {name} {number}"] = Macro(cell, suffix=suffix)
            else:
                self._refuse(verb, f"{name} {number}", _NO_PATH)

    def _refuse(self, verb: str, label: str, why: str) -> None:
        self.refusals[f"{verb} {label}"] = f"You cannot {verb} {label}, as {why}."


_OPEN = "toggle and go through"
_NO_PATH = "there is no path leading to it"
_WRONG_KEY = "the color of the key you are carrying does not match the color of door"
