"""Oracles: one is told the solution, the other reads text and knows some kinds of task.

What the reader knows beforehand is how the rooms of the house join, where one heats,
cools, measures and connects things, and how old animals become.
"""

import collections
import re
from collections.abc import Callable, Generator
from typing import Any

from agentrl.envs import base, parsing
from agentrl.envs.sciworld import environment

# Yields commands, is sent the replies, returns the last one.
Plan = Generator[str, str, str]

_HALLWAY = ("art studio", "bedroom", "greenhouse", "kitchen", "living room", "workshop")
_DOORS = {("hallway", room) for room in _HALLWAY} | {
    ("kitchen", "bathroom"),
    ("kitchen", "outside"),
    ("greenhouse", "outside"),
    ("outside", "foundry"),
}
_YEARS = {  # rough life spans of the species
    "giant tortoise": 150,
    "parrot": 80,
    "elephant": 70,
    "crocodile": 65,
    "brown bear": 25,
    "beaver": 17,
    "wolf": 14,
    "toad": 11,
    "rabbit": 9,
    "chipmunk": 8,
    "hedgehog": 5,
    "chameleon": 4,
    "mouse": 2,
    "dragonfly": 0.5,
    "ant": 0.2,
}
_MIXED = {"green": "blue yellow", "orange": "red yellow", "violet": "red blue"}
_ROOM = re.compile(r"This (?:room|outside location) is called the ([\w ]+)\.")
_SHUT = re.compile(r"The ([\w ]+) door is closed\.")
_MOVABLE = re.compile(
    r"^\tan? (?!substance)([\w ]+?)(?:\. On| \(containing nothing\)$|$)", re.M
)
_POT_PLANT = re.compile(
    r"a ([\w ]*flower pot \d+) \(containing an? ([a-z]+ (?:tree|plant))"
)
_ANIMAL = re.compile(r"^\tan? ((?:baby|juvenile|adult) ([\w ]+)|([\w ]+) egg)$", re.M)
_WIRE = re.compile(r"\w+ wire")
_DEVICE = re.compile(r"(\w+ light bulb|electric motor|electric buzzer), which is off")
_SOURCES = {
    None: re.compile("battery"),
    "renewable": re.compile("solar panel|wind mill|wind generator"),
    "nonrenewable": re.compile("gas generator|nuclear generator"),
}
_EMPTY = re.compile(r"a ([\w ]+) \(containing nothing\)")
_DEGREES = re.compile(r"temperature of (-?[\d.]+) degrees")


class Gold:
    """Follows the solution that comes with the task, and waits after its end."""

    def __init__(self, env: base.Environment):
        assert isinstance(env, environment.SciWorld)
        self._steps = iter(env.gold_path)

    def act(self, observation: str) -> str:
        """Returns the next answer of the solution."""
        del observation
        step = next(self._steps, "wait1")
        return parsing.render_react(f"The next step of the solution is: {step}.", step)


class Observational:
    """Carries out a plan for the kind of task that it reads of."""

    def __init__(self, env: base.Environment):
        del env  # no option changes how it plays
        self._visit: _Visit | None = None

    def act(self, observation: str) -> str:
        """Returns the next answer of the plan; waits after its end.

        Raises:
          OracleRefusalError: if there is no plan for the task, or what the plan needs is
            not in sight.
        """
        if self._visit is None:
            self._visit = _Visit(observation)
            self._plan = _make_plan(self._visit, observation)
            command = next(self._plan)
        elif observation.startswith("Ambiguous request"):
            return parsing.render_react("Any of these will do.", "0")
        else:
            try:
                command = self._plan.send(observation)
            except StopIteration:
                command = "wait1"
        return parsing.render_react(f"I want to {self._visit.aim}.", command)


def _make_plan(visit: "_Visit", observation: str) -> Plan:
    task = observation.partition("\n")[0]
    for pattern, plan in _PLANS:
        if match := pattern.search(task):
            return plan(visit, *match.groups())
    raise base.OracleRefusalError(
        f"environment 'sciworld': the observational oracle has no plan for {task!r}; "
        "the privileged one follows the solution that comes with a task."
    )


class _Visit:
    """The agent in the house: where it is, and what it does there in words."""

    def __init__(self, observation: str):
        found = _ROOM.search(observation)
        assert found, observation
        self.room = found[1]
        self.aim = "begin"
        self._open: set[frozenset[str]] = set()

    def go(self, room: str) -> Plan:
        """Goes to a room and looks around there."""
        self.aim = f"go to the {room}"
        for place in _find_way(self.room, room):
            if (door := frozenset((self.room, place))) not in self._open:
                yield f"open door to {place}"
                self._open.add(door)
            yield f"go to {place}"
            self.room = place
        self.aim = f"see what is in the {room}"
        return (yield "look around")

    def find(self, thing: str, room: str) -> Plan:
        """Goes to a room and opens what is shut there, unless a thing is in sight."""
        seen = yield from self.go(room)
        if thing.lower() in seen.lower():
            return seen
        self.aim = f"find the {thing}"
        for furniture in _SHUT.findall(seen):
            yield f"open {furniture}"
        seen = yield "look around"
        if thing.lower() in seen.lower() or "drawer" not in seen:
            return seen
        for furniture in re.findall(r"(counter|cupboard|desk)\b[^\n]* drawer", seen):
            yield f"open drawer in {furniture}"
        return (yield "look around")

    def focus(self, thing: str) -> Plan:
        """Says what the task is about."""
        self.aim = f"show that the {thing} is what the task is about"
        return (yield f"focus on {thing}")


def _find_way(start: str, end: str) -> list[str]:
    """The rooms after `start` on a shortest way to `end`."""
    ways = collections.deque([[start]])
    while ways[0][-1] != end:
        way = ways.popleft()
        for door in sorted(_DOORS):
            if way[-1] in door:
                other = door[door[0] == way[-1]]
                ways.append([*way, other])
    return ways[0][1:]


def _take(found: list[Any], count: int, what: str) -> list[Any]:
    """The first `count` different ones of what was read."""
    found = list(dict.fromkeys(found))[:count]
    if len(found) < count:
        raise base.OracleRefusalError(
            f"environment 'sciworld': the observational oracle sees too few of what its "
            f"plan needs: {what}, {len(found)} of {count}."
        )
    return found


def _find(visit: _Visit, kind: str, box: str, room: str) -> Plan:
    """Something of a kind goes into a box: furniture, a plant in its pot, an animal."""
    if kind == "non-living thing":
        seen = yield from visit.go(room)
        loose = [name for name in _MOVABLE.findall(seen) if not name.endswith("box")]
        (thing,) = _take(loose, 1, "thing to move")
        yield from visit.focus(thing)
        return (yield f"move {thing} to {box}")
    if kind == "animal":
        seen = yield from visit.go("outside")
        (names,) = _take(_ANIMAL.findall(seen), 1, "animal")
        carried, later = names[0], "".join(names[1:])  # it grows up on the way
        thing = carried
    else:
        seen = yield from visit.go("greenhouse")
        ((carried, thing),) = _take(_POT_PLANT.findall(seen), 1, "plant in a pot")
        later = carried
    yield from visit.focus(thing)
    yield f"pick up {carried}"
    yield from visit.go(room)
    visit.aim = f"put the {thing} in the {box}"
    reply = yield f"move {carried} to {box}"
    return (yield f"move {later} to {box}") if "No known" in reply else reply


def _rank_animals(visit: _Visit, first: str, second: str | None) -> Plan:
    """The animals outside by how old their species become."""
    seen = yield from visit.go("outside")
    known = [animal for animal in _YEARS if re.search(rf"\b{animal}\b", seen)]
    known.sort(key=_YEARS.__getitem__)
    _take(known, 1, "animal that it knows")
    reply = ""
    for which in filter(None, (first, second)):
        reply = yield from visit.focus(known[-1 if which == "longest" else 0])
    return reply


def _take_temperature(
    visit: _Visit, thing: str, room: str, bound: str, hot: str, cold: str, boxes: str
) -> Plan:
    """The thermometer is in the kitchen; warm things go to one box, cold to another."""
    yield from visit.find("thermometer", "kitchen")
    visit.aim = "take the thermometer"
    yield "pick up thermometer"
    yield from visit.focus("thermometer")
    yield from visit.find(thing, room)
    visit.aim = f"measure the temperature of the {thing}"
    yield f"pick up {thing}"
    yield from visit.focus(thing)
    visit.aim = f"measure the temperature of the {thing}"
    reply = yield f"use thermometer on {thing}"
    (degrees,) = _take(_DEGREES.findall(reply), 1, "temperature")
    box = hot if float(degrees) > float(bound) else cold
    yield from visit.go(boxes)
    visit.aim = f"put the {thing} in the {box}, as it has {degrees} degrees"
    return (yield f"move {thing} to {box}")


def _power(visit: _Visit, device: str, kind: str | None) -> Plan:
    """A source, two wires and the device in a ring; renewable power is outside."""
    seen = yield from visit.find(device, "workshop")
    yield from visit.focus(device)
    first, second = _take(_WIRE.findall(seen), 2, "wires")
    (source,) = _take(_SOURCES[kind].findall(seen), 1, "source of power")
    if kind == "renewable":
        things = (device, source, first, second)
        visit.aim = "take what a circuit needs to where sun and wind are"
        for thing in things:
            yield f"pick up {thing}"
        yield from visit.go("outside")
        for thing in things:
            yield f"put down {thing}"
    reply = yield from _connect(visit, source, device, first, second)
    return (yield f"activate {source}") if kind == "nonrenewable" else reply


def _connect(
    visit: _Visit, source: str, device: str, first: str, second: str, third: str = ""
) -> Plan:
    """Wires a source to a device: `third` ends at the device, if not `second`."""
    visit.aim = f"connect the {device} to the {source}"
    yield f"connect {source} anode to {first} terminal 1"
    yield f"connect {source} cathode to {second} terminal 1"
    yield f"connect {first} terminal 2 to cathode in {device}"
    return (yield f"connect {third or second} terminal 2 to anode in {device}")


def _test_conductivity(
    visit: _Visit, thing: str, room: str, good: str, bad: str
) -> Plan:
    """A ring of battery, wires, a device and the thing: does the device go on?"""
    yield from visit.find(thing, room)
    visit.aim = f"take the {thing}"
    yield f"pick up {thing}"
    yield from visit.focus(thing)
    seen = yield from visit.go("workshop")
    first, second, third = _take(_WIRE.findall(seen), 3, "wires")
    (device,) = _take(_DEVICE.findall(seen), 1, "device to try")
    yield f"put down {thing}"
    yield from _connect(visit, "battery", device, first, second, third)
    visit.aim = f"see whether the {thing} conducts"
    yield f"connect {thing} terminal 1 to {second} terminal 2"
    yield f"connect {thing} terminal 2 to {third} terminal 1"
    yield "wait1"
    seen = yield "look around"
    box = good if f"{device}, which is on" in seen else bad
    if box not in seen:
        visit.aim = f"bring the {thing} to the boxes"
        yield f"pick up {thing}"
        yield from visit.go(room)
    visit.aim = f"put the {thing} in the {box}"
    return (yield f"move {thing} to {box}")


def _change_state(visit: _Visit, change: str, substance: str) -> Plan:
    """A substance from the kitchen, in a metal pot, on the stove or in the freezer."""
    seen = yield from visit.find("metal pot", "kitchen")
    if substance == "water":
        visit.aim = "fill the metal pot with water"
        yield "move metal pot to sink"
        yield "activate sink"
        yield "deactivate sink"
        yield from visit.focus("water")
    else:
        if substance not in seen:
            yield from visit.find(substance, "kitchen")
        yield from visit.focus(substance)
        visit.aim = f"bring the {substance} to the metal pot"
        verb = "pour {} into" if "juice" in substance else "move {} to"
        yield f"{verb.format(substance)} metal pot"
    yield from _cool(visit) if change == "freeze" else _heat(visit)
    visit.aim = f"give the {substance} time"
    while True:
        yield "wait"


def _cool(visit: _Visit) -> Plan:
    visit.aim = "cool the metal pot"
    yield "open freezer"
    return (yield "move metal pot to freezer")


def _heat(visit: _Visit) -> Plan:
    visit.aim = "heat the metal pot"
    yield "move metal pot to stove"
    reply = yield "activate stove"
    if "now activated" in reply:
        return reply
    yield "pick up metal pot"
    yield from visit.go("foundry")
    visit.aim = "heat the metal pot, as the stove is broken"
    yield "open blast furnace"
    yield "move metal pot to blast furnace"
    return (yield "activate blast furnace")


def _mix_paint(visit: _Visit, color: str) -> Plan:
    """Two paints of the art studio in one vessel."""
    seen = yield from visit.go("art studio")
    (vessel,) = _take(_EMPTY.findall(seen), 1, "empty vessel")
    visit.aim = f"mix {color} paint"
    for paint in _MIXED[color].split():
        yield f"pour {paint} paint into {vessel}"
    yield f"mix {vessel}"
    return (yield from visit.focus(f"{color} paint"))


_PLANS: tuple[tuple[re.Pattern[str], Callable[..., Plan]], ...] = (
    (
        re.compile(
            r"find a\(n\) (living thing|non-living thing|plant|animal)\."
            r".* move it to the (\w+ box) in the ([\w ]+)\."
        ),
        _find,
    ),
    (
        re.compile(
            r"with the (longest|shortest) life span"
            r"(?:, then the (longest|shortest) life span)?\."
        ),
        _rank_animals,
    ),
    (
        re.compile(
            r"measure the temperature of (.+?), which is located around the (.+?)\."
            r".* is above (-?[\d.]+) degrees celsius, place it in the (\w+ box)\."
            r".* place it in the (\w+ box)\. The boxes are located around the (.+?)\."
        ),
        _take_temperature,
    ),
    (
        re.compile(
            r"turn on the ([\w ]+?)(?: by powering it using a (\w+) power source)?\. First"
        ),
        _power,
    ),
    (
        re.compile(
            r"determine if (.+?) is electrically conductive\."
            r" The .+? is located around the ([\w ]+)\."
            r".* place it in the (\w+ box)\..* place it in the (\w+ box)\."
        ),
        _test_conductivity,
    ),
    (
        re.compile(
            r"is to (boil|melt|freeze|change the state of matter of) ([\w ]+)\."
        ),
        _change_state,
    ),
    (re.compile(r"create (green|orange|violet) paint\."), _mix_paint),
)
