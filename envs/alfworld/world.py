"""A game in play, by the rules of ALFWorld's PDDL domain as TextWorld executes them.

Only commands that are admissible are understood, letter for letter. What the rules say
where common sense might differ:

  * `go to R` needs another location than the agent's; receptacles may share one;
  * `examine O` is for the item in hand, although the domain also allows those in view;
  * heating, cooling, cleaning and switching need no open door;
  * a lamp never goes off: every `use` answers that it was turned on;
  * an item moved to another receptacle of the same location also lies "next to it";
  * `look` in the middle of the room sees nothing, other than at the start;
  * heating undoes cooling, and the reverse; cleaning lasts.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence

from agentrl.envs.alfworld import games

_MIDDLE = "You are in the middle of a room. Looking quickly around you, you see "
_KNIVES = ("knife", "butterknife")
_HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


class World:
    """The state of one game and the commands that change it."""

    def __init__(self, game: games.Game):
        self.game = game
        self.location = game.start
        self.held: int | None = None
        self.contents = [list(items) for items in game.contents]
        self.opened = set(game.opened)
        self.states = set(game.states)
        self.item_locations = set(game.item_locations)
        self._left: set[tuple[int, int]] = set()  # (item, receptacle it was taken from)

    def act(self, command: str) -> str | None:
        """Carries out a command; returns the reply, or None if it is not admissible."""
        verb, _, rest = command.partition(" ")
        handler = _HANDLERS.get(verb)
        return handler(self, rest) if handler is not None else None

    def admissible(self) -> list[str]:
        """The commands that `act` would carry out now, sorted."""
        game = self.game
        commands = ["inventory", "look"]
        if game.wording.has_help:
            commands.append("help")
        for receptacle in game.receptacles:
            if receptacle.location != self.location:
                commands.append(f"go to {receptacle.name}")
        for place in self.here():
            commands += self._commands_at(place)
        if self.held is not None:
            commands += self._commands_in_hand(self.held)
        return sorted(set(commands))

    def is_won(self) -> bool:
        """Whether the goal holds."""
        return self.progress() == 1.0

    def progress(self) -> float:
        """The share of the goal's parts that hold, in [0, 1]; 1 if and only if won."""
        game = self.game
        wanted = game.wanted
        holding = self.held in wanted
        if game.goal.kind == "look":
            return self._progress_of_look(holding)
        treatment = games.TREATMENTS.get(game.goal.kind)
        if treatment is not None:
            wanted = {item for item in wanted if (treatment[1], item) in self.states}
        placed = 0
        if wanted:
            for place in game.targets:
                placed = max(placed, len(wanted.intersection(self.contents[place])))
        if placed >= (2 if game.goal.kind == "two" else 1):
            return 1.0
        if game.goal.kind == "two":
            return (2 * placed + holding) / 4
        if treatment is not None:
            return (holding + bool(wanted)) / 3
        return holding / 2

    def _progress_of_look(self, holding: bool) -> float:
        lit = {lamp for lamp in self.game.lamps if ("toggled", lamp) in self.states}
        if not lit:
            return holding / 3
        here = any(not lit.isdisjoint(self.contents[place]) for place in self.here())
        return 1.0 if holding and here else (1 + holding) / 3

    def here(self) -> Sequence[int]:
        """The receptacles at the agent's location."""
        return self.game.places.get(self.location, ())

    def is_accessible(self, place: int) -> bool:
        """Whether things can be put into and taken from a receptacle."""
        return not self.game.receptacles[place].openable or place in self.opened

    # Lists of commands.

    def _commands_at(self, place: int) -> Iterable[str]:
        receptacle = self.game.receptacles[place]
        yield f"examine {receptacle.name}"
        if receptacle.openable:
            verb = "close" if place in self.opened else "open"
            yield f"{verb} {receptacle.name}"
        accessible = self.is_accessible(place)
        for i in self.contents[place]:
            item = self.game.items[i]
            if "toggleable" in item.traits:
                yield f"use {item.name}"
            if accessible and self.held is None and "pickupable" in item.traits:
                yield f"take {item.name} from {receptacle.name}"

    def _commands_in_hand(self, held: int) -> Iterable[str]:
        game = self.game
        item = game.items[held]
        yield f"examine {item.name}"
        for place in self.here():
            receptacle = game.receptacles[place]
            if self._can_put(held, place):
                verb, preposition = game.wording.put
                yield f"{verb} {item.name} {preposition} {receptacle.name}"
            for verb, (trait, _, appliance) in games.TREATMENTS.items():
                if receptacle.kind == appliance and trait in item.traits:
                    yield f"{verb} {item.name} with {receptacle.name}"
        if item.kind in _KNIVES:
            for i, other in enumerate(game.items):
                if self._can_slice(i):
                    yield f"slice {other.name} with {item.name}"

    def overview(self) -> str:
        """What the agent sees before its first command."""
        if self.here():
            return self._facing()
        return _MIDDLE + f"{_join([f'a {r.name}' for r in self.game.receptacles])}."

    # Commands. Each gets what follows the verb.

    def _look(self, rest: str) -> str | None:
        if rest:
            return None
        return self._facing() if self.here() else _MIDDLE + "nothing."

    def _inventory(self, rest: str) -> str | None:
        if rest:
            return None
        if self.held is None:
            return "You are not carrying anything."
        return f"You are carrying: a {self.game.items[self.held].name}."

    def _help(self, rest: str) -> str | None:
        return None if rest or not self.game.wording.has_help else _HELP

    def _go(self, rest: str) -> str | None:
        if not rest.startswith("to "):
            return None
        place = self.game.receptacle_index.get(rest[3:])
        if place is None or self.game.receptacles[place].location == self.location:
            return None
        self.location = self.game.receptacles[place].location
        if not self.game.wording.names_arrival:
            return self._view(place)
        return f"You arrive at {rest[3:]}. {self._view(place)}"

    def _open(self, rest: str) -> str | None:
        place = self._find_here(rest)
        if place is None or place in self.opened:
            return None
        if not self.game.receptacles[place].openable:
            return None
        self.opened.add(place)
        return f"You open the {rest}. {self._view(place)}"

    def _close(self, rest: str) -> str | None:
        place = self._find_here(rest)
        if place is None or place not in self.opened:
            return None
        if not self.game.receptacles[place].openable:
            return None
        self.opened.remove(place)
        return f"You close the {rest}."

    def _take(self, rest: str) -> str | None:
        name, _, where = rest.partition(" from ")
        item, place = self.game.item_index.get(name), self._find_here(where)
        if item is None or place is None or self.held is not None:
            return None
        if "pickupable" not in self.game.items[item].traits:
            return None
        if item not in self.contents[place] or not self.is_accessible(place):
            return None
        self.contents[place].remove(item)
        self.item_locations.discard((item, self.location))
        self._left.add((item, place))
        self.held = item
        return f"You pick up the {name} from the {where}."

    def _put(self, rest: str, wording: tuple[str, str]) -> str | None:
        if wording != self.game.wording.put:
            return None
        verb, preposition = wording
        name, _, where = rest.partition(f" {preposition} ")
        place = self._find_here(where)
        held = self._find_held(name)
        if held is None or place is None or not self._can_put(held, place):
            return None
        if held not in self.contents[place]:
            bisect.insort(self.contents[place], held)
        self.item_locations.add((held, self.location))
        self._left.discard((held, place))
        self.held = None
        return f"You {verb} the {name} {preposition} the {where}."

    def _move(self, rest: str) -> str | None:
        return self._put(rest, games.MOVE.put)

    def _put_in_on(self, rest: str) -> str | None:
        return self._put(rest, games.PUT.put)

    def _examine(self, rest: str) -> str | None:
        place = self._find_here(rest)
        if place is not None:
            return self._view(place)
        held = self._find_held(rest)
        return None if held is None else self._describe(held)

    def _use(self, rest: str) -> str | None:
        item = self.game.item_index.get(rest)
        if item is None or "toggleable" not in self.game.items[item].traits:
            return None
        if not any(item in self.contents[place] for place in self.here()):
            return None
        self.states.add(("toggled", item))
        return f"You turn on the {rest}."

    def _treat(self, rest: str, verb: str) -> int | None:
        """Checks `O with R` for heating, cooling or cleaning; returns the item."""
        trait, state, appliance = games.TREATMENTS[verb]
        name, _, where = rest.partition(" with ")
        held, place = self._find_held(name), self._find_here(where)
        if held is None or place is None:
            return None
        if self.game.receptacles[place].kind != appliance:
            return None
        if trait not in self.game.items[held].traits:
            return None
        self.states.add((state, held))
        return held

    def _clean(self, rest: str) -> str | None:
        return _reply("clean", rest) if self._treat(rest, "clean") is not None else None

    def _heat(self, rest: str) -> str | None:
        item = self._treat(rest, "heat")
        if item is None:
            return None
        self.states.discard(("cool", item))
        return _reply("heat", rest)

    def _cool(self, rest: str) -> str | None:
        item = self._treat(rest, "cool")
        if item is None:
            return None
        self.states.discard(("hot", item))
        return _reply("cool", rest)

    def _slice(self, rest: str) -> str | None:
        name, _, knife = rest.partition(" with ")
        item, held = self.game.item_index.get(name), self._find_held(knife)
        if item is None or held is None or not self._can_slice(item):
            return None
        if self.game.items[held].kind not in _KNIVES:
            return None
        self.states.add(("sliced", item))
        return f"You sliced the {name} with the {knife}."

    # What commands ask.

    def _find_here(self, name: str) -> int | None:
        place = self.game.receptacle_index.get(name)
        if place is None or self.game.receptacles[place].location != self.location:
            return None
        return place

    def _find_held(self, name: str) -> int | None:
        if self.held is None or self.game.items[self.held].name != name:
            return None
        return self.held

    def _can_put(self, item: int, place: int) -> bool:
        kind = self.game.receptacles[place].kind
        accepted = self.game.items[item].kind in self.game.accepts.get(kind, ())
        return accepted and self.is_accessible(place)

    def _can_slice(self, item: int) -> bool:
        sliceable = "sliceable" in self.game.items[item].traits
        return sliceable and (item, self.location) in self.item_locations

    def _facing(self) -> str:
        here = self.here()
        names = [self.game.receptacles[place].name for place in here]
        beside = [
            f"a {self.game.items[item].name}"
            for item, place in sorted(self._left)
            if place in here and (item, self.location) in self.item_locations
        ]
        facing, seen = _join(names), _join(beside)
        return f"You are facing the {facing}. Next to it, you see {seen}."

    def _view(self, place: int) -> str:
        receptacle = self.game.receptacles[place]
        items = self.game.items
        if receptacle.openable and place not in self.opened:
            return f"The {receptacle.name} is closed."
        names = _join([f"a {items[item].name}" for item in self.contents[place]])
        if receptacle.openable:
            return f"The {receptacle.name} is open. In it, you see {names}."
        return f"On the {receptacle.name}, you see {names}."

    def _describe(self, held: int) -> str:
        item = self.game.items[held]
        if "container" in item.traits:
            inner = [
                f"a {self.game.items[i].name}" for i in self.game.nested.get(held, ())
            ]
            return f"This is a normal {item.name}. In it, you see {_join(inner)}."
        true = {state for state, i in self.states if i == held}
        adjectives = [word for word in ("hot", "cool", "clean") if word in true]
        if not adjectives and "toggled" in true:
            return f"This {item.name} is on."
        if adjectives == ["cool"] and "sliced" not in true:
            adjectives = ["cold"]
        words = " and ".join(adjectives)
        if "sliced" in true:
            words = f"{words} sliced".strip()
        if not words:
            return f"There's nothing special about {item.name}."
        return f"This is a {words} {item.name}."


def _reply(verb: str, rest: str) -> str:
    name, _, where = rest.partition(" with ")
    return f"You {verb} the {name} using the {where}."


def _join(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])}, and {names[-1]}"


_HANDLERS: dict[str, Callable[[World, str], str | None]] = {
    "look": World._look,
    "inventory": World._inventory,
    "help": World._help,
    "go": World._go,
    "open": World._open,
    "close": World._close,
    "take": World._take,
    "move": World._move,
    "put": World._put_in_on,
    "examine": World._examine,
    "use": World._use,
    "clean": World._clean,
    "heat": World._heat,
    "cool": World._cool,
    "slice": World._slice,
}
