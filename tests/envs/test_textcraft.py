"""TextCraft: exact replies, both profiles, panels and oracles."""

import collections
import hashlib
import random
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.envs import base, episodes, parsing, registry
from agentrl.envs.textcraft import TextCraft, planner, recipes

STRICT = base.EnvConfig()
AGENTGYM = base.EnvConfig(profile="agentgym")
PROFILES = [STRICT, AGENTGYM]
SPEC = registry.get_spec("textcraft")
BOOK = recipes.load_book()


def find_id(goal):
    return f"textcraft_{BOOK.goals.index(goal)}"


def start(goal, config=STRICT):
    env = TextCraft(config)
    env.reset(find_id(goal))
    return env


def act(env, action):
    return env.step(parsing.render_react("", action))


def reply(env, *actions):
    """The reply to the last of some actions."""
    return [act(env, action).observation for action in actions][-1]


def by_profile(name):
    return pytest.mark.parametrize(name, PROFILES, ids=lambda config: config.profile)


# What the agent reads first.


def test_first_observation_lists_what_is_needed_and_ten_others():
    observation = TextCraft().reset(find_id("ladder"))
    head, *lines, empty, goal = observation.split("\n")
    assert (head, empty, goal) == ("Crafting commands:", "", "Goal: craft ladder.")
    needed = set(map(str, BOOK.closure("ladder")))
    assert (
        {
            "craft 3 ladder using 7 stick",
            "craft 4 stick using 2 planks",
            "craft 1 stick using 2 bamboo",
            "craft 4 oak planks using 1 oak logs",
        }
        < needed
        < set(lines)
    )
    assert len(lines) == len(set(lines)) == len(needed) + 10
    for line in set(lines) - needed:
        assert re.search(r"\d (stick|bamboo|planks|\w+ (logs|stems))\b", line), line


@pytest.mark.parametrize("goal", ["ladder", "painting", "bookshelf"])
def test_fewer_distractors_are_some_of_the_same(goal):
    shown = []
    for count in (0, 3, 10, 1000):
        env = start(goal, base.EnvConfig(options={"distractors": count}))
        shown.append(set(env._shown))
    needed = set(BOOK.closure(goal))
    assert shown[0] == needed
    assert needed < shown[1] < shown[2] <= shown[3]
    assert [len(some - needed) for some in shown[:3]] == [0, 3, 10]


GOLDEN = {  # first digits of the SHA-256
    0: "5637f0fea8fba538",
    30: "8455b457d8930231",
    60: "9c0a532285cbfdb2",
    90: "e39f48e4820bcc10",
    120: "c6ba770b09a65f2b",
    150: "0c288fb6060f11ef",
    180: "b7c8b4b10dac6eb1",
    210: "3bd0c082bf4a9f65",
    240: "f76029ab0caadccd",
    270: "909e40cef704ef5e",
    300: "d1f5d699ef1c8c0a",
    330: "2d557948d7e8a620",
    360: "ed57c1de58c39032",
    390: "e350fa21460fb897",
    420: "ab57d9223930bdb6",
    450: "0b34352186b6aaeb",
    480: "3f6346c8fb87e7c1",
    510: "dc7d32dde98bf763",
    540: "baaf64817607de7e",
    543: "2cdbdc51e24aeb25",
}


@pytest.mark.parametrize("index", GOLDEN)
def test_first_observations_stay_the_same(index):
    observation = TextCraft().reset(f"textcraft_{index}")
    assert hashlib.sha256(observation.encode()).hexdigest()[:16] == GOLDEN[index]


# Rules and replies.


@by_profile("config")
def test_replies_on_the_way_to_a_boat(config):
    env = start("acacia boat", config)
    for action, expected in (
        ("inventory", "Inventory: You are not carrying anything."),
        ("get 2 acacia logs", "Got 2 acacia logs"),
        ("get 1 planks", "Could not find planks"),
        ("get 1 acacia planks", "Could not find acacia planks"),
        ("get 1 unobtainium", "Could not find unobtainium"),
        ("get acacia logs", "Could not execute get acacia logs"),
        ("Get 1 acacia logs", "Could not execute Get 1 acacia logs"),
        (
            "craft 1 acacia boat using 5 acacia planks",
            "Could not find enough items to craft minecraft:acacia_boat",
        ),
        (
            "craft 4 acacia planks using acacia logs",
            "Wrong item format: acacia logs",
        ),
        (
            "craft 4 acacia planks using 1 acacia logs",
            "Crafted 4 minecraft:acacia_planks",
        ),
        (
            "craft acacia planks using 1 acacia logs",
            "Crafted 4 minecraft:acacia_planks",
        ),
        ("inventory", "Inventory: [acacia planks] (8) "),
    ):
        result = act(env, action)
        assert (result.observation, result.reward, result.done) == (expected, 0, False)
        assert result.info.valid_action == expected.startswith(
            ("Inventory", "Got", "Crafted")
        )

    result = act(env, "craft 1 acacia boat using 5 acacia planks")
    assert result.observation == "Crafted 1 minecraft:acacia_boat"
    assert (result.reward, result.terminated, result.truncated) == (1, True, False)
    assert (result.info.success, result.info.score, result.info.progress) == (
        True,
        1,
        1,
    )


def test_refused_recipes_are_named():
    actions = ["get 3 acacia logs", "craft 9 stick using 1 acacia logs"]
    assert reply(start("ladder"), *actions) == (
        "Could not find a valid recipe for minecraft:stick"
    )
    assert reply(start("ladder", AGENTGYM), *actions) == (
        "Could not find a valid recipe for ItemTagWithCount(item_tag=ItemTag(tag=None, "
        "item_id='minecraft:stick'), count=9)"
    )
    assert reply(start("ladder", AGENTGYM), actions[0], "craft planks using 1 x") == (
        "Could not find enough items to craft None"
    )
    kind = "craft planks using 1 acacia logs"
    assert reply(start("ladder", AGENTGYM), actions[0], kind) == (
        "Could not find a valid recipe for ItemTagWithCount("
        "item_tag=ItemTag(tag='minecraft:planks', item_id=None), count=1)"
    )


def test_strict_limits_what_one_get_takes():
    env = start("lodestone")
    for count in ("0", "65", "999999999999", "00"):
        result = act(env, f"get {count} diamond")
        assert result.observation == (
            f"Could not get {int(count)} diamond: get 1 to 64 at a time"
        )
        assert not result.info.valid_action
    assert reply(env, "get 64 diamond", "get 1 diamond", "inventory") == (
        "Inventory: [diamond] (65) "
    )


def test_agentgym_gets_any_number():
    env = start("lodestone", AGENTGYM)
    assert reply(env, "get 999999999999 diamond") == "Got 999999999999 diamond"
    assert reply(env, "get 0 coal", "inventory") == (
        "Inventory: [diamond] (999999999999) [coal] (0) "
    )


@by_profile("config")
@pytest.mark.parametrize("digits", ["9" * 19, "9" * 5000])
def test_absurd_numbers_are_not_understood(config, digits):
    env = start("ladder", config)
    act(env, "get 1 acacia logs")
    for action in (
        f"get {digits} diamond",
        f"craft 4 acacia planks using {digits} acacia logs",
        f"craft {digits} acacia planks using 1 acacia logs",
    ):
        assert not act(env, action).info.valid_action
    assert reply(env, "inventory") == "Inventory: [acacia logs] (1) "


@by_profile("config")
def test_an_ingredient_named_twice_must_be_held_twice(config):
    env = start("ladder", config)
    for action in (
        "get 1 acacia logs",
        "craft 4 acacia planks using 1 acacia logs, 1 acacia logs",
    ):
        result = act(env, action)
    assert result.observation == (
        "Could not find enough items to craft minecraft:acacia_planks"
    )


@by_profile("config")
@pytest.mark.parametrize(
    "using",
    [
        "1 acacia planks",
        "3 acacia planks",
        "2 acacia planks, 1 acacia logs",
        "2 planks",
    ],
)
def test_wrong_ingredients_change_nothing(config, using):
    env = start("ladder", config)
    act(env, "get 2 acacia logs")
    act(env, "craft 4 acacia planks using 1 acacia logs")

    result = act(env, f"craft 4 stick using {using}")

    assert result.observation.startswith("Could not find")
    assert not result.info.valid_action
    assert (
        reply(env, "inventory") == "Inventory: [acacia logs] (1) [acacia planks] (4) "
    )


def test_any_kind_does_for_a_generic_ingredient_but_no_other():
    for kind, expected in (
        ("warped planks", "Crafted 4 minecraft:stick"),
        ("acacia planks", "Crafted 4 minecraft:stick"),
    ):
        raw = BOOK.by_item[kind][0].ingredients[0][0]
        actions = (f"get 1 {raw}", f"craft 4 {kind} using 1 {raw}")
        assert reply(start("ladder"), *actions, f"craft 4 stick using 2 {kind}") == (
            expected
        )
        boat = f"craft 1 oak boat using 4 {kind}"
        assert reply(start("oak boat"), *actions, boat).startswith("Could not find a")


def test_two_actions_in_one_answer_are_refused():
    env = start("acacia planks")
    result = env.step("Action: get 1 acacia logs\nAction: inventory")
    assert result.observation == parsing.MULTIPLE_ACTIONS
    assert result.info.parse_error and not result.info.valid_action
    assert reply(env, "inventory") == "Inventory: You are not carrying anything."


def test_progress_counts_what_the_goal_needs_by_any_kind():
    env = start("ladder")  # ladder <- stick <- planks
    progress = [
        act(env, action).info.progress
        for action in (
            "get 4 warped stems",
            "craft 4 warped planks using 1 warped stems",
            "craft 4 warped planks using 1 warped stems",
            "craft 4 stick using 2 warped planks",
            "craft 4 stick using 2 warped planks",
            "craft 3 ladder using 7 stick",
        )
    ]
    assert progress == [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1]


def test_a_goal_reached_by_another_way_is_whole_progress():
    env = start("ladder")
    act(env, "get 14 bamboo")
    for _ in range(7):
        result = act(env, "craft 1 stick using 2 bamboo")
    assert result.info.progress < 1
    assert act(env, "craft 3 ladder using 7 stick").info.progress == 1


def test_unknown_goals_and_options_are_refused():
    with pytest.raises(base.UnknownItemError, match=r"last task is 'textcraft_543'"):
        TextCraft().reset("textcraft_544")
    with pytest.raises(base.UnknownItemError, match="textcraft_544"):
        SPEC.tier("textcraft_544", STRICT)
    for value in (-1, 2.5, "3", True):
        config = base.EnvConfig(options={"distractors": value})
        with pytest.raises(base.EnvConfigError, match="distractors = "):
            TextCraft(config)


# Properties.


def state(env):
    return dict(env._inventory), set(env._reached)


COUNTS = st.integers(0, 70)
NAMES = st.sampled_from(["acacia logs", "planks", "stick", "bamboo", "wool", "dirt"])
ACTIONS = st.one_of(
    st.builds("get {} {}".format, COUNTS, NAMES),
    st.builds("craft {} {} using {} {}".format, COUNTS, NAMES, COUNTS, NAMES),
    st.builds("craft {} using {}, {}".format, NAMES, NAMES, NAMES),
    st.sampled_from(["inventory", "", "craft", "get", "craft 4 stick using 2 bamboo"]),
    st.text(max_size=40),
    st.integers(0, 200),  # an entry of the list of actions
)


@hypothesis.given(
    st.sampled_from(["ladder", "painting", "bookshelf"]),
    st.sampled_from(PROFILES),
    st.lists(ACTIONS, max_size=20),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_listed_actions_are_accepted_and_refused_ones_change_nothing(
    goal, config, actions
):
    env = start(goal, config)
    for action in actions:
        listed = env.available_actions()
        chosen = isinstance(action, int)
        action = listed[-1 - action % len(listed)] if chosen else action
        before = state(env)
        result = act(env, action)
        if chosen:
            assert result.info.valid_action, action
        if not result.info.valid_action:
            assert state(env) == before
        assert all(count >= 0 for count in env._inventory.values())
        if result.done:
            assert result.reward == result.info.success
            return


def test_random_choice_of_listed_actions_solves_next_to_nothing():
    rng = random.Random(0)
    env = TextCraft()
    solved = 0
    for item_id in SPEC.panel("test", STRICT).item_ids:
        env.reset(item_id)
        result = base.StepResult("")
        while not result.done:
            result = act(env, rng.choice(env.available_actions()))
        solved += result.info.success
    assert solved < 5


# Panels and oracles.


def test_panels_are_stratified_and_use_each_goal_once():
    panels = {split: SPEC.panel(split, STRICT) for split in SPEC.splits}
    counts = {
        split: collections.Counter(SPEC.subset(i, STRICT) for i in panel.item_ids)
        for split, panel in panels.items()
    }
    assert counts["test"] == {"depth_1": 31, "depth_2": 41, "depth_3": 25, "depth_4": 3}
    assert {split: sum(counts[split].values()) for split in counts} == {
        "train": 374,
        "test": 100,
        "spare": 70,
    }
    every = [item_id for panel in panels.values() for item_id in panel.item_ids]
    assert sorted(every) == sorted(f"textcraft_{k}" for k in range(544))
    assert panels["test"].version == "textcraft-1"


def test_tiers_follow_the_depth():
    tiers = {
        SPEC.subset(f"textcraft_{k}", STRICT): SPEC.tier(f"textcraft_{k}", STRICT)
        for k in range(544)
    }
    assert tiers == {
        "depth_1": "easy",
        "depth_2": "easy",
        "depth_3": "hard",
        "depth_4": "hard",
    }


def solve(item_id, config, kind):
    return episodes.play_oracle("textcraft", config, item_id, kind)[-1][1].info.success


@by_profile("config")
@pytest.mark.parametrize("kind", ["privileged", "observational"])
def test_oracles_solve_every_task_of_the_panels(config, kind):
    for split in ("train", "test"):
        ids = SPEC.panel(split, config).item_ids
        assert [item_id for item_id in ids if not solve(item_id, config, kind)] == []


@pytest.mark.parametrize("kind", ["privileged", "observational"])
def test_oracles_solve_every_goal_without_a_turn_limit(kind):
    config = base.EnvConfig(max_turns=100, options={"distractors": 0})
    for index in range(len(BOOK.goals)):
        assert solve(f"textcraft_{index}", config, kind), BOOK.goals[index]


def test_goals_beyond_the_turn_limit_are_spare():
    limit = TextCraft().max_turns
    long = {
        find_id(goal)
        for goal in BOOK.goals
        if len(planner.plan_goal(BOOK, goal).actions) > limit
    }
    assert len(long) == 17
    assert long < set(SPEC.panel("spare", STRICT).item_ids)


def test_a_plan_uses_what_is_left_over():
    assert planner.plan_goal(BOOK, "oak sign").actions == [
        "get 2 oak logs",
        "craft 4 oak planks using 1 oak logs",
        "craft 4 oak planks using 1 oak logs",
        "craft 4 stick using 2 oak planks",
        "craft 3 oak sign using 6 oak planks, 1 stick",
    ]


def test_an_oracle_demonstrates_in_short_sentences():
    turns = episodes.play_oracle(
        "textcraft", STRICT, find_id("ladder"), "observational"
    )
    assert turns[0][0].startswith("Thought:\nI need ")
    assert turns[-1][0] == (
        "Thought:\nI can craft ladder now.\n\nAction:\ncraft 3 ladder using 7 stick"
    )
