"""Failure tags, rule by rule: transcripts written by hand for what is easily mistaken."""

import dataclasses

import pytest
from played import act, play

from agentrl import types
from agentrl.envs import base, registry
from agentrl.transcripts import actions, failures

RECIPES = (
    "Crafting commands:\ncraft 4 stick using 2 planks\ncraft 1 sandstone using 4 sand\n\n"
    "Goal: craft stick."
)
ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a fridge 1, "
    "a drawer 11, a sidetable 1, and a table 2.\nYour task is to: put a plate in fridge."
)
TABLE = "You arrive at table 2. On the table 2, you see a apple 1, and a plate 1."
SHOP = (
    "Instruction: [SEP] Find me socks with color: navy, wide, and size: large, and price "
    "lower than 20.00 dollars [SEP] color [SEP] navy, wide [SEP] size [SEP] large [SEP] "
    "Price: $15.0"
)
QUESTION = "Question: What is the capital of the country Elbonia?"
FOUND = "<information>Doc 1(Title: Elbonia) Its seat is Tirana.</information>"


def find(*arguments, **options):
    return failures.find_tags(play(*arguments, **options))


def refused(env, observation, action, reply="no", **options):
    return find(env, (observation, act(action), False), reply, **options)


@pytest.mark.parametrize(
    "answer", ["Action:", "Thought:\nI had better", act("go to purple dra")]
)
def test_an_answer_that_the_token_limit_cut_off_is_no_format_error(answer):
    view = "You see a red ball 1."
    moves = ("Your goal: go", act("turn left"), True)

    cut = find("babyai", moves, (view, answer, False), view, ending="max_tokens")
    whole = find("babyai", moves, (view, answer, False), "Error", ending="max_turns")

    assert cut == ("timeout",)
    assert whole[0] in ("format_error", "fabrication")


def test_a_refusal_before_the_tokens_ran_out_counts():
    tags = refused("babyai", "You see it.", "dance", "Not known.", ending="max_tokens")

    assert tags == ("invalid_action", "timeout")


@pytest.mark.parametrize(
    ("env", "observation", "action"),
    [
        ("alfworld", ROOM, "go to table 1"),  # within "sidetable 1"
        ("alfworld", ROOM, "open drawer 1"),  # within "drawer 11"
        ("textcraft", RECIPES, "get 1 and"),  # within "sand"
        ("babyai", "You see a dark red ball 11.", "go to red ball 1"),
    ],
)
def test_names_are_found_as_whole_words_only(env, observation, action):
    assert refused(env, observation, action)[0] == "fabrication"


def test_an_answer_within_a_word_was_not_read():
    episode = play(
        "searchqa",
        (QUESTION, "<search>capital</search>", True),
        (FOUND, "<answer>Iran</answer>", True),
        "Sorry",
        ending="failed",
    )

    assert failures.find_tags(episode)[0] == "fabrication"


@pytest.mark.parametrize(
    ("action", "reply", "expected"),
    [
        ("get 2 planks, 4 sand", "Could not find planks, 4 sand", "invalid_action"),
        ("get 2 planks, 4 dragon", "Could not find planks, 4 dragon", "fabrication"),
        (
            "craft 4ia planks using 1 ballet",
            "Could not find enough items to craft 4ia planks",
            "fabrication",
        ),
        ("get 4 stick", "Could not find stick", "wrong_plan"),
        ("get 4 sand, 1 sandstone", "Could not find sand, 1 sandstone", "wrong_plan"),
        ("get 2 planks", "Could not find planks", "invalid_action"),
        (
            "craft 4 stick using 2 planks",
            "Could not find enough items to craft stick",
            "state_inconsistency",
        ),
    ],
)
def test_textcraft_things(action, reply, expected):
    assert refused("textcraft", RECIPES, action, reply)[0] == expected


def in_household(*exchanges):
    """(action, reply) exchanges after walking to the table, the last of them refused."""
    turns = [(ROOM, act("go to table 2"), True)]
    observation = TABLE
    for action, reply in exchanges:
        turns.append((observation, act(action), reply != "Nothing happens."))
        observation = reply
    return find("alfworld", *turns, observation)


TAKE = ("take plate 1 from table 2", "You pick up the plate 1 from the table 2.")
GO = ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed.")
OPEN = ("open fridge 1", "You open the fridge 1. The fridge 1 is open. In it, you see "
        "nothing.")  # fmt: skip
NOTHING = "Nothing happens."


@pytest.mark.parametrize(
    ("exchanges", "expected"),
    [
        ([("move plate 1 to table 2", NOTHING)], "state_inconsistency"),  # not held
        ([TAKE, ("take apple 1 from table 2", NOTHING)], "state_inconsistency"),
        ([TAKE, ("take plate 1 from table 2", NOTHING)], "state_inconsistency"),
        ([TAKE, ("put plate 1 in/on fridge 1", NOTHING)], "state_inconsistency"),
        ([GO, OPEN, ("open fridge 1", NOTHING)], "state_inconsistency"),
        ([GO, ("close fridge 1", NOTHING)], "state_inconsistency"),
        ([TAKE, GO, ("move plate 1 to fridge 1", NOTHING)], "state_inconsistency"),
        ([("go to table 2", NOTHING)], "state_inconsistency"),  # is there
        # The task asks for a plate; nothing has shown that there is a seventh.
        ([("take plate 7 from table 2", NOTHING)], "state_inconsistency"),
        ([("take mug 7 from table 2", NOTHING)], "fabrication"),
        ([TAKE, GO, ("heat apple 1 with fridge 1", NOTHING)], "state_inconsistency"),
        # Nothing seen so far speaks against these.
        ([TAKE, GO, OPEN, ("move plate 1 to fridge 1", NOTHING)], "invalid_action"),
        ([TAKE, ("examine table 2 closely", NOTHING)], "fabrication"),
        ([("open table 2", NOTHING)], "invalid_action"),
        ([("use apple 1", NOTHING)], "invalid_action"),
    ],
)
def test_household_state(exchanges, expected):
    assert in_household(*exchanges)[0] == expected


def test_household_state_in_the_real_environment():
    env = registry.make("alfworld", base.EnvConfig())
    item = registry.get_spec("alfworld").panel("test", base.EnvConfig()).item_ids[0]
    observation, exchanges = env.reset(item), []
    for command in ("open fridge 1", "go to fridge 1", "open fridge 1", "open fridge 1",
                    "close fridge 1", "close fridge 1"):  # fmt: skip
        result = env.step(act(command))
        exchanges.append((observation, act(command), result.info.valid_action))
        observation = result.observation

    episode = play("alfworld", *exchanges, observation)

    assert [valid for *_, valid in exchanges] == [False, True, True, False, True, False]
    assert failures.find_tags(episode) == ("state_inconsistency", "timeout")


@pytest.mark.parametrize(
    ("env", "answer"),
    [
        ("babyai", act("get 4 stick")),
        ("babyai", act("craft 1 stick using 2 planks")),
        ("textcraft", act("go to red ball 1")),
        ("textcraft", act("turn left")),
        ("searchqa", "Action: click[buy now]"),
        ("searchqa", "search[capital of France]"),
        ("webshop", "<think>so</think><search>socks</search>"),
        ("alfworld", act("pickup red ball 1")),
    ],
)
def test_actions_of_other_environments(env, answer):
    assert find(env, ("start", answer, False), "no")[0] == "foreign_action"


@pytest.mark.parametrize(
    ("env", "answer"),
    [
        ("textcraft", act("getting ready")),
        ("babyai", act("go to red ball 1")),
        ("alfworld", act("go to table 1")),
        ("mygame", act("get 4 stick")),  # exports no verbs
        ("babyai", "Action: get 4 stick\nAction: turn left"),
        ("babyai", "I would search for the ball"),
        ("babyai", act("go toward the ball")),  # a garbled verb of its own
    ],
)
def test_what_is_not_foreign(env, answer):
    assert find(env, ("start", answer, False), "no")[0] != "foreign_action"


def test_every_environment_exports_its_verbs():
    for name in registry.names():
        assert actions.verbs_of(name), name
        spec, config = registry.get_spec(name), base.EnvConfig()
        assert all(verb == verb.lower() for verb in spec.verbs)
        if name in ("sciworld", "textworld"):  # extras
            continue
        env = spec.make(config)
        env.reset(spec.panel("test", config).item_ids[0])
        for action in env.available_actions() or ():
            assert not actions.is_foreign(name, act(action)), action
            listed = (
                action.startswith(spec.verbs) or action == "check available actions"
            )
            assert listed, action


def buy(*clicks, price="15.0"):
    page = SHOP.replace("15.0", price)
    clicks = ("Features", *clicks, "Buy Now")
    turns = [(page, act(f"click[{c}]"), True) for c in clicks]
    return find("webshop", *turns, "Thank you!", ending="failed")


def test_a_value_with_a_comma_is_chosen_as_a_whole():
    assert buy("navy, wide", "large") == ("premature_stop",)
    assert buy("large") == ("confirmation_bias",)
    assert buy("navy, wide", "large", price="25.0") == ("confirmation_bias",)


def test_a_product_that_comes_with_something_has_no_option_of_that():
    wanted = "socks with heel pad with color: navy, wide,"
    page = SHOP.replace("socks with color: navy, wide,", wanted)
    turns = [
        (page, act(f"click[{c}]"), True)
        for c in ("Description", "navy, wide", "large", "Buy Now")
    ]

    assert find("webshop", *turns, "Thank you!", ending="failed") == ("premature_stop",)


def test_an_option_that_the_shop_refused_is_not_chosen():
    page = SHOP.replace("[SEP] color [SEP] navy, wide ", "")
    refusal = "Invalid action: this page has nothing of that name to click. [SEP] "
    turns = [
        (page, act("click[features]"), True),
        (page, act("click[large]"), True),
        (page, act("click[navy, wide]"), False),
        (refusal + page, act("click[buy now]"), True),
    ]

    tags = find("webshop", *turns, "Thank you!", ending="failed")

    assert set(tags) == {"confirmation_bias", "state_inconsistency"}


NO_BOX = f"Invalid action: this page has no search box. [SEP] {SHOP}"
NO_CLICK = f"Invalid action: this page has nothing of that name to click. [SEP] {SHOP}"
NO_FORM = f"Invalid action: write search[keywords] or click[value]. [SEP] {SHOP}"


@pytest.mark.parametrize(
    ("action", "reply", "expected"),
    [
        ("click[navy]", NO_CLICK, "fabrication"),  # part of what is asked for
        ("click[B00]", NO_CLICK, "fabrication"),
        ("search[socks]", NO_BOX, "state_inconsistency"),
        ("click[large", NO_FORM, "format_error"),
        ("search[socks search[socks]", NO_FORM, "format_error"),
        ("buy the socks", NO_FORM, "format_error"),
    ],
)
def test_what_the_shop_refuses(action, reply, expected):
    assert refused("webshop", SHOP, action, reply)[0] == expected


def test_an_option_that_only_the_instruction_names_is_not_there():
    page = SHOP.replace("[SEP] size [SEP] large ", "")

    assert refused("webshop", page, "click[large]", NO_CLICK)[0] == (
        "state_inconsistency"
    )


def test_writing_the_search_result_oneself_is_fabrication():
    answer = "<information>It is X.</information><answer>X</answer>"

    tags = find("searchqa", (QUESTION, answer, True), "Sorry", ending="failed")

    assert tags == ("fabrication",)


def answer_after_search(text, question=QUESTION):
    return find(
        "searchqa",
        (question, "<search>capital</search>", True),
        (FOUND, f"<answer>{text}</answer>", True),
        "Sorry",
        ending="failed",
    )


def test_an_answer_that_only_repeats_the_question_is_unchecked():
    assert answer_after_search("the country") == ("confirmation_bias",)
    assert answer_after_search("Elbonia") == ("confirmation_bias",)
    assert answer_after_search("Tirana") == ("premature_stop",)
    assert answer_after_search("Rome") == ("fabrication",)
    assert answer_after_search("yes") == ("premature_stop",)


@pytest.mark.parametrize("choice", ["Elbonia or Freedonia", "Elbonia and Freedonia"])
def test_a_choice_that_a_passage_holds_is_no_repeated_question(choice):
    question = f"Rules: search before you answer. Question: Which is older, {choice}?"

    assert answer_after_search("Elbonia", question) == ("premature_stop",)
    assert answer_after_search("Freedonia", question) == ("confirmation_bias",)


def test_what_only_the_rules_before_a_question_say_is_not_the_question():
    question = "Rules: search or answer. Question: What is the seat of Elbonia?"

    assert answer_after_search("Elbonia", question) == ("confirmation_bias",)


@pytest.mark.parametrize(
    "answer",
    [
        "<answer>Rome<answer>Tirana</answer>",
        "<search>Elbonia</search><answer>Tirana</answer>",
    ],
)
def test_more_than_one_action_of_searchqa_is_a_format_error(answer):
    refusal = "Invalid: write exactly one action"

    tags = find("searchqa", (QUESTION, answer, False), refusal)

    assert tags == ("format_error", "timeout")


def go(goal, view, action):
    return find("babyai", (f"Your goal: {goal}\n{view}", act(action), True), "Done.")


def test_taking_another_thing_than_asked_in_babyai():
    view = "There is a red box 1, and a yellow ball 1. You are not carrying anything."
    listed = view + '\nAvailable actions: ["go to yellow ball 1"]'
    biased, clean = ("confirmation_bias", "timeout"), ("timeout",)

    assert go("pick up the yellow ball", view, "pickup red box 1") == biased
    assert go("pick up the yellow ball", view, "pickup yellow ball 1") == clean
    assert go("pick up a ball", view, "pickup yellow ball 1") == clean
    assert go("go to the yellow ball", listed, "go to red box 1") == biased
    # The goal is out of sight: walking to the box may be the way to see more.
    assert go("go to the grey ball", listed, "go to red box 1") == clean
    assert go("go to the object", listed, "go to red box 1") == clean
    assert go("open the red door", view, "pickup red box 1") == clean


@pytest.mark.parametrize("action", ["pickup purple box", "go to the purple box"])
def test_a_name_without_a_number_is_a_name(action):
    assert refused("babyai", "You see a red ball 1.", action)[0] == "fabrication"


def test_placing_another_kind_than_asked_in_alfworld():
    moved = [("move apple 1 to fridge 1", "You move the apple 1 to the fridge 1.")]
    taken = [("take apple 1 from table 2", "You pick up the apple 1 from the table 2.")]

    wrong = in_household(*taken, GO, OPEN, *moved)
    elsewhere = in_household(*taken, ("move apple 1 to table 2", "You move it."))

    assert wrong == ("confirmation_bias", "timeout")
    assert elsewhere == ("timeout",)


def test_what_no_rule_can_see_is_named():
    assert failures.find_undetectable("webshop") == {"wrong_plan"}
    assert failures.find_undetectable("textcraft") == {"confirmation_bias"}
    assert "foreign_action" in failures.find_undetectable("mygame")
    assert set(failures.find_undetectable("mygame")) < set(failures.TAGS)


def test_an_episode_without_turns_has_tags():
    for name in registry.names():
        episode = dataclasses.replace(
            play(name, "start"), ending=types.Ending.MAX_TOKENS
        )
        assert failures.find_tags(episode) == ("timeout",)


GOAL, UNKNOWN = "Your goal: go to the red ball\n", "The action is not recognized."


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (
            "go to red ball",
            "state_inconsistency",
        ),  # the goal names it, nothing shows it
        ("go to red ball 1", "state_inconsistency"),
        ("go to red 1", "fabrication"),
        ("go to blue ball 1", "fabrication"),
    ],
)
def test_what_only_the_goal_names_is_not_there(action, expected):
    assert refused("babyai", GOAL + "You see a grey key 1.", action)[0] == expected


def test_a_refusal_leaves_in_sight_what_was():
    view = "You see a red ball 1, and a grey box 1."
    garbled = (GOAL + view, act("jump"), False)

    tags = find("babyai", garbled, (UNKNOWN, act("pickup red ball"), False), UNKNOWN)
    biased = find("babyai", garbled, (UNKNOWN, act("go to grey box 1"), True), view)

    assert tags == ("invalid_action", "timeout")
    assert biased[:1] == ("confirmation_bias",)


def test_an_answer_given_before_is_not_cut_off():
    again = (UNKNOWN, act("jump"), False)
    turns = [("You see it.", act("jump"), False), again, again]

    tags = find("babyai", *turns, UNKNOWN, ending="max_tokens")

    assert "repeat_loop" in tags
