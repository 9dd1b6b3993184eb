"""Reads games from the texts of upstream's `game.tw-pddl` files.

Such a file holds a PDDL domain, a PDDL problem and a grammar for the replies. The
domain is always ALFWorld's, see `agentrl.envs.alfworld.world`; the problem says what the room
holds and what the goal is; of the grammar, the task's sentence and the wording matter.
"""  # noqa: E501

import collections
import json
import re
from collections.abc import Mapping, Sequence

from agentrl.envs.alfworld import games

_COMMENT = re.compile(r";[^\n]*")
_DISTANCE = re.compile(r"\(=\s*\(distance[^()]*\)[^()]*\)")  # most of a real file
_TOKEN = re.compile(r"[()]|[^\s()]+")
_TASK = re.compile(r'"(Your task is to: (?:[^"\\]|\\.)*)"')

# Facts by what the engine does with them. Others are refused, as they might matter.
TRAITS = {
    "pickupable": "pickupable",
    "heatable": "heatable",
    "coolable": "coolable",
    "cleanable": "cleanable",
    "sliceable": "sliceable",
    "toggleable": "toggleable",
    "isreceptacleobject": "container",
}
_STATES = {
    "ishot": "hot",
    "iscool": "cool",
    "isclean": "clean",
    "issliced": "sliced",
    "istoggled": "toggled",
}
_STRUCTURE = {
    "atlocation",
    "receptacleatlocation",
    "objectatlocation",
    "openable",
    "opened",
    "inreceptacle",
    "inreceptacleobject",
    "receptacletype",
    "objecttype",
    "cancontain",
}
_WITHOUT_EFFECT = {  # on commands, replies and the six kinds of goals
    "=",
    "checked",
    "examined",
    "full",
    "isreceptacleobjectfull",
    "ison",
    "moveable",
    "wasinreceptacle",
}

Expression = list  # of words and further expressions
Facts = Mapping[str, Sequence[tuple[str, ...]]]  # arguments by predicate


class ProblemError(ValueError):
    """A game that the rules here do not cover, or text that is no game."""


def read_game(problem: str, grammar: str, domain: str) -> games.Game:
    """Reads a game from the texts of a game file.

    Raises:
      ProblemError: saying what is not understood.
    """
    sections = {s[0]: s[1:] for s in _parse(problem) if isinstance(s, list) and s}
    for name in (":init", ":goal"):
        if name not in sections:
            raise ProblemError(f"the PDDL problem has no ({name} ...)")
    facts = _read_facts(sections[":init"])
    kind, item, target = _read_goal(sections[":goal"])
    goal = games.Goal(kind, item, target, _read_task(grammar))
    return _build(facts, goal, _read_wording(grammar, domain))


# PDDL.


def _parse(text: str) -> Expression:
    """The nested lists of one PDDL expression, in lower case."""
    text = _DISTANCE.sub("", _COMMENT.sub("", text.lower()))
    stack: list[Expression] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token != ")":
            stack[-1].append(token)
        elif len(stack) == 1:
            raise ProblemError("the PDDL problem closes a bracket too many")
        else:
            closed = stack.pop()
            stack[-1].append(closed)
    if len(stack) != 1 or len(stack[0]) != 1 or not isinstance(stack[0][0], list):
        raise ProblemError("the PDDL problem is not one bracketed expression")
    return stack[0][0]


def _read_facts(init: Expression) -> Facts:
    facts: dict[str, list[tuple[str, ...]]] = collections.defaultdict(list)
    for fact in init:
        if fact[0] == "=":
            continue
        if fact[0] not in {*TRAITS, *_STATES, *_STRUCTURE, *_WITHOUT_EFFECT}:
            raise ProblemError(
                f"the fact {fact} is not among those ALFWorld starts with"
            )
        facts[fact[0]].append(tuple(fact[1:]))
    if len(facts["atlocation"]) != 1:
        raise ProblemError(
            f"the agent is at {len(facts['atlocation'])} locations, not 1"
        )
    return facts


def _read_goal(section: Expression) -> tuple[games.GoalKind, str, str]:
    """Recognizes one of the six goals by the facts that it combines."""
    atoms = list(_find_atoms(section[0]))
    predicates = {atom[0] for atom in atoms}
    kinds = {atom[1]: _kind(atom[2]) for atom in atoms if atom[0] == "objecttype"}
    targets = {_kind(atom[2]) for atom in atoms if atom[0] == "receptacletype"}
    for kind, needed in _GOALS.items():
        if predicates != needed:
            continue
        if kind == "look":
            (held,) = (atom[2] for atom in atoms if atom[0] == "holds")
            (lamp,) = (atom[1] for atom in atoms if atom[0] == "istoggled")
            return kind, kinds[held], kinds[lamp]
        if len(set(kinds.values())) == len(targets) == 1:
            return kind, next(iter(kinds.values())), next(iter(targets))
    raise ProblemError(
        f"the goal is of none of the six types; it asks {sorted(predicates)}"
    )


_PLACED = {"inreceptacle", "objecttype", "receptacletype"}
_GOALS: Mapping[games.GoalKind, set[str]] = {
    "place": _PLACED,
    "clean": _PLACED | {"cleanable", "isclean"},
    "heat": _PLACED | {"heatable", "ishot"},
    "cool": _PLACED | {"coolable", "iscool"},
    "two": _PLACED | {"distinct"},
    "look": {
        "objecttype",
        "toggleable",
        "istoggled",
        "receptacleatlocation",
        "atlocation",
        "inreceptacle",
        "holds",
    },
}


def _find_atoms(expression: Expression) -> list[Expression]:
    """The atoms of a conjunction with existential quantifiers."""
    head = expression[0]
    if head == "and":
        return [atom for part in expression[1:] for atom in _find_atoms(part)]
    if head == "exists":
        return _find_atoms(expression[2])
    if head == "not" and expression[1][0] == "=":
        return [["distinct", *expression[1][1:]]]
    if head in ("not", "or", "forall", "imply", "when"):
        raise ProblemError(
            f"the goal holds a '{head}', which none of the six types does"
        )
    return [expression]


def _kind(word: str) -> str:
    return word.removesuffix("type")


# The grammar.


def _read_task(grammar: str) -> str:
    found = _TASK.search(grammar)
    if found is None:
        raise ProblemError("the grammar has no 'Your task is to: ...'")
    text = json.loads(f'"{found[1]}"').removeprefix("Your task is to: ")
    return text.removesuffix(".")


def _read_wording(grammar: str, domain: str) -> games.Wording:
    puts = [w.put for w in (games.MOVE, games.PUT) if _command(w.put) in grammar]
    if len(puts) != 1:
        raise ProblemError("the grammar's command for putting things down is not known")
    return games.Wording(
        put=puts[0],
        names_arrival="You arrive at {r.name}." in grammar,
        has_help="(:action help" in domain and "action help {" in grammar,
    )


def _command(put: tuple[str, str]) -> str:
    return f'"{put[0]} {{o}} {put[1]} {{r}}"'


# The game.


def _build(facts: Facts, goal: games.Goal, wording: games.Wording) -> games.Game:
    names = _display_names(facts)
    at = _pairs(facts, "receptacleatlocation")
    (start,) = _pairs(facts, "atlocation").values()
    locations = {name: i for i, name in enumerate(sorted({start, *at.values()}))}
    places = {name: i for i, name in enumerate(sorted(at))}
    openable = _names(facts, "openable")
    holder_kinds = _pairs(facts, "receptacletype")
    item_kinds = _pairs(facts, "objecttype")
    items = {name: i for i, name in enumerate(sorted(item_kinds))}
    traits = {name: _find_traits(facts, name) for name in items}
    return games.Game(
        goal=goal,
        wording=wording,
        receptacles=tuple(
            games.Receptacle(
                name=names[name],
                kind=_kind(holder_kinds.get(name, "")),
                location=locations[at[name]],
                openable=name in openable,
            )
            for name in places
        ),
        items=tuple(
            games.Item(names[name], _kind(item_kinds[name]), traits[name])
            for name in items
        ),
        contents=_group(facts["inreceptacle"], items, places),
        item_locations=frozenset(
            (items[name], locations[location])
            for name, location in facts["objectatlocation"]
            if name in items and location in locations
        ),
        accepts=_read_accepts(facts),
        start=locations[start],
        opened=frozenset(
            places[name] for name in _names(facts, "opened") & places.keys()
        ),
        states=frozenset(
            (state, items[name])
            for predicate, state in _STATES.items()
            for name in _names(facts, predicate)
        ),
        nested=dict(enumerate(_group(facts["inreceptacleobject"], items, items))),
    )


def _names(facts: Facts, predicate: str) -> set[str]:
    return {name for (name,) in facts[predicate]}


def _pairs(facts: Facts, predicate: str) -> dict[str, str]:
    return {row[0]: row[1] for row in facts[predicate]}


def _find_traits(facts: Facts, name: str) -> frozenset[str]:
    return frozenset(t for p, t in TRAITS.items() if (name,) in facts[p])


def _read_accepts(facts: Facts) -> Mapping[str, frozenset[str]]:
    accepts = collections.defaultdict(set)
    for holder, kind in facts["cancontain"]:
        accepts[_kind(holder)].add(_kind(kind))
    return {holder: frozenset(kinds) for holder, kinds in accepts.items()}


def _group(
    rows: Sequence[tuple[str, ...]],
    items: Mapping[str, int],
    holders: Mapping[str, int],
) -> tuple[tuple[int, ...], ...]:
    """The items of each holder; a holder that no location leads to is left out."""
    groups: list[set[int]] = [set() for _ in holders]
    for item, holder in rows:
        if holder in holders:
            groups[holders[holder]].add(items[item])
    return tuple(tuple(sorted(group)) for group in groups)


def _display_names(facts: Facts) -> Mapping[str, str]:
    """Names as shown: what precedes the first bar, numbered downwards by identifier."""
    found = {name for rows in facts.values() for row in rows for name in row}
    groups = collections.defaultdict(list)
    for name in sorted(found):
        kind, bar, _ = name.partition("_bar_")
        if bar:
            groups[kind + "basin" * ("basin" in name)].append(name)
    return {
        name: f"{kind} {len(members) - i}"
        for kind, members in groups.items()
        for i, name in enumerate(members)
    }
