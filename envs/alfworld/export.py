"""Writes a game as a PDDL problem, so that the original engine can play it.

`problem.read_game` reads the result back; the verifier plays it in TextWorld.
"""

from collections.abc import Iterator

from agentrl.envs.alfworld import games, problem

_LOOK = """\
(and (exists (?t - object ?r - receptacle ?a - agent ?l - location)
  (and (objecttype ?t {target}type) (toggleable ?t) (istoggled ?t)
       (receptacleatlocation ?r ?l) (atlocation ?a ?l) (inreceptacle ?t ?r)))
 (exists (?o - object ?a - agent)
  (and (objecttype ?o {item}type) (holds ?a ?o))))"""
_PLACED = """\
(exists (?r - receptacle ?o - object)
 (and (objecttype ?o {item}type) (receptacletype ?r {target}type)
      (inreceptacle ?o ?r) {more}))"""
_SECOND = """\
(exists (?p - object)
 (and (not (= ?o ?p)) (objecttype ?p {item}type) (inreceptacle ?p ?r)))"""


def write_problem(game: games.Game) -> str:
    """The PDDL problem of a game that starts with everything closed and untreated."""
    objects = "\n".join(f"  {line}" for line in _objects(game))
    init = "\n".join(f"  ({line})" for line in _facts(game))
    return (
        "(define (problem generated)\n (:domain alfred)\n"
        f" (:objects\n{objects})\n (:init\n{init})\n (:goal {_goal(game.goal)}))\n"
    )


def _objects(game: games.Game) -> Iterator[str]:
    yield "agent1 - agent"
    for location in sorted({game.start, *game.places}):
        yield f"loc_bar_{location} - location"
    for receptacle in game.receptacles:
        yield f"{_identify(receptacle.name, game)} - receptacle"
    for item in game.items:
        yield f"{_identify(item.name, game)} - object"
    named_by_domain = {appliance for _, _, appliance in games.TREATMENTS.values()}
    for kind in sorted(named_by_domain | {r.kind for r in game.receptacles}):
        yield f"{kind}type - rtype"
    for kind in sorted({"knife", "butterknife", game.goal.item} | _item_kinds(game)):
        yield f"{kind}type - otype"


def _facts(game: games.Game) -> Iterator[str]:
    yield f"atlocation agent1 loc_bar_{game.start}"
    for receptacle, held in zip(game.receptacles, game.contents, strict=True):
        name = _identify(receptacle.name, game)
        yield f"receptacletype {name} {receptacle.kind}type"
        yield f"receptacleatlocation {name} loc_bar_{receptacle.location}"
        if receptacle.openable:
            yield f"openable {name}"
        for item in held:
            inside = _identify(game.items[item].name, game)
            yield f"inreceptacle {inside} {name}"
            yield f"objectatlocation {inside} loc_bar_{receptacle.location}"
    for item in game.items:
        name = _identify(item.name, game)
        yield f"objecttype {name} {item.kind}type"
        for predicate, trait in problem.TRAITS.items():
            if trait in item.traits:
                yield f"{predicate} {name}"
    for holder in sorted({r.kind for r in game.receptacles}):
        for kind in sorted(game.accepts.get(holder, frozenset()) & _item_kinds(game)):
            yield f"cancontain {holder}type {kind}type"


def _item_kinds(game: games.Game) -> set[str]:
    return {item.kind for item in game.items}


def _identify(name: str, game: games.Game) -> str:
    """An identifier that upstream shows as `name`; see `game.sort_key`."""
    kind, number = name.split()
    names = (*game.receptacle_index, *game.item_index)
    count = sum(other.split()[0] == kind for other in names)
    rank = f"_bar_{count - int(number):02d}"
    if kind.endswith("basin"):
        return f"{kind.removesuffix('basin')}{rank}_bar_{kind}"
    return kind + rank


def _goal(goal: games.Goal) -> str:
    if goal.kind == "look":
        return _LOOK.format(item=goal.item, target=goal.target)
    more = ""
    if goal.kind == "two":
        more = _SECOND.format(item=goal.item)
    elif goal.kind != "place":
        trait, state, _ = games.TREATMENTS[goal.kind]
        more = f"({trait} ?o) (is{state} ?o)"
    return _PLACED.format(item=goal.item, target=goal.target, more=more)
