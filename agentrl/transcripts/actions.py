"""Answers as failure tags read them: the action, its grammar, and the things it names."""

import functools
import re
from collections.abc import Iterable, Sequence

from agentrl.envs import base, registry

_LAST_ACTION_COUNTS = ("webshop", "alfworld", "sciworld")
# Commands of AlfWorld with the things they are about.
HOUSEHOLD = re.compile(
    r"(?P<verb>go to|open|close|examine|use|take|put|move|heat|cool|clean|slice) "
    r"(?P<first>.+?)(?: (?:from|to|in/on|in|on|with) (?P<second>.+))?"
)
_SHOPPING = re.compile(r"(?:search|click)\[[^\[\]\n]*\]")
_WORD = r"(?![a-z])"  # what follows a verb, so that `get` is not found in `getting`


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
    _, colon, action = text.rpartition("Action:")
    action = action.strip()
    if not colon or (env == "webshop" and not _SHOPPING.match(action)):
        return None
    return action or None


def is_foreign(env: str, text: str) -> bool:
    """Whether an answer is in the grammar of another environment, and not in its own.

    A verb counts where the action begins, a mark such as `click[` anywhere in the answer.
    Of an environment that exports no verbs, nothing is known: False.
    """
    own = verbs_of(env)
    if not own or text.count("Action:") > 1:
        return False
    others = {verb for name in registry.names() for verb in verbs_of(name)}
    # "go toward" is a garbled "go to", though another environment has a plain `go`.
    own_words = {*own, *(verb.split()[0] for verb in own)}
    return _uses(text, others - own_words) and not _uses(text, own)


@functools.cache
def verbs_of(env: str) -> tuple[str, ...]:
    """`EnvSpec.verbs` of an environment; none if it is not registered here."""
    try:
        return registry.get_spec(env).verbs
    except base.EnvConfigError:
        return ()


def _uses(text: str, verbs: Iterable[str]) -> bool:
    text = text.lower()
    action = text.rpartition("action:")[2].strip()
    return any(
        bool(re.match(re.escape(verb) + _WORD, action))
        if verb[0].isalpha() and verb[-1].isalpha()
        else verb in text
        for verb in verbs
    )


def named_things(env: str, action: str) -> list[str]:
    """What an action names, in the form of `normalize`; empty where that is not known."""
    if env == "webshop":
        clicked = re.fullmatch(r"click\[(.+)\]", action.strip().lower())
        return [normalize(clicked[1])] if clicked else []
    reader = _READERS.get(env)
    names = reader(" ".join(action.lower().split())) if reader is not None else []
    return [name for name in map(normalize, names) if name]


def _read_textcraft(action: str) -> list[str]:
    """All things of a `get` or `craft`, their counts left out, however these are written.

    Counts may be missing or garbled ("4ia planks"); what begins with a digit is none of
    the name.
    """
    found = re.match(r"(?:get|craft)\b(.*)", action)
    if found is None:
        return []
    parts = re.split(r",|\busing\b", found[1])
    return [re.sub(r"^\s*(?:\d\S*\s*)+", "", part) for part in parts]


def _read_babyai(action: str) -> list[str]:
    found = re.match(
        r"(?:go to|pick ?up|go through|toggle and go through) (?:the |an? )?(.+)",
        action,
    )
    return [found[1]] if found else []


def _read_alfworld(action: str) -> list[str]:
    found = HOUSEHOLD.fullmatch(action)
    if found is None:
        return re.findall(r"[a-z]+ \d+", action)
    return [name for name in (found["first"], found["second"]) if name]


_READERS = {
    "textcraft": _read_textcraft,
    "babyai": _read_babyai,
    "alfworld": _read_alfworld,
}


def names_are_known(env: str) -> bool:
    """Whether the things that an action or an answer names can be told."""
    return env in (*_READERS, "webshop", "searchqa")


def normalize(text: str) -> str:
    """Lower-case words and numbers, one blank between them."""
    return " ".join(re.findall(r"[a-z0-9<>]+", text.lower()))


def shows(env: str, observations: Sequence[str], names: Sequence[str]) -> bool:
    """Whether all names occur in whole words; in a shop's page, each as a whole part."""
    if env == "webshop":
        parts = {normalize(p) for text in observations for p in text.split("[SEP]")}
        return parts.issuperset(names)
    # What ends one observation and begins the next is no name: " | " keeps them apart.
    text = f" {' | '.join(map(normalize, observations))} "
    return all(f" {name} " in text for name in names)
