"""Scripted policies that solve BabyAI tasks."""

from collections.abc import Collection

from agentrl.envs import base, parsing
from agentrl.envs.babyai import goals, planner, routes, textmap, view, world

_MAX_LOOKS = 100  # states of a search for something new to see


class _Seeker:
    """Does the goals of a mission one after the other.

    When all are done and the episode goes on, they are done again: a mission whose
    order is not told may want them the other way round.
    """

    def __init__(self) -> None:
        self.goals: list[goals.Goal] = []
        self._number = 0

    @property
    def goal(self) -> goals.Goal:
        """What to do now."""
        return self.goals[self._number % len(self.goals)]

    def finish_goal(self) -> None:
        """Counts the current goal as done."""
        self._number += 1

    def skip_faced(self, code: int) -> None:
        """Passes over what is done by facing an object, as the agent already does."""
        for _ in range(len(self.goals) - 1):
            what = self.goal.what
            fits = code in what.codes and not what.place
            if self._number and self.goal.verb == "go to" and fits:
                self.finish_goal()

    def take(self, route: planner.Route) -> str:
        """Starts on a route; returns its first action."""
        move = route.moves[0]
        fetched = self.goal.beside is not None and not move.ends_with(view.DROP)
        if len(route.moves) == 1 and not fetched:
            self.finish_goal()
        return move.action


class Privileged(_Seeker):
    """Sees the whole grid, and searches it for the shortest sequence of actions."""

    def __init__(self, env: base.Environment):
        super().__init__()
        played: world.World = env.world  # type: ignore[attr-defined]
        self._world = played
        self.goals = goals.read_goals(played.mission)
        self._start = self._look()
        self._rooms = goals.Rooms(
            played.stride, played.env.room_size - 1, world.MARGIN, world.MARGIN
        )
        self._route: tuple[planner.Move, ...] = ()
        self._expected: planner.State | None = None
        self._stuck = False

    def act(self, observation: str) -> str:
        """Answers with the next action of the plan."""
        del observation
        state = self._look()
        if not self._route or state != self._expected:
            self._route = self._plan(state)
        if not self._route:
            return parsing.render_react("There is no way that I can see.", "turn right")
        thought = f"I am on my way to {self.goal.verb} the {self.goal.what.phrase}."
        self._expected = self._route[0].after
        action = self.take(planner.Route(self._route))
        self._route = self._route[1:]
        return parsing.render_react(thought, action)

    def _look(self) -> planner.State:
        played = self._world
        return planner.State(
            bytes(played.cells),
            played.stride,
            played.at,
            played.heading,
            played.carried,
        )

    def _plan(self, state: planner.State) -> tuple[planner.Move, ...]:
        self.skip_faced(state.cells[state.front])
        if self._stuck:
            return ()
        finder = routes.RouteFinder(
            self.goal,
            state,
            lambda what: goals.find_targets(what, state, self._start, self._rooms),
        )
        route = finder.find(clear_way=True)
        self._stuck = route is None
        return route.moves if route else ()


class Observational(_Seeker):
    """Goes to what it sees, else draws a map and looks where most is still unseen."""

    def __init__(self, env: base.Environment):
        super().__init__()
        del env  # the text is enough
        self._action = ""
        self._failed: list[tuple[textmap.Reading, str]] = []
        self._log: list[tuple[str, textmap.Reading]] = []
        self._drawn = 0  # how much of the log is on the map
        self._beliefs: list[textmap.Belief] = []

    def act(self, observation: str) -> str:
        """Answers with a short thought and one action."""
        if not self.goals:
            self.goals = goals.read_goals(observation.partition("\n")[0])
        self._reading = textmap.read(observation)
        if self._reading.sighted:
            self._log.append((self._action, self._reading))
        else:  # a refusal; what was seen last still holds
            self._reading = self._log[-1][1]
            self._failed.append((self._reading, self._action))
        for thing in self._reading.things:
            if thing.cell == view.AHEAD:
                self.skip_faced(thing.code)
        thought, self._action = self._pursue_seen() or self._pursue_known()
        return parsing.render_react(thought, self._action)

    def _pursue_seen(self) -> tuple[str, str] | None:
        """Acts on the nearest thing that fits, if one action does it all."""
        verb = {"go to": "go to", "pick up": "pickup"}.get(self.goal.verb)
        what = self.goal.what
        hands_full = self._reading.carried != view.EMPTY and verb == "pickup"
        if verb is None or what.place or hands_full:
            return None
        for thing in self._reading.things:
            action = f"{verb} {thing.label}"
            if thing.code in what.codes and self._is_offered(action):
                self.finish_goal()
                return f"I see the {thing.label}.", action
        return None

    def _is_offered(self, action: str) -> bool:
        listed = self._reading.actions
        return action not in self._avoid() and (not listed or action in listed)

    def _avoid(self) -> set[str]:
        """What did not do as expected when the same was seen before."""
        return {action for seen, action in self._failed if seen == self._reading}

    def _pursue_known(self) -> tuple[str, str]:
        """Follows the map to the goal, or to where there is more to see."""
        self._draw_map()
        phrase = self.goal.what.phrase
        if not self._beliefs:
            return f"I do not see the {phrase}, and I am lost.", "turn right"
        belief = textmap.choose(self._beliefs)
        finder = routes.RouteFinder(
            self.goal,
            belief.state,
            lambda what: goals.find_targets(
                what, belief.state, textmap.START, belief.rooms
            ),
            textmap.WINDOWS,
            self._avoid(),
        )
        if route := finder.find(clear_way=False):
            return f"I know where the {phrase} is.", self.take(route)
        if route := finder.find(clear_way=True):
            return f"Something is in the way to the {phrase}.", self.take(route)
        state = belief.state
        likely = planner.list_keys(state) | planner.list_blockers(state)
        for fetch in (likely, planner.list_objects(state)):
            if route := self._find_view(belief, fetch):
                return f"I do not see the {phrase} yet.", route.moves[0].action
        return f"I do not see the {phrase} anywhere.", "turn right"

    def _find_view(
        self, belief: textmap.Belief, fetch: Collection[int]
    ) -> planner.Route | None:
        """The route with the most to see at its end for each of its moves."""
        near = textmap.START.at if self.goal.what.place else None
        worth = belief.weigh(near)
        best, most = None, 0.0
        for route in planner.search(
            belief.state, fetch, max_states=_MAX_LOOKS, windows=textmap.WINDOWS
        ):
            if route.end.ends_with(view.PICKUP) and route.end.touched not in fetch:
                continue  # a walk does as well
            value = textmap.gain(worth, route.end.after) / len(route.moves)
            if value > most and self._is_offered(route.moves[0].action):
                best, most = route, value
        return best

    def _draw_map(self) -> None:
        """Brings the map up to date."""
        if not self._drawn:
            self._beliefs = textmap.imagine(self._log[0][1])
            self._drawn = 1
        for number in range(self._drawn, len(self._log)):
            action, reading = self._log[number]
            self._beliefs, expected = textmap.follow(self._beliefs, action, reading)
            if not expected:
                self._failed.append((self._log[number - 1][1], action))
            if not self._beliefs:  # lost: draw a new map from here
                self._beliefs = textmap.imagine(reading)
        self._drawn = len(self._log)
