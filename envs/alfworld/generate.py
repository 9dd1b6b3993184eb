"""Games made up from facts about rooms: a pure function of the task's number.

The rooms, what stands in them and what can lie where are those of AI2-THOR's 120 floor
plans, see `envs/data/alfworld_rooms.json`. How many things of a kind there are, where
they lie and what is to be done with them is drawn at random.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Mapping, Sequence

from agentrl.envs import base
from agentrl.envs.alfworld import facts, games, plan, world

VERSIONS = {
    "train": "alfworld-1",
    "test": "alfworld-2",  # 1 had 42 tasks whose room and goal were a training task's
    "test_unseen": "alfworld-1",
}
_SALT = "alfworld-1"  # of what is drawn at random

# Tasks of each type: train and test as AgentGym's, test_unseen as ALFWorld's.
COUNTS: Mapping[str, Mapping[games.GoalKind, int]] = {
    "train": {
        "place": 672,
        "look": 196,
        "clean": 448,
        "heat": 321,
        "cool": 394,
        "two": 389,
    },
    "test": {"place": 46, "look": 19, "clean": 37, "heat": 25, "cool": 28, "two": 45},
    "test_unseen": {
        "place": 24,
        "look": 18,
        "clean": 31,
        "heat": 23,
        "cool": 21,
        "two": 17,
    },
}
_TEXTS: Mapping[games.GoalKind, tuple[str, str]] = {
    "place": ("put a {0} in {1}", "put some {0} on {1}"),
    "look": ("look at {0} under the {1}", "examine the {0} with the {1}"),
    "clean": ("put a clean {0} in {1}", "clean some {0} and put it in {1}"),
    "heat": ("put a hot {0} in {1}", "heat some {0} and put it in {1}"),
    "cool": ("put a cool {0} in {1}", "cool some {0} and put it in {1}"),
    "two": ("put two {0} in {1}", "find two {0} and put them in {1}"),
}


def splits() -> Mapping[str, range]:
    """The task numbers of each split."""
    ends = list(itertools.accumulate(sum(c.values()) for c in COUNTS.values()))
    return {
        split: range(end - sum(COUNTS[split].values()), end)
        for split, end in zip(COUNTS, ends, strict=True)
    }


@functools.lru_cache(maxsize=512)
def generate(index: int, wording: games.Wording) -> games.Game:
    """The game of task `index`; of those drawn for it, the first that can be played.

    Raises:
      UnknownItemError: if there is no such task.
    """
    split = next((s for s, numbers in splits().items() if index in numbers), None)
    if split is None:
        last = max(numbers[-1] for numbers in splits().values())
        raise base.UnknownItemError(
            f"'alfworld_{index}' is not a task; the last one is 'alfworld_{last}'."
        )
    barred = _training_fingerprints() if split == "test" else frozenset()
    return _draw_playable(index, split, wording, barred)


def fingerprint(game: games.Game) -> str:
    """What makes two games the same task: the room, and what has to be done in it.

    Things in a room may be moved and the goal worded otherwise; that does not make it
    another task.
    """
    goal = game.goal
    return base.make_fingerprint(game.receptacles, goal.kind, goal.item, goal.target)


@functools.cache
def _training_fingerprints() -> frozenset[str]:
    """Of all training tasks; takes half a second, and tests in the same rooms need it."""
    return frozenset(
        fingerprint(_draw_playable(index, "train", games.MOVE, frozenset()))
        for index in splits()["train"]
    )


def _draw_playable(
    index: int, split: str, wording: games.Wording, barred: frozenset[str]
) -> games.Game:
    """The first game drawn for a task that can be played and is not barred."""
    kind = _kinds(split)[index]
    for attempt in itertools.count():
        rng = random.Random(base.stable_hash(_SALT, index, attempt))
        game = _draw(kind, split == "test_unseen", wording, rng)
        if game is None or not _is_playable(game):
            continue
        if not barred or fingerprint(game) not in barred:
            return game
    raise AssertionError("unreachable: attempts do not end")


def _is_playable(game: games.Game) -> bool:
    return not world.World(game).is_won() and plan.find_plan(game) is not None


@functools.cache
def _kinds(split: str) -> dict[int, games.GoalKind]:
    """The type of each task of a split, by hash of its number."""
    numbers = splits()[split]
    ranked = iter(sorted(numbers, key=lambda i: base.stable_hash(_SALT, "kind", i)))
    found: dict[int, games.GoalKind] = {}
    for kind, count in COUNTS[split].items():
        for number in itertools.islice(ranked, count):
            found[number] = kind
    return found


# Rooms.


@dataclasses.dataclass(frozen=True)
class _Room:
    receptacles: tuple[games.Receptacle, ...]
    start: int  # a location without receptacles
    by_kind: Mapping[str, tuple[int, ...]]
    item_kinds: tuple[str, ...]  # without lamps
    has_lamp: bool


@functools.cache
def _room(number: str) -> _Room:
    here = facts.load()["rooms"][number]
    places = dict(here["places"])
    free = itertools.count(1 + max(itertools.chain(*places.values())))
    for kind in here["other"]:
        places[kind] = [next(free) for _ in range(facts.SINGLE.get(kind, 1))]
    openable = facts.load()["openable"]
    receptacles = [
        games.Receptacle(f"{kind} {i + 1}", kind, at, kind in openable)
        for kind, viewpoints in places.items()
        for i, at in enumerate(viewpoints)
    ]
    receptacles.sort(key=lambda r: games.sort_key(r.name))
    by_kind: dict[str, tuple[int, ...]] = {}
    for i, receptacle in enumerate(receptacles):
        by_kind[receptacle.kind] = (*by_kind.get(receptacle.kind, ()), i)
    return _Room(
        receptacles=tuple(receptacles),
        start=next(free),
        by_kind=dict(sorted(by_kind.items())),
        item_kinds=tuple(kind for kind in here["objects"] if kind != facts.LAMP),
        has_lamp=facts.LAMP in here["objects"]
        and not by_kind.keys().isdisjoint(facts.LAMP_STANDS),
    )


@functools.cache
def _candidates(
    kind: games.GoalKind, unseen: bool
) -> Sequence[tuple[str, Sequence[tuple[str, str]]]]:
    """Rooms where a type of task is possible, with pairs of item and target."""
    known = facts.load()
    numbers = [n for n in known["rooms"] if (int(n) in known["unseen"]) == unseen]
    found = [(number, _find_pairs(kind, _room(number))) for number in numbers]
    return [(number, pairs) for number, pairs in found if pairs]


def _find_pairs(kind: games.GoalKind, room: _Room) -> Sequence[tuple[str, str]]:
    if kind == "look":
        return [(item, facts.LAMP) for item in room.item_kinds if room.has_lamp]
    trait, _, appliance = games.TREATMENTS.get(kind, (None, None, None))
    if appliance is not None and appliance not in room.by_kind:
        return []
    return [
        (item, target)
        for item, target in itertools.product(room.item_kinds, room.by_kind)
        if item in facts.accepts()[target]
        and target != appliance
        and (trait is None or item in facts.load()[trait])
        and not (kind == "two" and target in facts.SINGLE)
    ]


# Things and where they lie.


def _draw(
    kind: games.GoalKind,
    unseen: bool,
    wording: games.Wording,
    rng: random.Random,
) -> games.Game | None:
    """Draws a game; None if something finds no place."""
    number, pairs = rng.choice(_candidates(kind, unseen))
    room = _room(number)
    item, target = rng.choice(pairs)
    text = rng.choice(_TEXTS[kind]).format(item, target)
    goal = games.Goal(kind, item, target, text)
    placed = _place_items(room, goal, rng)
    if placed is None:
        return None
    items = sorted(placed, key=games.sort_key)
    contents: list[list[int]] = [[] for _ in room.receptacles]
    for i, name in enumerate(items):
        contents[placed[name]].append(i)
    return games.Game(
        goal=goal,
        wording=wording,
        receptacles=room.receptacles,
        items=tuple(_item(name) for name in items),
        contents=tuple(map(tuple, contents)),
        item_locations=frozenset(
            (i, room.receptacles[placed[name]].location) for i, name in enumerate(items)
        ),
        accepts=facts.accepts(),
        start=room.start,
    )


@functools.cache
def _item(name: str) -> games.Item:
    kind = name.split()[0]
    verbs = ("heatable", "coolable", "cleanable", "sliceable", "toggleable")
    traits = {verb for verb in verbs if kind in facts.load()[verb]}
    if kind in facts.load()["containers"]:
        traits.add("container")
    if kind != facts.LAMP:
        traits.add("pickupable")
    return games.Item(name, kind, frozenset(traits))


def _place_items(
    room: _Room, goal: games.Goal, rng: random.Random
) -> Mapping[str, int] | None:
    """Numbers the items of a room and chooses the receptacle of each."""
    taken: set[int] = set()  # receptacles that hold one thing, and do
    placed: dict[str, int] = {}
    for kind in room.item_kinds:
        count = min(rng.choice((1, 1, 1, 2, 2, 3)) + _is_wanted_twice(kind, goal), 3)
        for number in range(1, count + 1):
            barred = _find_barred(room, goal, kind, number)
            place = _choose_place(room, kind, taken | barred, rng)
            if place is None and kind == goal.item:
                return None
            if place is None:
                break
            if room.receptacles[place].kind in facts.SINGLE:
                taken.add(place)
            placed[f"{kind} {number}"] = place
    if room.has_lamp:
        stands = [kind for kind in facts.LAMP_STANDS if kind in room.by_kind]
        placed[f"{facts.LAMP} 1"] = rng.choice(room.by_kind[rng.choice(stands)])
    return placed


def _is_wanted_twice(kind: str, goal: games.Goal) -> bool:
    return goal.kind == "two" and kind == goal.item


def _find_barred(
    room: _Room, goal: games.Goal, kind: str, number: int
) -> frozenset[int]:
    """Where an item must not lie, or the goal might hold from the start."""
    if kind != goal.item or goal.kind not in ("place", "two"):
        return frozenset()
    if goal.kind == "two" and number == 1:
        return frozenset()
    return frozenset(room.by_kind[goal.target])


def _choose_place(
    room: _Room, kind: str, barred: set[int], rng: random.Random
) -> int | None:
    free: dict[str, list[int]] = {}
    for holder, places in room.by_kind.items():
        if kind in facts.accepts()[holder]:
            possible = [place for place in places if place not in barred]
            if possible:
                free[holder] = possible
    if not free:
        return None
    weights = [facts.weight(holder) for holder in free]
    return rng.choice(rng.choices(list(free.values()), weights)[0])
