"""What a transcript of AlfWorld shows of its state: place, hand, doors and contents.

AlfWorld refuses every command with the same words ("Nothing happens."). Which refusals
contradict what the agent could know is told by replaying the accepted commands.
"""

import re

from agentrl.transcripts import actions

_LISTED = re.compile(
    r"(?:On the (?P<on>[a-z]+ \d+)|The (?P<closed>[a-z]+ \d+) is open\. In it), "
    r"you see (?P<items>[^.]*)\."
)
_DOOR = re.compile(r"The ([a-z]+ \d+) is (open|closed)\.")
_THING = re.compile(r"[a-z]+ \d+")


class Household:
    """The state as far as a transcript shows it; what is unknown contradicts nothing."""

    def __init__(self, first_observation: str):
        """Starts at the first observation of an episode."""
        # "" is the middle of the room, where nothing can be reached; None is unknown.
        in_the_middle = "in the middle of a room" in first_observation
        self._place: str | None = "" if in_the_middle else None
        self._held: str | None = None
        self._open: dict[str, bool] = {}
        self._contents: dict[str, set[str]] = {}
        self._read(first_observation)

    def accept(self, action: str, result: str) -> None:
        """Takes in a command that was carried out, and what was answered."""
        verb, first, second = _split(action)
        if verb == "go to":
            self._place = first
        elif verb in ("open", "close"):
            self._open[first] = verb == "open"
        elif verb == "take":
            self._held = first
            self._contents.get(second, set()).discard(first)
        elif verb in ("put", "move"):
            self._held = None
            if second in self._contents:
                self._contents[second].add(first)
        self._read(result)

    def contradicts(self, action: str) -> bool:
        """Whether a refused command goes against what the transcript shows."""
        verb, first, second = _split(action)
        if verb == "go to":
            return self._place == first
        if verb in ("open", "close"):
            done = self._open.get(first)
            return self._is_away(first) or done is (verb == "open")
        if verb == "take":
            listed = self._contents.get(second)
            gone = listed is not None and first not in listed
            return self._held is not None or gone or not self._can_reach(second)
        if verb in ("put", "move"):
            return self._held != first or not self._can_reach(second)
        if verb in ("heat", "cool", "clean"):
            return self._held != first or self._is_away(second)
        if verb == "slice":
            return self._held != second
        if verb == "use":
            listed = self._contents.get(self._place or "")
            return self._place == "" or (listed is not None and first not in listed)
        return False

    def _is_away(self, place: str) -> bool:
        return self._place is not None and self._place != place

    def _can_reach(self, place: str) -> bool:
        return not self._is_away(place) and self._open.get(place, True)

    def _read(self, text: str) -> None:
        for place, state in _DOOR.findall(text):
            self._open[place] = state == "open"
        for found in _LISTED.finditer(text):
            place = found["on"] or found["closed"]
            self._contents[place] = set(_THING.findall(found["items"]))


def _split(action: str) -> tuple[str, str, str]:
    found = actions.HOUSEHOLD.fullmatch(" ".join(action.lower().split()))
    if found is None:
        return "", "", ""
    return found["verb"], found["first"], found["second"] or ""
