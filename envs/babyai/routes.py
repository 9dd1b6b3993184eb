"""Ways to a goal in a known grid, over doors, keys and things that stand in the way."""

from collections.abc import Callable, Collection, Iterator

from agentrl.envs.babyai import goals, planner, view

Locate = Callable[[goals.Description], set[int]]

_MAX_STATES = 4000  # of one search


class RouteFinder:
    """Searches from one state for routes to one goal.

    Args:
      goal: what is to be done.
      state: where to start.
      locate: finds the cells of what a description may mean.
      windows: cells that walks may cross, by heading.
      avoid: actions not to begin with.
    """

    def __init__(
        self,
        goal: goals.Goal,
        state: planner.State,
        locate: Locate,
        windows: tuple[int, ...] = view.WINDOWS,
        avoid: Collection[str] = (),
    ):
        self._state, self._windows, self._avoid = state, windows, avoid
        self._targets = locate(goal.what)
        self._beside = locate(goal.beside) if goal.beside else set()
        self._known = bool(self._beside if goal.beside else self._targets)
        if goal.beside and state.carried not in goal.what.codes:
            goal = goals.Goal("pick up", goal.what)
        self._goal = goal

    def find(self, *, clear_way: bool) -> planner.Route | None:
        """The shortest route found.

        If there is none with the doors and objects as they are, one by way of the key
        to a locked door is tried; with `clear_way`, then some that take objects away.
        """
        if not self._known:
            return None
        route = self._find_direct(()) or self._find_by_key()
        return route or (self._find_cleared() if clear_way else None)

    def _find_direct(self, fetch: Collection[int]) -> planner.Route | None:
        return self._pick(self._search(self._state, fetch, self._avoid))

    def _find_by_key(self) -> planner.Route | None:
        keys = planner.list_keys(self._state)
        for to_key in self._search(self._state, (), self._avoid) if keys else ():
            if to_key.end.ends_with(view.PICKUP) and to_key.end.touched in keys:
                route = self._pick(self._search(to_key.end.after, (), ()))
                return route and planner.Route(to_key.moves + route.moves)
        return None

    def _find_cleared(self) -> planner.Route | None:
        blockers = planner.list_blockers(self._state)
        routes = [self._find_direct({index}) for index in sorted(blockers)]
        if found := [route for route in routes if route]:
            return min(found, key=lambda route: len(route.moves))
        everything = planner.list_objects(self._state)
        return self._find_direct(blockers) or self._find_direct(everything)

    def _pick(self, routes: Iterator[planner.Route]) -> planner.Route | None:
        """The first of the routes that does the goal."""
        for route in routes:
            if goals.fulfils(self._goal, route.end, self._targets, self._beside):
                return route
        return None

    def _search(
        self, start: planner.State, fetch: Collection[int], avoid: Collection[str]
    ) -> Iterator[planner.Route]:
        return planner.search(
            start,
            fetch,
            max_states=_MAX_STATES,
            windows=self._windows,
            avoid=avoid,
        )
