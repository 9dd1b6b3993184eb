"""AlfWorld: find, clean, heat, cool and place things in a household.

Actions: one command after the last `Action:` of an answer, such as `go to fridge 1`,
`take mug 1 from shelf 2` or `heat mug 1 with microwave 1`, letter for letter as it is
admissible. The first observation lists the admissible ones unless `list_actions` says
otherwise.
Observations: the reply of the game. What is not possible is answered by `Nothing
happens.`, changes nothing and costs a turn.
Rewards: 1 when the goal holds, else 0; success and score are the same.
Ending: reaching the goal terminates; 30 turns truncate, in both profiles.

The engine is our own and follows ALFWorld's PDDL domain as TextWorld executes it, odd
corners included (`agentrl.envs.alfworld.world` lists them). The two are compared word for word
by `tests/parity/test_alfworld_real.py`. Profile `strict` (default) speaks like alfworld
0.4, `move O to R`. Profile `agentgym` speaks like alfworld 0.3 behind AgentGym's
server: `put O in/on R`, no `help`, and no `You arrive at ...` before what is seen.

Tasks: `alfworld_0` to `alfworld_2419` are for training, up to `alfworld_2619` for tests
in the same rooms, and up to `alfworld_2753`, split `test_unseen`, for tests in the 24
rooms 1-6, 201-206, 301-306 and 401-406, which no other split uses. No test task asks
for what a training task asks for in the same room; 145 of upstream's 200 do. The six
types are mixed as in AgentGym's train and test sets and in ALFWorld's valid_unseen.
Each game is drawn from its number: no goal holds at the start, and a plan of at most
ten commands is known. A task is easy if it only places or looks, in a room with fewer
than 25 receptacles. Subsets are the types.

Data: what stands in 120 rooms of AI2-THOR and what fits where, from the alfworld wheel
(MIT licence, `envs/data/alfworld_LICENSE.txt`; so are the wordings of replies). How
many things there are and where they lie is ours, as upstream's games are not part of
the wheel. Option `data_dir`, for instance `$ALFWORLD_DATA`, plays upstream's
`game.tw-pddl` files instead, in the wording of each file; `mappings` numbers them as
AgentGym does, see `agentrl.envs.alfworld.files`. The variable alone changes nothing.
ALFWorld: https://arxiv.org/abs/2010.03768.
"""  # noqa: E501

from agentrl.envs import base
from agentrl.envs.alfworld import environment, files, games, generate, oracles

_MANY_RECEPTACLES = 25
_EASY_KINDS = ("place", "look")


def make_panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    """All tasks of a split; each has a plan that the privileged oracle follows."""
    found = files.open_files(config)
    splits = found.splits if found is not None else generate.splits()
    if not splits.get(split):
        have = [name for name, numbers in splits.items() if numbers]
        raise base.EnvConfigError(
            f"environment 'alfworld' has no split {split!r} here; it has {have}."
        )
    if found is not None:
        found.check(split)
    ids = tuple(f"alfworld_{number}" for number in splits[split])
    version = generate.VERSIONS[split] if found is None else found.version
    return base.TaskPanel("alfworld", split, version, ids)


def find_tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    """Easy if nothing is to be treated or doubled and the room is not crowded."""
    game = _find_game(item_id, config)
    simple = game.goal.kind in _EASY_KINDS
    return "easy" if simple and len(game.receptacles) < _MANY_RECEPTACLES else "hard"


def find_subset(item_id: str, config: base.EnvConfig) -> str:
    """Upstream's name of the task's type."""
    return games.TASK_TYPES[_find_game(item_id, config).goal.kind]


def fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """What makes two tasks the same: the room, and what has to be done in it."""
    return generate.fingerprint(_find_game(item_id, config))


def _find_game(item_id: str, config: base.EnvConfig) -> games.Game:
    return environment.choose_games(config)(base.parse_item_id("alfworld", item_id))


SPEC = base.EnvSpec(
    name="alfworld",
    make=environment.AlfWorld,
    splits=("train", "test", "test_unseen"),
    panel=make_panel,
    tier=find_tier,
    subset=find_subset,
    subsets=lambda config: tuple(sorted(games.TASK_TYPES.values())),
    fingerprint=fingerprint,
    oracles={
        "privileged": oracles.PrivilegedOracle,
        "observational": oracles.ObservationalOracle,
    },
    verbs=(
        *("go to", "open", "close", "take", "put", "move", "use", "heat", "cool"),
        *("clean", "slice", "examine", "inventory", "look", "help"),
    ),
)
