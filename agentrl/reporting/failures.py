"""Why episodes failed, read off their transcripts by rules: no model judges anything.

`MEANINGS` says what each tag stands for. An episode can carry several; the first is
the main one: the tag of the act that ended the episode, else the tag of most turns,
else the one that `MEANINGS` lists earlier. Confirmation bias, fabrication and state
inconsistency follow Xi et al. 2026, https://arxiv.org/abs/2603.12011.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

from agentrl import types
from agentrl.reporting import episodes

MEANINGS = {
    "confirmation_bias": "ended the task by its own act without checking what the text "
    "lets one check: bought above the price limit or without a requested option, "
    "answered without a search, focused on the wrong thing",
    "fabrication": "named something that no observation had shown",
    "state_inconsistency": "acted on something the state contradicts: not there any "
    "more, not held, not reachable from here",
    "format_error": "gave an answer without exactly one action in the environment's "
    "format",
    "repeat_loop": "did the same with the same result three times or more",
    "invalid_action": "did what the environment refused, for none of the reasons above",
    "premature_stop": "ended the task by its own act, unsolved, for none of the above",
    "timeout": "reached the limit on turns or tokens",
    "other": "none of these",
}
TAGS = tuple(MEANINGS)
_LOOP = 3  # equal exchanges that make a loop
_NOT_THE_POLICY = (types.Ending.ENV_ERROR, types.Ending.ENV_TIMEOUT)

_Marks = dict[str, set[int]]  # tag -> turns
_Turns = Sequence[episodes.StoredTurn]


def tag(episode: episodes.StoredEpisode) -> episodes.StoredEpisode:
    """The episode with its failure tags filled in."""
    return dataclasses.replace(episode, failures=find_tags(episode))


def find_tags(episode: episodes.StoredEpisode) -> tuple[str, ...]:
    """Failure tags of an episode, the main one first.

    None for a success, and none where the environment itself broke or hung.
    """
    if episode.success or episode.ending in _NOT_THE_POLICY:
        return ()
    marks = _mark_turns(episode)
    last = len(episode.turns) - 1
    by_itself = episode.ending is types.Ending.FAILED
    ended = {t for t in marks if by_itself and last in marks[t]}
    found = sorted(marks, key=lambda t: (t not in ended, -len(marks[t]), TAGS.index(t)))
    if by_itself and not ended:
        return ("premature_stop", *found)
    if episode.ending.truncated:
        return (*found, "timeout")
    return tuple(found) or ("other",)


def read_action(env: str, text: str) -> str | None:
    """The action within an answer; None if it does not hold exactly one.

    Environments other than the known ones are read as ReAct: text after `Action:`.
    """
    text = text.removesuffix("</s>")
    if env == "searchqa":
        found = re.search(r"<(search|answer)>(.*?)</\1>", text, re.DOTALL)
        return f"{found[1]}[{found[2].strip()}]" if found else None
    if env == "webshop" and "Action:" not in text:
        return text.strip() if re.search(r"(search|click)\[", text) else None
    if env not in _LAST_ACTION_COUNTS and text.count("Action:") > 1:
        return None
    _, _, action = text.rpartition("Action:")
    return action.strip() or None if "Action:" in text else None


_LAST_ACTION_COUNTS = ("webshop", "alfworld", "sciworld")


def _mark_turns(episode: episodes.StoredEpisode) -> _Marks:
    marks: _Marks = collections.defaultdict(set)
    results = episode.results()
    exchanges = collections.defaultdict(set)
    for index, (turn, result) in enumerate(zip(episode.turns, results, strict=True)):
        action = read_action(episode.env, turn.action)
        exchanges[action if action is not None else turn.action, result].add(index)
        if not turn.valid:
            marks[_classify_refusal(episode, index, action, result)].add(index)
        elif action is not None and _is_unseen_answer(episode, index, action):
            marks["fabrication"].add(index)
    for repeated in exchanges.values():
        if len(repeated) >= _LOOP:
            marks["repeat_loop"] |= repeated
    check = _HASTY_ENDS.get(episode.env)
    by_itself = episode.ending is types.Ending.FAILED
    if check is not None and by_itself and check(episode.turns):
        marks["confirmation_bias"].add(len(episode.turns) - 1)
    return dict(marks)


def _classify_refusal(
    episode: episodes.StoredEpisode, index: int, action: str | None, result: str
) -> str:
    if action is None:
        return "format_error"
    names = _named_things(episode.env, action)
    if not _shows(episode.env, _seen(episode, index), names):
        return "fabrication"
    if re.match(_CONTRADICTIONS.get(episode.env, r"(?!)"), result):
        return "state_inconsistency"
    current = [episode.turns[index].observation]
    if episode.env in _STATE_IS_SHOWN and not _shows(episode.env, current, names):
        return "state_inconsistency"
    return "invalid_action"


# Refusals that say the state lacks what the action needs.
_CONTRADICTIONS = {
    "textcraft": r"Could not find (?!a valid recipe)",
    "babyai": r"You cannot (?!.*no path)",
}
# Environments whose observation shows all that can be acted on.
_STATE_IS_SHOWN = ("babyai", "webshop", "alfworld")


def _seen(episode: episodes.StoredEpisode, index: int) -> list[str]:
    """Observations up to turn `index`; refusals left out, for they echo the action."""
    turns = episode.turns[: index + 1]
    pairs = itertools.pairwise(turns)
    later = [turn.observation for before, turn in pairs if before.valid]
    return [turns[0].observation, *later]


def _shows(env: str, observations: Sequence[str], names: Sequence[str]) -> bool:
    """Whether all names occur; in a shop's page, each as a whole part of it."""
    if env == "webshop":
        parts = {_normalize(p) for text in observations for p in text.split("[SEP]")}
        return parts.issuperset(names)
    text = _normalize("\n".join(observations))
    return all(name in text for name in names)


def _named_things(env: str, action: str) -> list[str]:
    """What an action names, in the normalised form of `_normalize`."""
    text = _normalize(action)
    if env == "textcraft":
        found = re.match(r"(?:get|craft) \d+ (.+?)(?: using (.+))?$", text)
        if found is None:
            return []
        needed = re.findall(r"\d+ (\D+?)(?= \d|$)", found[2] or "")
        return [found[1], *needed]
    if env == "babyai":
        return re.findall(
            r"^(?:go to|pick ?up|go through|toggle and go through) (.+ \d+)$", text
        )
    if env == "alfworld":
        return re.findall(r"[a-z]+ \d+", text)
    if env == "webshop":
        clicked = re.fullmatch(r"click\[(.+)\]", action.strip().lower())
        return [_normalize(clicked[1])] if clicked else []
    return []


def _is_unseen_answer(episode: episodes.StoredEpisode, index: int, action: str) -> bool:
    answer = re.fullmatch(r"answer\[(.*)\]", action, re.DOTALL)
    if episode.env != "searchqa" or answer is None:
        return False
    return not _shows(episode.env, _seen(episode, index), [_normalize(answer[1])])


def _normalize(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9<>]+", text.lower()))


def _bought_in_haste(turns: _Turns) -> bool:
    """A purchase above the price limit, or without a requested option being chosen."""
    actions = [(read_action("webshop", turn.action) or "").lower() for turn in turns]
    if actions[-1] != "click[buy now]":
        return False
    page = turns[-1].observation
    wanted = re.search(r"Instruction: \[SEP\] (.*?) \[SEP\]", page)
    limit = re.search(r"price lower than ([\d.]+) dollars", page)
    price = re.search(r"Price: \$([\d.,]+)", page)
    if limit and price and _to_number(price[1]) > _to_number(limit[1]):
        return True
    clauses = re.findall(r"(?:with|and) [\w ]+: ([^,]+)", wanted[1] if wanted else "")
    return any(f"click[{value.strip().lower()}]" not in actions for value in clauses)


def _to_number(text: str) -> float:
    return float(text.replace(",", "").strip("."))


def _answered_without_search(turns: _Turns) -> bool:
    actions = [read_action("searchqa", turn.action) or "" for turn in turns]
    return not any(action.startswith("search[") for action in actions)


def _focused_wrongly(turns: _Turns) -> bool:
    return (read_action("sciworld", turns[-1].action) or "").startswith("focus on")


_HASTY_ENDS: dict[str, Callable[[_Turns], bool]] = {
    "webshop": _bought_in_haste,
    "searchqa": _answered_without_search,
    "sciworld": _focused_wrongly,
}
