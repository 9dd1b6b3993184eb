"""Scripted policies that solve BabyAI tasks."""

import dataclasses
import re

from envs import base, parsing

_THING = re.compile(
    r"There is a (\w+) ((?:open |closed |locked )?)(\w+) (\d+) "
    r"(?:right in front of you (\d+) steps away"
    r"|(\d+) steps in front of you and (\d+) steps to your (left|right))"
)
_PART = re.compile(
    r"(go to|pick up|open|put) (?:the|a) ((?:\w+ )??)(object|ball|box|key|door)"
    r"((?: in front of you| behind you| on your left| on your right)?)"
)


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object as an observation names and places it."""

    label: str  # its name and number, as actions use it
    color: str
    kind: str
    ahead: int
    right: int


@dataclasses.dataclass(frozen=True)
class Goal:
    """One part of a mission."""

    verb: str
    color: str  # empty for any
    kind: str
    place: str

    @property
    def phrase(self) -> str:
        """What to look for, in words."""
        return " ".join(filter(None, (self.color, self.kind)))

    def fits(self, thing: Thing) -> bool:
        """Whether `thing` is of the color and kind asked for."""
        return self.color in ("", thing.color) and self.kind in ("object", thing.kind)


def read_things(observation: str) -> list[Thing]:
    """The objects that an observation tells of, nearest first."""
    things = []
    for match in _THING.finditer(observation):
        color, state, kind, number, straight, ahead, side, hand = match.groups()
        right = int(side or 0) * (-1 if hand == "left" else 1)
        label = f"{color} {state}{kind} {number}"
        things.append(Thing(label, color, kind, int(straight or ahead), right))
    return things


def read_goals(mission: str) -> list[Goal]:
    """The parts of a mission, in the order in which they have to be done."""
    first, _, second = mission.partition(" after you ")
    return [
        Goal(verb, color.strip(), kind, place.strip())
        for text in (second, first)
        for verb, color, kind, place in _PART.findall(text)
    ]


class Observational:
    """Looks around, goes to what the mission names, and tries doors for more."""

    def __init__(self, env: base.Environment):
        del env  # the text is enough
        self._goals: list[Goal] = []
        self._turns = 0  # turns on the spot since the last walk
        self._done = 0

    def act(self, observation: str) -> str:
        """Answers with a short thought and one action."""
        if observation.startswith("Your goal: "):
            self._goals = read_goals(observation.partition("\n")[0])
        things = read_things(observation)
        actions = set(re.findall(r'"([^"]+)"', observation.rpartition("[")[2]))
        goal = self._goals[self._done % len(self._goals)]
        for thing in things:
            if goal.fits(thing):
                return self._pursue(goal, thing)
        return self._search(goal, things, actions)

    def _pursue(self, goal: Goal, thing: Thing) -> str:
        self._turns = 0
        where = f"I see the {thing.label}."
        if goal.verb == "open":
            if (thing.ahead, thing.right) == (1, 0):
                self._done += 1
                return parsing.render_react(f"I face the {thing.label}.", "toggle")
            return parsing.render_react(where, f"go to {thing.label}")
        self._done += 1
        verb = "pickup" if goal.verb == "pick up" else "go to"
        return parsing.render_react(where, f"{verb} {thing.label}")

    def _search(self, goal: Goal, things: list[Thing], actions: set[str]) -> str:
        unseen = f"I do not see the {goal.phrase}."
        if self._turns < 3:
            self._turns += 1
            return parsing.render_react(unseen, "turn right")
        for state, verb in (
            ("closed", "toggle and go through"),
            ("open", "go through"),
        ):
            for thing in things:
                action = f"{verb} {thing.label}"
                if state in thing.label and action in actions:
                    self._turns = 0
                    return parsing.render_react(unseen, action)
        forward = "move forward" in actions and self._turns % 2
        self._turns += 1
        return parsing.render_react(unseen, "move forward" if forward else "turn right")


Privileged = Observational
