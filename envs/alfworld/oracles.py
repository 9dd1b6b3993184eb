"""Scripted players: one that knows the whole room, one that reads text only."""

import re

from agentrl.envs import base, parsing
from agentrl.envs.alfworld import environment, facts, games, plan

_TASKS: tuple[tuple[games.GoalKind, re.Pattern[str]], ...] = (
    ("two", re.compile(r"(?:put|find) two (\w+) (?:in|and put them in) (\w+)")),
    ("clean", re.compile(r"(?:put a clean|clean some) (\w+) (?:and put it )?in (\w+)")),
    ("heat", re.compile(r"(?:put a hot|heat some) (\w+) (?:and put it )?in (\w+)")),
    ("cool", re.compile(r"(?:put a cool|cool some) (\w+) (?:and put it )?in (\w+)")),
    ("look", re.compile(r"(?:look at|examine the) (\w+) (?:under|with) the (\w+)")),
    ("place", re.compile(r"put (?:a|some) (\w+) (?:in|on) (\w+)")),
)
_TASK = re.compile(r"Your task is to: (.*)\.")
_ROOM = re.compile(r"you see (.*)\.")
_VIEW = re.compile(r"(?:On the ([\w ]+)|In it), you see (.*)\.")
_CLOSED = re.compile(r"The ([\w ]+) is closed\.")
_OPEN = re.compile(r"The ([\w ]+) is open\.")
_NAME = re.compile(r"\b(?:a )?(\w+ \d+)")
_DONE = re.compile(r"You (?:pick up|move|put|heat|cool|clean)")

Step = tuple[str, str]  # thought, action


class PrivilegedOracle:
    """Follows the shortest plan for the room as it really is."""

    def __init__(self, env: base.Environment):
        assert isinstance(env, environment.AlfWorld)
        self._env = env
        self._steps: list[str] | None = None

    def act(self, observation: str) -> str:
        """Returns the next answer of its plan."""
        if self._steps is None:
            self._steps = plan.find_plan(self._env.game)
            if self._steps is None:
                raise ValueError(
                    f"no plan for the task {self._env.game.goal.text!r}; take the file "
                    "of the game out of its folder."
                )
        step = self._steps.pop(0)
        return parsing.render_react(f"The next step of the plan is to {step}.", step)


class ObservationalOracle:
    """Searches likely places first, remembers what it saw, then does the task."""

    def __init__(self, env: base.Environment):
        self._wordings = [games.MOVE.put, games.PUT.put]
        if env.config.profile == "agentgym":
            self._wordings.reverse()
        self._action = ""

    def act(self, observation: str) -> str:
        """Reads an observation and returns the answer to it."""
        if not self._action:
            self._begin(observation)
        else:
            self._read(observation)
        thought, self._action = self._decide()
        return parsing.render_react(thought, self._action)

    # What it knows.

    def _begin(self, observation: str) -> None:
        task = _TASK.search(observation)
        room = _ROOM.search(observation)
        text = task[1] if task else ""
        found = [(kind, p.fullmatch(text)) for kind, p in _TASKS]
        self._kind, match = next(((k, m) for k, m in found if m), (None, None))
        if match is None or room is None:
            raise ValueError(f"no task and room to be read in {observation[:300]!r}")
        self._item, self._target = match.groups()
        self._places = _NAME.findall(room[1])
        self._where: dict[str, str] = {}  # items, by where they were last seen
        self._unseen = self._rank_places()
        self._closed: set[str] = set()
        self._spots: dict[str, int] = {}  # places reached together have one number
        self._spot = -1
        self._held = ""
        self._is_treated = False
        self._goal_place = ""

    def _rank_places(self) -> list[str]:
        """Where to search, the likeliest per turn first."""
        kinds = [place.split()[0] for place in self._places]
        closed = facts.load()["openable"]

        def promise(place: str) -> float:
            kind = place.split()[0]
            turns = 2 if kind in closed else 1
            return facts.weight(kind) / (kinds.count(kind) * turns)

        return sorted(self._places, key=promise, reverse=True)

    def _read(self, observation: str) -> None:
        """Updates what is known from the reply to the last action."""
        verb, _, rest = self._action.partition(" ")
        name = rest.removeprefix("to ")
        if verb == "go" and not observation.startswith("Nothing happens"):
            self._spot = self._spots.setdefault(name, len(self._spots))
        elif verb == "go":  # only a place where one already stands cannot be gone to
            self._spots[name] = self._spot
        elif verb in ("move", "put") and observation.startswith("Nothing happens"):
            self._wordings.reverse()
        if _DONE.match(observation):
            self._remember_deed(verb, rest)
        self._remember_view(verb, name, observation)

    def _remember_deed(self, verb: str, rest: str) -> None:
        item = " ".join(rest.split()[:2])
        if verb == "take":
            self._held = item
            del self._where[item]
        elif verb in ("move", "put"):
            self._where[item] = " ".join(rest.split()[-2:])
            self._held = ""
        else:
            self._is_treated = True

    def _remember_view(self, verb: str, name: str, observation: str) -> None:
        closed = _CLOSED.search(observation)
        if closed:
            self._closed.add(closed[1])
        opened = _OPEN.search(observation)
        view = _VIEW.search(observation)
        if view is None or verb not in ("go", "open", "examine"):
            return
        self._closed.discard(name)
        place = opened[1] if opened else view[1]
        self._unseen = [other for other in self._unseen if other != place]
        for item in _NAME.findall(view[2]):
            self._where[item] = place

    # What it does.

    def _decide(self) -> Step:
        if self._held:
            return self._use_held()
        self._choose_goal_place()
        for item, place in self._where.items():
            if item.split()[0] == self._item and place != self._goal_place:
                return self._reach(place) or (
                    f"Here is the {item}. I take it.",
                    f"take {item} from {place}",
                )
        return self._search(self._item)

    def _use_held(self) -> Step:
        if self._kind == "look":
            for lamp, place in self._where.items():
                if lamp.split()[0] == self._target:
                    thought = f"I hold the {self._held}. I use the {lamp}."
                    return self._reach(place, open_it=False) or (thought, f"use {lamp}")
            return self._search(self._target)
        if self._kind in games.TREATMENTS and not self._is_treated:
            appliance = f"{games.TREATMENTS[self._kind][2]} 1"
            return self._reach(appliance, open_it=False) or (
                f"I {self._kind} the {self._held} with the {appliance}.",
                f"{self._kind} {self._held} with {appliance}",
            )
        self._choose_goal_place()
        verb, preposition = self._wordings[0]
        return self._reach(self._goal_place) or (
            f"The {self._held} belongs here.",
            f"{verb} {self._held} {preposition} {self._goal_place}",
        )

    def _choose_goal_place(self) -> None:
        """Settles where to put things: where one of two already is, or the first."""
        if self._goal_place or self._kind == "look":
            return
        places = [p for p in self._places if p.split()[0] == self._target]
        if self._kind == "two":
            holding = [
                place
                for item, place in self._where.items()
                if item.split()[0] == self._item and place in places
            ]
            self._goal_place = next(iter(holding), "")
        if self._held and not self._goal_place:
            searched = [place for place in places if place not in self._unseen]
            self._goal_place = (searched or places)[-1]

    def _reach(self, place: str, *, open_it: bool = True) -> Step | None:
        """The next step towards having a place at hand, None if it is."""
        if self._spots.get(place) != self._spot:
            return f"I go to the {place}.", f"go to {place}"
        if open_it and place in self._closed:
            return f"The {place} is closed. I open it.", f"open {place}"
        return None

    def _search(self, kind: str) -> Step:
        """The next step of looking for a kind of thing where it may be."""
        for place in self._unseen:
            if not self._may_hold(place, kind):
                continue
            step = self._reach(place)
            if step is None:
                return f"I am at the {place} already.", f"examine {place}"
            if step[1].startswith("go"):
                return f"I look for a {kind}. I try the {place}.", step[1]
            return step
        return f"I do not know where a {kind} could be.", "look"

    def _may_hold(self, place: str, kind: str) -> bool:
        holder = place.split()[0]
        if kind == facts.LAMP:
            return holder in facts.LAMP_STANDS
        if holder == self._target and self._kind == "place":
            return False  # or the task would have been done from the start
        return kind in facts.accepts().get(holder, ())
