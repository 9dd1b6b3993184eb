"""Failure tags on transcripts written by hand, and on ones that environments wrote."""

import pytest
from played import act, play

from agentrl.envs import base, registry
from agentrl.transcripts import failures

RECIPES = "Crafting commands:\ncraft 4 stick using 2 planks\n\nGoal: craft stick."
RESULTS = (
    "Instruction: [SEP] Find me warm wool socks with color: navy, and size: large, and "
    "price lower than 20.00 dollars [SEP] Back to Search [SEP] B000000001"
)
ITEM = RESULTS + " [SEP] color [SEP] navy [SEP] size [SEP] large [SEP] Price: $"


def buy(price, *clicks):
    clicks = [(f"{ITEM}{price}", act(f"click[{c}]"), True) for c in clicks]
    bought = (f"{ITEM}{price}", act("click[buy now]"), True)
    return play("webshop", *clicks, bought, "Thank you!", ending="failed")


def answer(text, *searches):
    found = "<information>Doc 1(Title: France) Its capital is Paris.</information>"
    turns = [("Question: capital of France?", s, True) for s in searches[:1]]
    turns += [(found, s, True) for s in searches[1:]]
    seen = found if searches else "Question: capital of France?"
    turns.append((seen, f"<think>so</think><answer> {text} </answer>", True))
    return play("searchqa", *turns, "Sorry", ending="failed")


CASES = {
    "no action": (
        play("textcraft", (RECIPES, "I think I will wait.", False), "Could not"),
        ("format_error", "timeout"),
    ),
    "two actions": (
        play(
            "babyai",
            ("Your goal: go", "Action: turn left\nAction: turn right", False),
            "Error",
        ),
        ("format_error", "timeout"),
    ),
    "unseen thing": (
        play(
            "textcraft",
            (RECIPES, act("get 3 unicorn hair"), False),
            "Could not find unicorn hair",
        ),
        ("fabrication", "timeout"),
    ),
    "an echo is not a sighting": (
        play(
            "textcraft",
            (RECIPES, act("get 3 unicorn hair"), False),
            ("Could not find unicorn hair", act("get 1 unicorn hair"), False),
            "Could not find unicorn hair",
        ),
        ("fabrication", "timeout"),
    ),
    "crafts with what it does not hold": (
        play(
            "textcraft",
            (RECIPES, act("craft 4 stick using 2 planks"), False),
            "Could not find enough items to craft minecraft:stick",
        ),
        ("state_inconsistency", "timeout"),
    ),
    "wrong recipe": (
        play(
            "textcraft",
            (RECIPES, act("craft 1 stick using 1 planks"), False),
            "Could not find a valid recipe for stick",
        ),
        ("invalid_action", "timeout"),
    ),
    "acts on what is out of sight": (
        play(
            "babyai",
            ("There is a red ball 1 in front.", act("turn left"), True),
            ("You see a grey key 1.", act("go to red ball 1"), False),
            "The action is not recognized.",
        ),
        ("state_inconsistency", "timeout"),
    ),
    "acts elsewhere": (
        play(
            "alfworld",
            ("you see a fridge 1, and a table 2.", act("go to table 2"), True),
            ("On the table 2, you see an apple 1.", act("open fridge 1"), False),
            "Nothing happens.",
        ),
        ("state_inconsistency", "timeout"),
    ),
    "clicks what is not there": (
        play("webshop", (RESULTS, act("click[B99]"), False), RESULTS),
        ("fabrication", "timeout"),
    ),
    "repeats itself": (
        play(
            "babyai",
            ("You see a wall 1 ahead.", act("move forward"), False),
            *[("There is a barrier", act("move forward"), False)] * 3,
            "There is a barrier",
        ),
        ("repeat_loop", "invalid_action", "timeout"),
    ),
    "repeats twice only": (
        play(
            "babyai",
            *[("There is a barrier", act("move forward"), True)] * 2,
            "There is a barrier",
        ),
        ("timeout",),
    ),
    "buys above the limit": (buy("25.0", "navy", "large"), ("confirmation_bias",)),
    "buys without an option": (buy("15.0", "navy"), ("confirmation_bias",)),
    "buys by the title alone": (
        buy("15.0", "navy", "large"),
        ("confirmation_bias",),
    ),
    "buys with all it can check": (
        buy("15.0", "navy", "large", "features"),
        ("premature_stop",),
    ),
    "answers what no text said": (
        answer("London", "<search>capital</search>"),
        ("fabrication",),
    ),
    "answers without a search": (
        answer("Rome"),
        ("confirmation_bias", "fabrication"),
    ),
    "answers wrongly what it read": (
        answer("Its.", "<search>capital</search>", "<search>more</search>"),
        ("premature_stop",),
    ),
    "focuses wrongly": (
        play(
            "sciworld", ("a table", act("focus on table"), True), "x", ending="failed"
        ),
        ("confirmation_bias",),
    ),
    "ends in failure after trouble": (
        play(
            "babyai",
            ("You see a box 1.", "no idea", False),
            ("No change in state.", act("toggle"), True),
            "The task has failed.",
            ending="failed",
        ),
        ("premature_stop", "format_error"),
    ),
    "what most turns show comes first": (
        play(
            "textcraft",
            (RECIPES, act("dance"), False),
            ("Could not execute dance", "hm", False),
            ("No", "hm hm", False),
            "Could not",
        ),
        ("format_error", "invalid_action", "timeout"),
    ),
    "unknown environment": (
        play("mygame", ("start", act("jump"), False), "no", ending="max_tokens"),
        ("invalid_action", "timeout"),
    ),
    "no turn fitted": (play("mygame", "start", ending="max_tokens"), ("timeout",)),
    "success": (
        play("babyai", ("goal", "hm", False), "done", ending="solved", success=True),
        (),
    ),
    "the environment broke": (
        play("babyai", ("goal", "hm", False), "", ending="env_error"),
        (),
    ),
    "the environment hung": (
        play("babyai", ("goal", "hm", False), "", ending="env_timeout"),
        (),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tags_of_hand_written_transcripts(case):
    episode, expected = CASES[case]

    assert failures.find_tags(episode) == expected
    assert failures.tag(episode).failures == expected
    assert set(expected) <= set(failures.TAGS)


def play_for_real(env_name, item_id, *answers, config=None):
    """Plays answers in a real environment and stores the episode as a run would."""
    env = registry.make(env_name, config or base.EnvConfig())
    observation, exchanges = env.reset(item_id), []
    for text in answers:
        result = env.step(text)
        exchanges.append((observation, text, result.info.valid_action))
        observation = result.observation
    return play(env_name, *exchanges, observation)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((act("go to purple dragon 1"),), "fabrication"),
        (("turn left",), "format_error"),
        ((act("dance"),), "invalid_action"),
        ((act("drop"),), "state_inconsistency"),
        ((act("turn left"), act("turn right")), "timeout"),
        ((act("dance"),) * 3, "repeat_loop"),
    ],
)
def test_main_tag_in_real_babyai(answers, expected):
    assert failures.find_tags(play_for_real("babyai", "babyai_0", *answers))[0] == (
        expected
    )


def test_main_tag_in_real_webshop():
    config = base.EnvConfig()
    spec = registry.get_spec("webshop")
    item_id = spec.panel("test", config).item_ids[0]

    unseen = play_for_real("webshop", item_id, act("click[a purple dragon]"))
    early = play_for_real(
        "webshop", item_id, act("search[socks]"), act("click[search]")
    )

    assert failures.find_tags(unseen)[0] == "fabrication"
    assert failures.find_tags(early)[0] == "state_inconsistency"
