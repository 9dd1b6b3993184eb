"""Watching a policy, taking a turn over, and being its environment."""

import dataclasses
import io
import math

import pytest
from rich import console as rich_console

from agentrl import errors
from agentrl.play import policy, watch

CHANGES = {"max_turns": 2, "options": {"distractors": 0}}


def on_terminal(typed=""):
    """A console that reads what is typed, and what it has printed."""
    printed = io.StringIO()
    out = rich_console.Console(highlight=False, width=200, file=printed)
    lines = iter(typed.splitlines())

    def read(prompt=""):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    out.input = read
    return out, printed


def test_watching_shows_answers_with_their_probabilities(loaded):
    out, printed = on_terminal()
    solved = watch.watch(loaded, "textcraft", "textcraft_12", CHANGES, out)
    shown = printed.getvalue()
    assert not solved
    assert "textcraft_12 (" in shown and "turn 1 of 2" in shown
    assert "12 tokens, mean probability 0.0" in shown and "cut at" in shown


def test_tokens_are_shown_with_their_probabilities(loaded):
    reply = loaded.act([{"role": "user", "content": "You see a red ball."}])
    shown = watch.colour(loaded, reply).plain
    assert shown.count("(0.") == len(reply.tokens)
    without = shown
    for logprob in reply.logprobs:
        without = without.replace(f"({math.exp(logprob):.2f})", "", 1)
    kept = without.replace("<>", "").replace("<end>", "").replace("\n", "")
    assert kept == reply.text.replace("\n", "")


def test_a_turn_is_taken_over_drawn_again_or_sent(loaded):
    typed = "?\ninventory\nagain\n\n"
    out, printed = on_terminal(typed)
    watch.watch(loaded, "textcraft", "textcraft_12", CHANGES, out, take_over=True)
    shown = printed.getvalue()
    assert "Action:\ninventory" in shown and "Inventory:" in shown
    assert "out of turns" in shown
    # The first answer, one that was replaced, one drawn again.
    assert shown.count("mean probability") == 3


def test_the_end_of_input_ends_the_play(loaded):
    out, printed = on_terminal("quit\n")
    watch.watch(loaded, "textcraft", "textcraft_12", CHANGES, out, take_over=True)
    assert "stopped after turn 0" in printed.getvalue()


def test_a_conversation_without_room_ends_the_episode(folder):
    room = 12 + len(opening(policy.load(folder)))  # for one answer
    stored = policy.load(folder, max_action_tokens=12, max_tokens=room, seed=3)
    out, printed = on_terminal()
    solved = watch.watch(stored, "textcraft", "textcraft_12", CHANGES, out)
    *_, told, stopped = printed.getvalue().splitlines()
    assert not solved and "stopped after turn 1" in stopped
    assert told.startswith("ending max_tokens: the conversation has ")
    assert told.endswith(f" tokens, the limit being {room} with the next answer")
    message = {"role": "user", "content": "word " * 2 * room}
    with pytest.raises(errors.ConfigError, match=f"room for {room}"):  # the library's
        stored.act([message])


def test_an_answer_that_training_would_not_send_ends_the_episode(folder):
    stored = policy.load(folder, max_action_tokens=12, seed=3)
    limits = dataclasses.replace(stored.rollout, cut_actions="end")
    stored._parts = dataclasses.replace(stored._parts, rollout=limits)
    out, printed = on_terminal()
    watch.watch(stored, "textcraft", "textcraft_12", CHANGES, out)
    shown = printed.getvalue()
    told = "the answer is cut off at 12 tokens, the limit being 12: it is not sent"
    assert f"ending max_tokens: {told}\n" in shown
    assert "turn 1 of 2" in shown and "stopped after turn 1" in shown


def test_an_answer_that_the_conversations_limit_cuts_ends_the_episode(folder):
    room = 8 + len(opening(policy.load(folder)))
    stored = policy.load(folder, max_action_tokens=12, max_tokens=room, seed=3)
    out, printed = on_terminal()
    watch.watch(stored, "textcraft", "textcraft_12", CHANGES, out)
    assert f"at 8 tokens, the conversation's limit being {room}: it" in (
        printed.getvalue()
    )


def opening(stored):
    """The tokens before the first answer."""
    asked = []
    render = stored.render
    stored.render = lambda messages: asked.append(render(messages)) or asked[-1]
    watch.watch(stored, "textcraft", "textcraft_12", CHANGES, on_terminal()[0])
    return asked[0]


def test_a_task_of_ones_own_ends_without_room(folder):
    stored = policy.load(folder, max_action_tokens=12, max_tokens=100, seed=3)
    out, printed = on_terminal("A red ball.\n" + "far " * 200 + "\nNot read.\n")
    watch.converse(stored, out)
    *_, told, stopped = printed.getvalue().splitlines()
    assert told.startswith("ending max_tokens: the conversation has ")
    assert "the limit being 100" in told and "stopped" in stopped


def test_a_task_of_ones_own(loaded):
    asked = []
    act = loaded.act
    loaded.act = lambda conversation: (
        asked.append(list(conversation)) or act(conversation)
    )
    try:
        out, printed = on_terminal("A red ball.\\nIt is far.\nagain\nNow near.\nquit\n")
        watch.converse(loaded, out, instruction="Fetch it.", show_tokens=True)
    finally:
        del loaded.act
    assert [m["role"] for m in asked[0]] == ["system", "user"]
    assert asked[0][1]["content"] == "A red ball.\nIt is far."
    assert asked[1] == asked[0]  # drawn again
    assert asked[2][-1]["content"] == "Now near." and len(asked[2]) == 4
    assert printed.getvalue().count("mean probability") == 3
