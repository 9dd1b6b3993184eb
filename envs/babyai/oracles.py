"""Scripted policies that solve BabyAI tasks."""

from collections.abc import Callable, Collection

from envs import base, parsing
from envs.babyai import goals, planner, textmap, view, world

_MAX_STATES = 1500  # of a search for a way to the goal
_MAX_LOOKS = 100  # of a search for something to see


def find_route(
    goal: goals.Goal,
    state: planner.State,
    locate: Callable[[goals.Description], set[int]],
    windows: tuple[int, ...] = view.WINDOWS,
) -> planner.Route | None:
    """The shortest route found to what a goal asks for.

    If there is none with the doors and objects as they are, one by way of the key to a
    locked door is tried, then one that takes away what lies in front of doors.
    """
    targets = locate(goal.what)
    beside = locate(goal.beside) if goal.beside else set()
    if not (beside if goal.beside else targets):
        return None
    if goal.beside and state.carried not in goal.what.codes:
        goal = goals.Goal("pick up", goal.what)

    def search(
        start: planner.State, fetch: Collection[int] = ()
    ) -> planner.Route | None:
        routes = planner.search(start, fetch, max_states=_MAX_STATES, windows=windows)
        for route in routes:
            if goals.fulfils(goal, route.end, targets, beside):
                return route
        return None

    if route := search(state):
        return route
    keys = planner.list_keys(state)
    for to_key in planner.search(state, (), max_states=_MAX_STATES, windows=windows):
        if to_key.end.ends_with(view.PICKUP) and to_key.end.touched in keys:
            if route := search(to_key.end.after):
                return planner.Route(to_key.moves + route.moves)
            break
    return search(state, planner.list_blockers(state))


class Privileged:
    """Sees the whole grid, and searches it for the shortest sequence of actions."""

    def __init__(self, env: base.Environment):
        self._env = env
        self._goals: list[goals.Goal] = []
        self._route: list[planner.Move] = []
        self._done = 0

    def act(self, observation: str) -> str:
        """Answers with the next action of the plan."""
        del observation
        played: world.World = self._env.world  # type: ignore[attr-defined]
        state = planner.State(
            bytes(played.cells),
            played.stride,
            played.at,
            played.heading,
            played.carried,
        )
        if not self._goals:
            self._goals = goals.read_goals(played.mission)
            self._start = state
            self._rooms = goals.Rooms(
                played.stride, played.env.room_size - 1, world.MARGIN, world.MARGIN
            )
        goal = self._goals[self._done % len(self._goals)]
        if not self._route or state != self._expected:
            route = find_route(
                goal,
                state,
                lambda what: goals.find_targets(what, state, self._start, self._rooms),
            )
            self._route = list(route.moves) if route else []
        if not self._route:
            return parsing.render_react(
                "There is no way that I can find.", "turn right"
            )
        move = self._route.pop(0)
        self._expected = move.after
        if not self._route and not (goal.beside and move.ends_with(view.PICKUP)):
            self._done += 1
        thought = f"I am on my way to {goal.verb} the {goal.what.phrase}."
        return parsing.render_react(thought, move.action)


class Observational:
    """Looks around, goes to what the mission names, and tries doors for more."""

    def __init__(self, env: base.Environment):
        del env  # the text is enough
        self._goals: list[goals.Goal] = []
        self._done = 0
        self._log: list[tuple[str, textmap.Reading]] = []
        self._beliefs: list[textmap.Belief] = []
        self._drawn = 0  # how much of the log is on the map

    def act(self, observation: str) -> str:
        """Answers with a short thought and one action."""
        if not self._goals:
            self._goals = goals.read_goals(observation.partition("\n")[0])
        self._reading = textmap.read(observation)
        if self._log and self._reading.sighted:
            self._log[-1] = (self._log[-1][0], self._reading)
        elif not self._log:
            self._log.append(("", self._reading))
        thought, action = self._choose()
        self._log.append((action, self._reading))
        return parsing.render_react(thought, action)

    def _choose(self) -> tuple[str, str]:
        goal = self._goals[self._done % len(self._goals)]
        return self._pursue_seen(goal) or self._pursue(goal)

    def _pursue_seen(self, goal: goals.Goal) -> tuple[str, str] | None:
        """Acts on the nearest thing that fits, if a macro action does it all."""
        verb = {"go to": "go to", "pick up": "pickup"}.get(goal.verb)
        if verb is None or goal.what.place or self._reading.carried != view.EMPTY:
            return None
        for thing in self._reading.things:
            action = f"{verb} {thing.label}"
            if thing.code in goal.what.codes and self._is_offered(action):
                self._done += 1
                return f"I see the {thing.label}.", action
        return None

    def _is_offered(self, action: str) -> bool:
        return not self._reading.actions or action in self._reading.actions

    def _pursue(self, goal: goals.Goal) -> tuple[str, str]:
        self._draw_map()
        if not self._beliefs:
            return "I am lost.", "turn right"
        belief = textmap.choose(self._beliefs)

        def locate(what: goals.Description) -> set[int]:
            return goals.find_targets(what, belief.state, self._start, belief.rooms)

        route = find_route(goal, belief.state, locate, textmap.WINDOWS)
        if route is None:
            return self._explore(goal, belief)
        move = route.moves[0]
        if len(route.moves) == 1 and not (goal.beside and move.ends_with(view.PICKUP)):
            self._done += 1
        return f"I know where the {goal.what.phrase} is.", move.action

    def _explore(self, goal: goals.Goal, belief: textmap.Belief) -> tuple[str, str]:
        within = self._start.at if goal.what.place else None
        best, action = 0.0, "turn right"
        keys = planner.list_keys(belief.state)
        routes = planner.search(
            belief.state,
            keys,
            max_states=_MAX_LOOKS,
            windows=textmap.WINDOWS,
        )
        for route in routes:
            if route.end.ends_with(view.PICKUP) and route.end.touched not in keys:
                continue  # a walk does as well
            value = belief.gain(route.end.after, within) / len(route.moves)
            if value > best and self._is_offered(route.moves[0].action):
                best, action = value, route.moves[0].action
        return f"I do not see the {goal.what.phrase} yet.", action

    def _draw_map(self) -> None:
        """Brings the map up to date."""
        if not self._drawn:
            self._beliefs = textmap.imagine()
            self._start = self._beliefs[0].state
            observed = (textmap.observe(b, self._log[0][1]) for b in self._beliefs)
            self._beliefs = [b for b in observed if b]
            self._drawn = 1
        for action, reading in self._log[self._drawn :]:
            self._beliefs = textmap.follow(self._beliefs, action, reading)
        self._drawn = len(self._log)
