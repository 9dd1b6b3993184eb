"""AlfWorld as an environment: profiles, generated games, panels, oracles."""

import collections
import copy
import hashlib
import random

import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.envs import alfworld, base, episodes, parsing, registry
from agentrl.envs.alfworld import facts, games, generate, plan, world

STRICT = base.EnvConfig(list_actions="never")
AGENTGYM = base.EnvConfig(profile="agentgym", list_actions="never")
BY_PROFILE = pytest.mark.parametrize(
    "config", [STRICT, AGENTGYM], ids=["strict", "agentgym"]
)


def start(index, config=STRICT):
    env = registry.make("alfworld", config)
    env.reset(f"alfworld_{index}")
    return env


def act(env, *actions):
    """Plays actions and returns the last result."""
    for action in actions:
        result = env.step(parsing.render_react("I try.", action))
    return result


@BY_PROFILE
def test_a_won_episode_is_rewarded_once(config):
    env = start(2420, config)
    for command in plan.find_plan(env.game)[:-1]:
        result = act(env, command)
        assert (result.reward, result.terminated) == (0, False)
        assert result.info.valid_action and not result.info.success
    result = act(env, plan.find_plan(env.game)[-1])
    assert (result.reward, result.terminated, result.truncated) == (1, True, False)
    assert result.info.success and result.info.score == result.info.progress == 1
    with pytest.raises(base.CallOrderError):
        act(env, "look")


@pytest.mark.parametrize(
    "answer, parsed, is_parse_error",
    [
        ("go to bed 1", "", True),
        ("", "", True),
        ("Action:\ndance", "dance", False),
        ("Action: look\nAction: go to moon 1", "go to moon 1", False),
        ("Action: look\nand rest", "look\nand rest", False),
        ("Thought: my Action: LOOK", "LOOK", False),
        ("Action: take\x00", "take\ufffd", False),
    ],
)
@BY_PROFILE
def test_impossible_actions_change_nothing(config, answer, parsed, is_parse_error):
    env = start(7, config)
    before = copy.deepcopy(vars(env._world))
    result = env.step(answer)
    assert result.observation == "Nothing happens."
    assert not result.info.valid_action and not result.done
    assert (result.info.parsed_action, result.info.parse_error) == (
        parsed,
        is_parse_error,
    )
    assert vars(env._world) == before


def test_the_last_of_several_actions_counts():
    result = start(7).step("Action: inventory\nAction: look")
    assert result.info.parsed_action == "look"


def test_profiles_differ_in_wording_only():
    for index in (0, 1500, 2700):
        one, other = (generate.generate(index, w) for w in (games.MOVE, games.PUT))
        assert one.contents == other.contents
        assert one.goal == other.goal
    assert "move O to R" in start(0, STRICT).instruction
    assert "put O in/on R" in start(0, AGENTGYM).instruction


def test_the_first_observation_lists_actions_natively():
    env = registry.make("alfworld")
    first = env.reset("alfworld_2421")
    assert first.splitlines()[1].startswith("Your task is to: ")
    listed = first.splitlines()[2].removeprefix("AVAILABLE ACTIONS: ").split(",")
    assert listed == sorted(listed) == list(env.available_actions())
    assert {"help", "inventory", "look"} <= set(listed)
    assert "AVAILABLE" not in act(env, "look").observation


CANDIDATES = ("go to {r}", "open {r}", "close {r}", "examine {r}", "examine {o}")
CANDIDATES += ("take {o} from {r}", "move {o} to {r}", "put {o} in/on {r}")
CANDIDATES += (
    "use {o}",
    "heat {o} with {r}",
    "cool {o} with {r}",
    "clean {o} with {r}",
)
CANDIDATES += ("slice {o} with {o2}", "look", "help", "inventory", "look {r}", "go {r}")


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    index=st.integers(0, 2753), seed=st.integers(0, 2**32), old=st.booleans()
)
def test_exactly_the_listed_commands_are_accepted(index, seed, old):
    wording = games.PUT if old else games.MOVE
    game = generate.generate(index, wording)
    played = world.World(game)
    rng = random.Random(seed)
    receptacles = [r.name for r in game.receptacles]
    items = [item.name for item in game.items]
    for _ in range(25):
        listed = played.admissible()
        at_hand = [receptacles[i] for i in played.here()] or receptacles
        command = rng.choice(CANDIDATES).format(
            r=rng.choice(at_hand), o=rng.choice(items), o2=rng.choice(items)
        )
        before = copy.deepcopy(vars(played))
        assert (played.act(command) is not None) == (command in listed), command
        if command not in listed:
            assert vars(played) == before
        verb = rng.choice(sorted({c.split()[0] for c in played.admissible()}))
        possible = [c for c in played.admissible() if c.startswith(verb)]
        assert played.act(rng.choice(possible)), possible


# Generated games.


def test_splits_have_the_published_mix():
    spec = registry.get_spec("alfworld")
    assert list(spec.splits) == ["train", "test", "test_unseen"]
    for split, first, size in (
        ("train", 0, 2420),
        ("test", 2420, 200),
        ("test_unseen", 2620, 134),
    ):
        panel = spec.panel(split, STRICT)
        numbers = range(first, first + size)
        assert panel.item_ids == tuple(f"alfworld_{number}" for number in numbers)
    found = collections.Counter(
        generate.generate(i, games.MOVE).goal.kind for i in generate.splits()["test"]
    )
    assert found == {
        "place": 46,
        "two": 45,
        "clean": 37,
        "cool": 28,
        "heat": 25,
        "look": 19,
    }
    with pytest.raises(base.EnvConfigError, match="no split 'dev'"):
        spec.panel("dev", STRICT)


def test_panels_stay_the_same():
    spec = registry.get_spec("alfworld")
    digests = {split: spec.panel(split, STRICT).digest for split in spec.splits}
    assert digests == PANEL_DIGESTS


def test_unseen_rooms_are_in_no_other_split():
    signature = {}
    for number, room in facts.load()["rooms"].items():
        names = tuple(r.name for r in generate._room(number).receptacles)
        assert room["objects"] and len(set(names)) == len(names)
        signature.setdefault(names, set()).add(int(number) in facts.load()["unseen"])
    for split, numbers in generate.splits().items():
        for index in numbers[::17]:
            game = generate.generate(index, games.MOVE)
            seen_as = signature[tuple(r.name for r in game.receptacles)]
            assert (split == "test_unseen") in seen_as
    assert sum(len(kinds) == 1 for kinds in signature.values()) > 100


def test_games_start_unsolved_with_a_short_plan():
    for index in range(0, 2754, 11):
        game = generate.generate(index, games.MOVE)
        assert not world.World(game).is_won()
        assert 2 <= len(plan.find_plan(game)) <= 10
        for receptacle, held in zip(game.receptacles, game.contents, strict=True):
            for item in held:
                kind = game.items[item].kind
                assert kind == facts.LAMP or kind in game.accepts[receptacle.kind]
            assert receptacle.kind not in facts.SINGLE or len(held) <= 1
        if game.goal.kind == "two":
            assert len(game.wanted) >= 2


def test_tasks_beyond_the_last_are_refused():
    env = registry.make("alfworld")
    with pytest.raises(base.UnknownItemError, match="last one is 'alfworld_2753'"):
        env.reset("alfworld_2754")


def test_tiers_and_subsets():
    spec = registry.get_spec("alfworld")
    for index in range(0, 2754, 101):
        game = generate.generate(index, games.MOVE)
        easy = game.goal.kind in ("place", "look") and len(game.receptacles) < 25
        item_id = f"alfworld_{index}"
        assert spec.tier(item_id, AGENTGYM) == ("easy" if easy else "hard")
        assert spec.subset(item_id, STRICT) == games.TASK_TYPES[game.goal.kind]


# Oracles.


@BY_PROFILE
@pytest.mark.parametrize("split", alfworld.SPEC.splits)
def test_the_privileged_oracle_solves_everything(config, split):
    for item_id in alfworld.make_panel(split, config).item_ids[::3]:
        turns = episodes.play_oracle("alfworld", config, item_id, "privileged")
        assert turns[-1][1].info.success, item_id
        assert all(result.info.valid_action for _, result in turns)


@BY_PROFILE
@pytest.mark.parametrize("split", ["test", "test_unseen"])
def test_the_observational_oracle_solves_most(config, split):
    ids = alfworld.make_panel(split, config).item_ids
    solved = 0
    for item_id in ids:
        turns = episodes.play_oracle("alfworld", config, item_id, "observational")
        solved += turns[-1][1].info.success
    assert solved >= 0.95 * len(ids)


def test_the_observational_oracle_demands_a_task():
    env = registry.make("alfworld")
    oracle = episodes.make_oracle(env, "observational")
    with pytest.raises(ValueError, match="no task and room"):
        oracle.act("You are in the middle of nowhere.")


def test_random_commands_hardly_ever_win():
    env = registry.make("alfworld", STRICT)
    won = 0
    for item_id in alfworld.make_panel("test", STRICT).item_ids:
        env.reset(item_id)
        rng = random.Random(item_id)
        while not (result := act(env, rng.choice(env.available_actions()))).done:
            pass
        won += result.info.success
    assert won < 0.05 * 200


# What must stay as it is.

PANEL_DIGESTS = {
    "train": "c25a907ee347",
    "test": "473b13ff2ce4",
    "test_unseen": "fc385ca4460c",
}
CONTENTS_DIGEST = "4d4264813f4ed4c6"
GOLDEN = {  # first digits of the SHA-256 of both profiles
    0: "4d2c06f3dc3d20c8",
    220: "1fe12c21a66b0a82",
    440: "39e0278bcaba1b7e",
    660: "44a4211e1e9e3886",
    880: "abc4787ccd31cb8c",
    1100: "0602a018212347af",
    1320: "2b934a3f2cece6dc",
    1540: "e0664008d65fec31",
    1760: "3017919de4318b6f",
    1980: "1c512368735d7994",
    2200: "bf8670a1ef0acd22",
    2419: "974f804a921f31a2",
    2420: "507f68ed9ba1bbd5",
    2460: "27420169cb367500",
    2500: "fd5de570202e7fe0",
    2540: "099e4b6b6e4d357d",
    2580: "e83f06aa01da8b1d",
    2620: "dfe50842ba260309",
    2680: "f3884dea2b8c991b",
    2753: "c05b16fb12edd179",
}


@pytest.mark.parametrize("index", GOLDEN)
def test_first_observations_stay_the_same(index):
    first = "\n".join(
        registry.make("alfworld", base.EnvConfig(profile=profile)).reset(
            f"alfworld_{index}"
        )
        for profile in base.PROFILES
    )
    assert hashlib.sha256(first.encode()).hexdigest()[:16] == GOLDEN[index]


def test_what_lies_where_stays_the_same():
    digest = hashlib.sha256()
    for index in range(0, 2754, 51):
        game = generate.generate(index, games.MOVE)
        names = [[game.items[item].name for item in held] for held in game.contents]
        digest.update(repr(names).encode())
    assert digest.hexdigest()[:16] == CONTENTS_DIGEST
