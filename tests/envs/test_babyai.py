"""BabyAI: the words, the macro actions, both profiles, and the oracles."""

import collections
import hashlib
import re

import numpy as np
import pytest

from agentrl.envs import base, parsing, registry
from agentrl.envs.babyai import BabyAI, goals, levels, planner, textmap, view, world

STRICT = base.EnvConfig()
AGENTGYM = base.EnvConfig(profile="agentgym")
SPEC = registry.get_spec("babyai")
TEST_IDS = SPEC.panel("test", STRICT).item_ids


def start(item_id, config=STRICT):
    env = BabyAI(config)
    return env, env.reset(item_id)


def act(env, action):
    return env.step(parsing.render_react("", action))


def find_id(level, seed=0):
    return f"babyai_{levels.LEVELS.index(level) + 40 * seed}"


def play(env, oracle, observation):
    """Lets an oracle play to the end; returns the results."""
    results = []
    while not results or not results[-1].done:
        results.append(env.step(oracle.act(observation)))
        observation = results[-1].observation
    return results


# What the agent reads.


def test_words_of_a_known_episode():
    """Task 0 as upstream's own server tells it."""
    env, observation = start("babyai_0")
    assert observation == (
        "Your goal: go to the red ball\n"
        "In front of you in this room, you can see several objects: "
        "There is a grey key 1 1 steps in front of you and 1 steps to your left.  "
        "There is a grey ball 1 1 steps in front of you and 1 steps to your right.  "
        "There is a grey key 2 2 steps in front of you and 1 steps to your left.  "
        "There is a grey key 3 2 steps in front of you and 1 steps to your right.  "
        "There is a grey box 1 2 steps in front of you and 2 steps to your right.  "
        "There is a grey ball 2 5 steps in front of you and 1 steps to your right.  "
        "There is a grey key 4 4 steps in front of you and 2 steps to your right.  "
        "There is a red ball 1 4 steps in front of you and 3 steps to your right.  "
        "The room has walls around you. You are facing a wall 6 steps away. "
        "You are not carrying anything."
        '\nAvailable actions: ["turn left", "turn right", "move forward", '
        '"pickup grey key 1", "pickup grey ball 1", "pickup grey key 2", '
        '"pickup grey key 3", "pickup grey box 1", "pickup grey ball 2", '
        '"pickup grey key 4", "pickup red ball 1", "go to grey key 1", '
        '"go to grey ball 1", "go to grey key 2", "go to grey key 3", '
        '"go to grey box 1", "go to grey ball 2", "go to grey key 4", '
        '"go to red ball 1", "check available actions"]'
    )

    result = act(env, "go to red ball 1")

    assert result.observation == (
        "In front of you in this room, you can see several objects: "
        "There is a red ball 1 right in front of you 1 steps away.  "
        "There is a grey key 1 1 steps in front of you and 1 steps to your left.  "
        "There is a grey ball 1 2 steps in front of you and 2 steps to your left.  "
        "The room has walls around you. You are facing a wall 3 steps away. "
        "You are not carrying anything.\n The task is completed."
    )
    assert result.terminated and result.info.success
    assert result.reward == result.info.score == 0.8875  # 8 of 64 steps


def test_empty_view_runs_into_the_next_sentence_as_upstream():
    _, observation = start(find_id("OneRoomS20", 4))
    assert observation.startswith(
        "Your goal: pick up the ball\nYou cannot see any objects within sight."
        "The room has walls around you. You are not carrying anything.\n"
    )


# Digests of the first observations; a change of any word or world shows here.
DIGESTS = {
    "babyai_40": "046af3f44ab9df57",
    "babyai_401": "3e76fa52cb11311a",
    "babyai_282": "d562df01fe98cb84",
    "babyai_43": "26e1bd2de8382e75",
    "babyai_44": "545fca1a29c409c6",
    "babyai_525": "2a965ead4cdb580f",
    "babyai_86": "fd14259b10f48349",
    "babyai_447": "0448d7295d954354",
    "babyai_208": "fcd71cfe5507fe8d",
    "babyai_49": "141ea2dfd9af296d",
    "babyai_90": "4ddb570efc6f4253",
    "babyai_56": "a43446a4ebfe7028",
    "babyai_217": "c50e4373f6279e69",
    "babyai_538": "3501446d6c181c65",
    "babyai_429": "647b63631c6ef9b6",
    "babyai_870": "d430a006cadb9ad7",
    "babyai_152": "0ce4520221360e62",
    "babyai_1155": "cec0ada419d8258b",
    "babyai_39": "cedff0a0c94ebb5c",
    "babyai_12345": "b41703ea0b96982b",
}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_golden_first_observations():
    assert {item_id: digest(start(item_id)[1]) for item_id in DIGESTS} == DIGESTS


# What the agent may do.


@pytest.mark.parametrize("config", [STRICT, AGENTGYM], ids=lambda c: c.profile)
@pytest.mark.parametrize("level", ["GoToImpUnlock", "UnblockPickup", "SynthLoc"])
def test_listed_actions_are_accepted(level, config):
    env, _ = start(find_id(level), config)
    rng = np.random.default_rng(1)
    for _ in range(env.max_turns):
        result = act(env, rng.choice(env.available_actions()))
        assert result.info.valid_action
        if result.done:
            break


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("", "No change in state."),
        ("no action here", "No change in state."),
        ("Action: jump", "The action is not recognized. Please check valid actions."),
        ("Action: go to grey key 9", "The action is not recognized. Please check"),
        (
            "Action: drop",
            "You cannot drop the object, as you are not carrying anything.",
        ),
        ("Action: turn left\nAction: turn left", parsing.MULTIPLE_ACTIONS),
    ],
)
def test_refused_answers_change_nothing(text, reply):
    env, observation = start("babyai_0")
    before = env.world.look(), env.world.at, env.world.env.step_count
    result = env.step(text)
    assert result.observation.startswith(reply)
    assert not result.info.valid_action and result.reward == 0
    assert (env.world.look(), env.world.at, env.world.env.step_count) == before
    listed = observation.partition("\nAvailable")[2]
    assert result.observation.partition("\nAvailable")[2] == listed


def test_doors_are_refused_with_the_reason():
    env, _ = start(find_id("GoToImpUnlock", 12))
    closed = act(env, "go through yellow closed door 1")
    locked = act(env, "toggle and go through yellow locked door 1")
    assert closed.observation.startswith(
        "You cannot go through yellow closed door 1, as it is closed. "
        "You should toggle it first.\nAvailable actions: ["
    )
    assert locked.observation.startswith(
        "You cannot toggle and go through yellow locked door 1, "
        "as you are not carrying a key.\nAvailable actions: ["
    )
    assert not (closed.info.valid_action or locked.info.valid_action)


def test_unreachable_things_are_refused():
    env, _ = start("babyai_97", base.EnvConfig(max_turns=99))
    act(env, "toggle and go through grey closed door 1")
    act(env, "toggle and go through grey closed door 1")
    reply = act(env, "pickup grey box 1")  # a box stands in the doorway
    assert reply.observation.startswith(
        "You cannot pickup grey box 1, as there is no path leading to it."
    )
    assert not reply.info.valid_action


def test_barrier_is_refused_and_ball_is_not():
    env, _ = start("babyai_0", base.EnvConfig(max_turns=99))
    while "move forward" in env.available_actions():
        act(env, "move forward")
    reply = act(env, "move forward")
    assert reply.observation.startswith(
        "There is a barrier in front of you, you can't move forward."
    )


def test_pick_up_is_an_alias_in_strict_only():
    strict, _ = start("babyai_0")
    assert act(strict, "pick up grey key 1").info.parsed_action == "pickup grey key 1"
    assert strict.world.carried == view.CODES["grey key"]
    upstream, _ = start("babyai_0", AGENTGYM)
    assert "pick up <obj> <id>" in upstream.instruction
    assert not act(upstream, "pick up grey key 1").info.valid_action
    assert act(upstream, "pickup grey key 1").info.valid_action


def test_check_lists_the_actions():
    for config, action in ((STRICT, "check available actions"), (AGENTGYM, "check it")):
        env, _ = start("babyai_0", config)
        result = act(env, action)
        expected = "You can take the following actions: turn left, turn right, "
        assert result.observation.startswith(expected) and result.info.valid_action
    assert not act(start("babyai_0")[0], "check it").info.valid_action


def test_order_is_told_in_strict_only():
    item_id = find_id("GoToSeqS5R2", 1)
    _, strict = start(item_id)
    _, upstream = start(item_id, AGENTGYM)
    assert strict.startswith(
        "Your goal: go to a key and go to the ball after you go to the red ball and "
    )
    assert upstream.startswith(
        "Your goal: go to a key and go to the ball and go to the red ball and "
    )


def test_progress_counts_parts_of_the_mission():
    env, observation = start(find_id("GoToSeqS5R2", 1))
    results = play(env, SPEC.oracles["privileged"](env), observation)
    shares = [result.info.progress for result in results]
    assert shares == sorted(shares) and shares[-1] == 1
    assert 0 < shares[-2] < 1


@pytest.mark.parametrize(("config", "success"), [(STRICT, True), (AGENTGYM, False)])
def test_success_within_a_macro_action_counts_in_strict_only(config, success):
    """Toggling opens the door; upstream looks only after the step through it."""
    env, observation = start("babyai_829", config)
    assert observation.startswith("Your goal: open the grey door\n")
    result = act(env, "toggle and go through grey closed door 1")
    assert result.info.success is result.terminated is success
    assert (result.reward > 0) is success


# Holes of upstream.


def test_late_success_ends_the_episode_and_is_paid_once():
    env, _ = start("babyai_3", base.EnvConfig(max_turns=99))
    for _ in range(10):  # of 16 steps
        act(env, "turn left")
    oracle = SPEC.oracles["privileged"](env)
    results = play(env, oracle, "")
    assert results[-1].terminated and 0 < results[-1].reward <= 0.5
    with pytest.raises(base.CallOrderError):
        env.step("xyz")


@pytest.mark.parametrize(("config", "turns"), [(STRICT, 16), (AGENTGYM, 20)])
def test_minigrids_step_limit_ends_strict_episodes(config, turns):
    env, _ = start("babyai_3", config)
    results = [act(env, "turn left")]
    while not results[-1].done:
        results.append(act(env, "turn left"))
    assert len(results) == turns
    assert results[-1].truncated and not results[-1].terminated


def test_failure_is_told_and_ends_the_episode():
    """On this level opening the second door first spoils the mission."""
    env, observation = start(find_id("OpenRedBlueDoorsDebug", 2))
    assert observation.startswith(
        "Your goal: open the red door, then open the blue door\n"
    )
    result = act(env, "toggle and go through blue closed door 1")
    assert result.terminated and not result.info.success and result.reward == 0
    assert result.observation.endswith("\n The task has failed.")


def test_episodes_of_one_world_do_not_share_it():
    first, _ = start("babyai_0")
    second, expected = start("babyai_0")
    act(first, "pickup grey key 1")
    assert start("babyai_0")[1] == expected
    assert second.world.env.grid.get(*second.world.env.front_pos) is None
    assert act(second, "pickup grey key 1").info.valid_action


def test_nothing_is_printed(capfd):
    for seed in range(4):  # minigrid announces rejected worlds
        world.World("GoToObjDoor", 1000 + seed)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("level", levels.LEVELS)
def test_every_level_starts(level):
    _, observation = start(find_id(level))
    assert re.match(r"Your goal: [a-z ,]+\n", observation)


# Panels.


def test_panels_have_the_shares_of_the_study():
    test = collections.Counter(SPEC.subset(i, STRICT) for i in TEST_IDS)
    assert test == {
        "GoTo": 55,
        "Pickup": 15,
        "ActionObjDoor": 5,
        "FindObjS7": 5,
        "OneRoomS20": 5,
        "SynthLoc": 5,
    }
    assert len(SPEC.panel("train", STRICT).item_ids) == 810
    easy = [i for i in TEST_IDS if SPEC.tier(i, STRICT) == "easy"]
    assert len(easy) == 50


def test_unknown_split_is_refused():
    with pytest.raises(base.EnvConfigError, match="'valid'"):
        SPEC.panel("valid", STRICT)


def test_some_worlds_cannot_be_solved_and_are_left_out():
    """The key of this locked room lies inside it."""
    env, observation = start("babyai_246")
    locked = planner.State(
        bytes(env.world.cells), env.world.stride, env.world.at, env.world.heading
    )
    (door,) = [i for i, c in enumerate(locked.cells) if "locked" in view.NAMES[c]]
    rooms = goals.Rooms(locked.stride, 7, world.MARGIN, world.MARGIN)
    shut_in = rooms.room_of(door - 1)
    assert shut_in in {rooms.room_of(key) for key in planner.list_keys(locked)}
    results = play(env, SPEC.oracles["privileged"](env), observation)
    assert not results[-1].info.success
    for split in SPEC.splits:
        assert "babyai_246" not in SPEC.panel(split, STRICT).item_ids


# Oracles.


@pytest.mark.parametrize("config", [STRICT, AGENTGYM], ids=lambda c: c.profile)
@pytest.mark.parametrize("kind", ["privileged", "observational"])
def test_oracles_solve_the_panel(kind, config):
    turns = collections.Counter()
    for item_id in TEST_IDS[::3]:
        env, observation = start(item_id, config)
        results = play(env, SPEC.oracles[kind](env), observation)
        assert results[-1].info.success, item_id
        turns[SPEC.tier(item_id, config)] += len(results)
    assert turns["easy"] < turns["hard"]


def test_text_only_oracle_needs_no_list():
    config = base.EnvConfig(list_actions="never")
    solved = 0
    for item_id in TEST_IDS[::6]:
        env, observation = start(item_id, config)
        solved += play(env, SPEC.oracles["observational"](env), observation)[
            -1
        ].info.success
    assert solved >= 14  # of 15


@pytest.mark.parametrize("level", ["GoToObjMazeS7", "UnblockPickup", "FindObjS7"])
def test_map_drawn_from_text_is_true(level):
    """Where the text-only oracle believes to be agrees with the world."""
    env, observation = start(find_id(level, 2))
    oracle = SPEC.oracles["observational"](env)
    played = env.world
    origin, turned = divmod(played.at, played.stride), (3 - played.heading) % 4
    compared, done = 0, False
    while not done:
        answer = oracle.act(observation)
        if oracle._drawn == len(oracle._log):  # the map is up to date
            state = textmap.choose(oracle._beliefs).state
            y, x = np.subtract(divmod(played.at, played.stride), origin)
            for _ in range(turned):
                x, y = -y, x
            assert state.at == textmap.START.at + y * state.stride + x
            assert state.heading == (played.heading + turned) % 4
            assert state.carried == played.carried
            compared += 1
        result = env.step(answer)
        observation, done = result.observation, result.done
    assert compared >= 3


def test_missions_are_read_in_their_order():
    read = goals.read_goals(
        "pick up a red key and go to the door after you put the ball on your left "
        "next to a box behind you"
    )
    assert [goal.verb for goal in read] == ["put", "pick up", "go to"]
    assert read[0].what == goals.Description("", "ball", "on your left")
    assert read[0].beside == goals.Description("", "box", "behind you")
    assert read[1].what.codes == {view.CODES["red key"]}
