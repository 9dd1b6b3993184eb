"""Our AlfWorld engine against the original: alfworld and TextWorld, word for word.

Needs the extra `[alfworld]` and some minutes:

    pytest -m slow -s tests/parity/test_alfworld_real.py

Games are written as PDDL, given to TextWorld with the domain and grammar of the
alfworld package, and played in both engines at once: random walks over possible and
impossible commands, then a plan that wins. Compared at each step are the reply, the
admissible commands and whether the game is won.
"""

import collections
import importlib.util
import json
import pathlib
import random
import re

import pytest

from agentrl.envs import base, parsing, registry
from agentrl.envs.alfworld import export, games, generate, plan

INSTALLED = all(importlib.util.find_spec(name) for name in ("alfworld", "textworld"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the packages we compare with
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not INSTALLED, reason="needs the extra [alfworld]"),
]

GAMES_PER_TYPE = 4
WALK = 84  # random steps per game
FAVOURED = {"take": 4, "move": 4, "put": 4, "look": 2}  # 1 for the other verbs
IMPOSSIBLE = (
    "go to moon 1",
    "take apple 9 from fridge 1",
    "open bed 1",
    "use desklamp 7",
    "put apple 1",
    "LOOK",
    "xyzzy",
)
OLD_WORDS = (  # what alfworld 0.3 said instead
    ("You arrive at {r.name}.", "You arrive at {lend.name}."),
    ('"move {o} to {r}"', '"put {o} in/on {r}"'),
    (
        "You move the {o.name} to the {r.name}.",
        "You put the {o.name} in/on the {r.name}.",
    ),
)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A function that loads a game in TextWorld, and what the package ships."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(tmp_path_factory.mktemp("alfworld")))
        import alfworld.info
        import textworld
        from alfworld.agents.environment import alfred_tw_env
        from textworld.envs import PddlEnv

        def load(texts):
            infos = textworld.EnvInfos(won=True, admissible_commands=True)
            engine = alfred_tw_env.AlfredDemangler(PddlEnv(infos))
            engine.load(texts)
            return engine

        load.domain = pathlib.Path(alfworld.info.ALFRED_PDDL_PATH).read_text()
        load.grammar = pathlib.Path(alfworld.info.ALFRED_TWL2_PATH).read_text()
        yield load


@pytest.fixture(scope="module")
def counts():
    """What was compared, printed at the end."""
    compared = collections.Counter()
    yield compared
    print("\n" + ", ".join(f"{what} {n}" for what, n in sorted(compared.items())))


def make_texts(game, real):
    """A game file like upstream's, in the wording of the game."""
    domain, grammar = real.domain, real.grammar
    if game.wording == games.PUT:
        for new, old in OLD_WORDS:
            assert new in grammar
            grammar = grammar.replace(new, old)
        grammar = grammar.partition("action help {")[0]
        domain = domain.partition("(:action help")[0] + ")"
    return {
        "pddl_problem": export.write_problem(game),
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", game.goal.text),
    }


def add_odd_facts(problem, rng):
    """Facts that generated games lack and upstream's may have."""
    head, _, init = problem.partition("(:init")
    places = re.findall(r"receptacleatlocation (\w+) (\w+)\)", init)
    items = re.findall(r"objecttype (\w+) ", init)
    facts = [f"opened {name}" for name in re.findall(r"openable (\w+)\)", init)[::3]]
    for outer in re.findall(r"isreceptacleobject (\w+)\)", init)[:3]:
        for inner in rng.sample(items, 2):
            facts += [f"inreceptacleobject {inner} {outer}"] * (inner != outer)
    for item in rng.sample(items, 10):
        place, location = rng.choice(places)
        facts.append(
            rng.choice(
                (
                    f"inreceptacle {item} {place}",
                    f"objectatlocation {item} {location}",
                    *(f"is{s} {item}" for s in ("hot", "cool", "clean", "sliced")),
                )
            )
        )
    return f"{head}(:init {' '.join(f'({fact})' for fact in facts)} {init}"


def as_shown_by_agentgym(text):
    """AgentGym's server takes away where one arrives."""
    return text.partition(". ")[2] if text.startswith("You arrive at loc ") else text


def choose(rng, env):
    """A command that makes much happen, rather than one `go to` after the other."""
    if rng.random() < 0.1:
        return rng.choice(IMPOSSIBLE)
    by_verb = collections.defaultdict(list)
    for command in env.available_actions():
        by_verb[command.split()[0]].append(command)
    verbs = sorted(by_verb)
    (verb,) = rng.choices(verbs, [FAVOURED.get(verb, 1) for verb in verbs])
    commands = by_verb[verb]
    if verb == "go" and rng.random() < 0.5:  # where several receptacles are, if any
        index, places = env.game.receptacle_index, env.game.places
        locations = [
            env.game.receptacles[index[c.removeprefix("go to ")]].location
            for c in commands
        ]
        pairs = zip(commands, locations, strict=True)
        commands = [c for c, at in pairs if len(places[at]) > 1] or commands
    return rng.choice(commands)


def find_tasks(kind):
    """Numbers of some tasks of a type, of all splits."""
    kinds = (
        (i, generate.generate(i, games.MOVE).goal.kind) for i in range(0, 2754, 19)
    )
    return [index for index, found in kinds if found == kind][::3][:GAMES_PER_TYPE]


def make_env(profile="strict", **options):
    config = base.EnvConfig(
        profile=profile, list_actions="never", max_turns=10_000, options=options
    )
    return registry.make("alfworld", config)


def compare(env, item_id, engine, counts, script):
    """Plays commands in both engines; None in a script stands for a random one."""
    expected = engine.reset()
    assert env.reset(item_id) == "\n".join(expected.feedback.split("\n\n")[1:])
    assert env.available_actions() == expected.admissible_commands
    rng = random.Random(item_id)
    played = []
    for command in script:
        played.append(command or choose(rng, env))
        expected, _, done = engine.step(played[-1])
        result = env.step(parsing.render_react("", played[-1]))
        assert result.observation == as_shown_by_agentgym(expected.feedback), played
        assert result.terminated == expected.won == done, played
        counts["steps"] += 1
        counts[f"steps of {env.game.goal.kind}"] += 1
        counts["refused"] += not result.info.valid_action
        counts["next to it"] += "Next to it, you see a" in result.observation
        if done:
            counts["games won"] += 1
            return
        assert env.available_actions() == expected.admissible_commands, played


@pytest.mark.parametrize("kind", games.TASK_TYPES)
def test_both_engines_say_the_same(kind, real, counts):
    for number, index in enumerate(find_tasks(kind)):
        env = make_env(profile=base.PROFILES[number % 2])
        item_id = f"alfworld_{index}"
        env.reset(item_id)
        engine = real(make_texts(env.game, real))
        compare(env, item_id, engine, counts, [None] * WALK)
        before = counts["games won"]
        compare(env, item_id, engine, counts, plan.find_plan(env.game))
        assert counts["games won"] == before + 1


@pytest.mark.parametrize("index", [2, 4, 7, 8])
def test_files_with_odd_facts_are_played_the_same(index, real, counts, tmp_path):
    wording = (games.MOVE, games.PUT)[index % 2]
    texts = make_texts(generate.generate(index, wording), real)
    texts["pddl_problem"] = add_odd_facts(texts["pddl_problem"], random.Random(index))
    folder = tmp_path / "json_2.1.1" / "train" / "odd" / "trial"
    folder.mkdir(parents=True)
    (folder / "game.tw-pddl").write_text(json.dumps(texts | {"solvable": True}))
    env = make_env(data_dir=str(tmp_path))
    compare(env, "alfworld_0", real(texts), counts, [None] * WALK)


def test_enough_was_compared(counts):
    kinds = [counts[f"steps of {kind}"] for kind in games.TASK_TYPES]
    assert counts["steps"] >= 2000 and min(kinds) >= 200
    assert counts["games won"] >= 6 * GAMES_PER_TYPE
    assert counts["next to it"] > 0
