"""Confirmation bias, environment by environment: acts on a belief left unchecked.

Each rule finds the turn of an act of the policy's own that the text in front of it speaks
against, or that it could have checked and did not. Xi et al. 2026,
https://arxiv.org/abs/2603.12011, describe the kind; the rules are ours. TextCraft has no
such act: nothing that a policy does there ends the task or claims that it is done.
"""

import itertools
import re
from collections.abc import Callable

from agentrl import types
from agentrl.transcripts import actions, episodes

_Rule = Callable[[episodes.StoredEpisode], int | None]
PLAIN_ANSWERS = ("yes", "no")  # no passage has to hold them
_TEXTS_OF_PRODUCTS = ("description", "features")  # of WebShop
_NOTICES = ("No change in state.",)  # of BabyAI: the scene is as before


def find(episode: episodes.StoredEpisode) -> int | None:
    """The turn of the unchecked act; None if there is none, or no rule for it."""
    rule = _RULES.get(episode.env)
    return rule(episode) if rule is not None and episode.turns else None


def is_detectable(env: str) -> bool:
    """Whether there is a rule for an environment."""
    return env in _RULES


def _ended(rule: Callable[[episodes.StoredEpisode], bool]) -> _Rule:
    """A rule about the act that ended the episode."""

    def find_end(episode: episodes.StoredEpisode) -> int | None:
        by_itself = episode.ending is types.Ending.FAILED
        return len(episode.turns) - 1 if by_itself and rule(episode) else None

    return find_end


def _bought_in_haste(episode: episodes.StoredEpisode) -> bool:
    """A failed purchase that what the shop shows speaks against, or that was not checked.

    It was above the price limit, or a requested option was not chosen (a click that was
    refused chooses nothing), or nothing was read of the product but its title: with the
    price and the options right, its kind or an attribute was not.
    """
    clicks = [
        (actions.read_action("webshop", turn.action) or "").lower()
        for turn in episode.turns
        if turn.valid
    ]
    if not clicks or clicks[-1] != "click[buy now]":
        return False
    page = episode.turns[-1].observation
    limit = re.search(r"price lower than ([\d.]+) dollars", page)
    price = re.search(r"Price: \$([\d.,]+)", page)
    if limit and price and _to_number(price[1]) > _to_number(limit[1]):
        return True
    if any(f"click[{value}]" not in clicks for value in read_options(page)):
        return True
    return not any(f"click[{part}]" in clicks for part in _TEXTS_OF_PRODUCTS)


def read_options(page: str) -> list[str]:
    """Option values that a shop's page is asked for; they may themselves hold commas.

    "Find me cables with plug with color: navy, wide, and size: large, and price lower
    than 20.00 dollars" asks for "navy, wide" and "large".
    """
    wanted = re.search(r"Instruction: \[SEP\] (.*?) \[SEP\]", page)
    text = re.sub(r",? and price lower than .*$", "", wanted[1]) if wanted else ""
    parts = re.split(r"(?:^|,? )(?:with|and) (?=[\w ]+: )", text)[1:]
    named = [part.partition(": ") for part in parts]
    return [value.strip().lower() for _, colon, value in named if colon]


def _to_number(text: str) -> float:
    return float(text.replace(",", "").strip("."))


def _answered_unread(episode: episodes.StoredEpisode) -> bool:
    """An answer without a search, or one that only repeats the question.

    What a search for the question's words finds mostly holds these words, so a passage
    that shows the answer is no excuse, unless the question may offer a choice ("A or B",
    "of A and B"). Not where the policy wrote `<information>` itself: that is fabrication.
    """
    if any("<information>" in turn.action for turn in episode.turns):
        return False
    read = [
        actions.read_action("searchqa", turn.action) or "" for turn in episode.turns
    ]
    if not any(action.startswith("search[") for action in read):
        return True
    answer = actions.normalize(read[-1].removeprefix("answer[").removesuffix("]"))
    question, passages = _read_question(episode), episode.turns[1:]
    repeats = actions.shows("searchqa", [question], [answer])
    if answer in PLAIN_ANSWERS or not repeats:
        return False
    return not re.search(r"\b(and|or)\b", question) or not actions.shows(
        "searchqa", [turn.observation for turn in passages], [answer]
    )


def _read_question(episode: episodes.StoredEpisode) -> str:
    """Without the rules that AgentGym's form of the environment puts before it."""
    return episode.turns[0].observation.rpartition("Question:")[2]


def _focused_wrongly(episode: episodes.StoredEpisode) -> bool:
    last = actions.read_action("sciworld", episode.turns[-1].action) or ""
    return last.startswith("focus on")


def _placed_another_kind(episode: episodes.StoredEpisode) -> int | None:
    """AlfWorld: an object of a kind that the task does not name, put where it asks."""
    task = re.search(r"Your task is to: (.*)", episode.turns[0].observation)
    words = actions.normalize(task[1]).split() if task else []
    for index, turn in enumerate(episode.turns):
        action = " ".join((actions.read_action("alfworld", turn.action) or "").split())
        found = actions.HOUSEHOLD.fullmatch(action.lower())
        if not (turn.valid and found and found["verb"] in ("put", "move")):
            continue
        item, place = (
            (found[name] or "").rpartition(" ")[0] for name in ("first", "second")
        )
        if place in words and item not in words:
            return index
    return None


_OBJECT = re.compile(
    r"(?:(?P<color>red|green|blue|purple|yellow|grey) )?(?P<kind>box|ball|key|object)\b"
)


def _took_another(episode: episodes.StoredEpisode) -> int | None:
    """BabyAI: what it last picked up, or went to, contradicts the goal.

    Going to a thing counts only while one that fits the goal is in sight: else it may be
    the way to see more. Keys do not count where a locked door was seen.
    """
    goal = re.search(r"Your goal: (.*)", episode.turns[0].observation)
    wanted = [m.groupdict() for m in _OBJECT.finditer(goal[1])] if goal else []
    if not wanted:
        return None
    locked = any("locked" in turn.observation for turn in episode.turns)
    for index in reversed(range(len(episode.turns))):
        turn = episode.turns[index]
        action = actions.normalize(
            actions.read_action("babyai", turn.action) or ""
        ).replace("pick up", "pickup")
        thing = _OBJECT.search(action)
        verb = action.split(" ")[0]
        if not turn.valid or thing is None or verb not in ("pickup", "go"):
            continue
        if _fits(thing.groupdict(), wanted) or (locked and thing["kind"] == "key"):
            return None
        in_sight = [m.groupdict() for m in _OBJECT.finditer(find_view(episode, index))]
        if verb == "pickup" or any(_fits(other, wanted) for other in in_sight):
            return index
    return None


def _fits(thing: dict[str, str | None], wanted: list[dict[str, str | None]]) -> bool:
    return any(
        goal["kind"] in ("object", thing["kind"])
        and goal["color"] in (None, thing["color"])
        for goal in wanted
    )


def find_view(episode: episodes.StoredEpisode, index: int) -> str:
    """What was last shown before turn `index`, without the goal and lists of actions.

    Refusals show nothing, nor do notices that nothing has changed.
    """
    turns = episode.turns[: index + 1]
    shown = [turns[0].observation]
    for before, turn in itertools.pairwise(turns):
        if before.valid and turn.observation not in _NOTICES:
            shown.append(turn.observation)
    seen = re.sub(r"Your goal: .*", "", shown[-1])
    return seen.partition("Available actions:")[0]


_RULES: dict[str, _Rule] = {
    "webshop": _ended(_bought_in_haste),
    "searchqa": _ended(_answered_unread),
    "sciworld": _ended(_focused_wrongly),
    "alfworld": _placed_another_kind,
    "babyai": _took_another,
}
