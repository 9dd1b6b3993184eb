"""The shortest way to the goal of a game whose every detail is known."""

import itertools
from collections.abc import Iterator, Sequence

from agentrl.envs.alfworld import games

Fetch = tuple[int, int]  # item, receptacle that holds it


def find_plan(game: games.Game) -> list[str] | None:
    """The shortest sequence of commands that reaches the goal, None without one.

    Considers every wanted item, every appliance and every receptacle of the goal, but
    no detours: an item is fetched, treated and delivered before the next is touched.
    """
    routes = _deliveries(game) if game.goal.kind != "look" else _looks(game)
    return min(routes, key=len, default=None)


def _deliveries(game: games.Game) -> Iterator[list[str]]:
    needed = 2 if game.goal.kind == "two" else 1
    fetches = _find_fetches(game)
    for target in game.targets:
        if game.goal.item not in game.accepts.get(game.receptacles[target].kind, ()):
            continue
        missing = needed
        if game.goal.kind == "two":
            missing -= len(game.wanted.intersection(game.contents[target]))
        elsewhere = fetches
        if game.goal.kind in ("place", "two"):
            elsewhere = [fetch for fetch in fetches if fetch[1] != target]
        for chosen in itertools.permutations(elsewhere, missing):
            for appliance in _find_appliances(game):
                yield _deliver(game, chosen, appliance, target)


def _deliver(
    game: games.Game, chosen: Sequence[Fetch], appliance: int | None, target: int
) -> list[str]:
    route = _Route(game)
    verb, preposition = game.wording.put
    for item, place in chosen:
        route.fetch(item, place)
        name = game.items[item].name
        if appliance is not None:
            route.go(appliance)
            with_what = game.receptacles[appliance].name
            route.commands.append(f"{game.goal.kind} {name} with {with_what}")
        route.reach_into(target)
        where = game.receptacles[target].name
        route.commands.append(f"{verb} {name} {preposition} {where}")
    return route.commands


def _looks(game: games.Game) -> Iterator[list[str]]:
    for (item, place), (stand, held) in itertools.product(
        _find_fetches(game), enumerate(game.contents)
    ):
        for lamp in game.lamps.intersection(held):
            route = _Route(game)
            route.fetch(item, place)
            route.go(stand)
            route.commands.append(f"use {game.items[lamp].name}")
            yield route.commands


def _find_fetches(game: games.Game) -> list[Fetch]:
    return [
        (item, place)
        for place, held in enumerate(game.contents)
        for item in held
        if item in game.wanted and "pickupable" in game.items[item].traits
    ]


def _find_appliances(game: games.Game) -> Sequence[int | None]:
    if game.goal.kind not in games.TREATMENTS:
        return (None,)
    kind = games.TREATMENTS[game.goal.kind][2]
    return [i for i, r in enumerate(game.receptacles) if r.kind == kind]


class _Route:
    """Commands, and where they have led so far."""

    def __init__(self, game: games.Game):
        self.commands: list[str] = []
        self._game = game
        self._location = game.start
        self._opened = set(game.opened)

    def go(self, place: int) -> None:
        receptacle = self._game.receptacles[place]
        if receptacle.location != self._location:
            self.commands.append(f"go to {receptacle.name}")
            self._location = receptacle.location

    def reach_into(self, place: int) -> None:
        self.go(place)
        receptacle = self._game.receptacles[place]
        if receptacle.openable and place not in self._opened:
            self.commands.append(f"open {receptacle.name}")
            self._opened.add(place)

    def fetch(self, item: int, place: int) -> None:
        self.reach_into(place)
        names = self._game.items[item].name, self._game.receptacles[place].name
        self.commands.append(f"take {names[0]} from {names[1]}")
