"""Signals to a process that works under an `Interruption`."""

import signal
import sys
import textwrap
import time

import commands
import pytest

PRELUDE = """
    import time
    from agentrl import errors
    from agentrl.parallel import interruption

    def say(text):
        print(text, flush=True)

    with interruption.Interruption() as interrupted:
"""


def start(code):
    script = textwrap.dedent(PRELUDE) + textwrap.indent(textwrap.dedent(code), "    ")
    process = commands.Process(
        [sys.executable, "-c", script],
    )
    assert process.stdout.readline() == "ready\n"
    return process


LOOP = """
    say("ready")
    while not interrupted.requested():
        time.sleep(0.01)
    say("iteration finished")
    time.sleep({saving})
    say("saved")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_an_iteration_finish(number):
    process = start(LOOP.format(saving=0.2))
    process.send_signal(number)
    printed, complaints = process.communicate(timeout=60)
    assert printed == "iteration finished\nsaved\n"
    assert (
        complaints.count("\n") == 1 and f"{number.name}: ending in order" in complaints
    )
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_the_second_signal_ends_at_once(number, code):
    process = start(LOOP.format(saving=60))
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "iteration finished\n"
    process.send_signal(number)
    started = time.monotonic()
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == code
    assert printed == "" and "again: ending at once" in complaints
    assert time.monotonic() - started < 30  # saving takes a minute


def test_what_has_nothing_to_finish_ends_with_the_first_signal():
    process = start("""
        try:
            with interrupted.abandonable("a long sleep"):
                say("ready")
                for _ in range(600):  # one long sleep may begin just after the signal
                    time.sleep(0.1)
        except errors.InterruptedRun as error:
            say(error)
        try:
            with interrupted.abandonable("a second one"):
                say("not reached")
        except errors.InterruptedRun as error:
            say(error)
    """)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert printed == "SIGINT during a long sleep.\nSIGINT during a second one.\n"


def test_without_a_signal_nothing_is_requested():
    process = start("""
        say("ready")
        with interrupted.abandonable("nothing"):
            raise SystemExit(3 if interrupted.requested() else 4)
    """)
    _, complaints = process.communicate(timeout=60)
    assert (complaints, process.returncode) == ("", 4)
