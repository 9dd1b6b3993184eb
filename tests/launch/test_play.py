"""`launch.play` as a person meets it, on the example of the guide."""

import json
import os
import pathlib
import re
import sys

import commands
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """Runs the command in a folder where the guide's example is saved."""
    page = (ROOT / "docs" / "howto_env.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    folder = tmp_path_factory.mktemp("play")
    (folder / "guess_number.py").write_text(source)
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "AGENTRL_ENVS": "guess_number=guess_number",
        "COLUMNS": "100",
    }

    def run(*flags, typed=""):
        return commands.run(
            [sys.executable, "-m", "agentrl.launch.play", *flags],
            typed=typed,
            env=env,
            cwd=folder,
        )

    run.folder = folder
    return run


@pytest.fixture
def recording(play):
    """A stored episode: one wrong guess and one refused answer."""
    turns = [
        {"observation": "What is your first guess?", "action": "Action: guess 99"},
        {
            "observation": "Say 'guess N', with N from 1 to 32.",
            "action": "Action: [bold]x",
        },
    ]
    episode = {"item_id": "guess_number_5", "turns": turns, "ending": "max_tokens"}
    episode["final_observation"] = "Say 'guess N', with N from 1 to 32."

    def write(**changes):
        path = play.folder / "episodes.jsonl"
        path.write_text("not this line\n" + json.dumps(episode | changes) + "\n")
        return f"{path.name}:2"

    return write


@pytest.mark.parametrize("kind", ["observational", "privileged"])
def test_an_oracle_solves_the_first_test_task(play, kind):
    done = play("--env=guess_number", f"--oracle={kind}")
    assert done.returncode == 0, done.stderr
    for part in (
        "guess_number_1 (all), profile strict",
        "I picked a number",
        "What is your first guess?",
        "turn 1 of 8",
        "Action:\nguess",
        "Correct.\nreward 1",
        "solved: ",
    ):
        assert part in done.stdout, part


def test_an_oracle_that_fails_is_an_error(play):
    done = play("--env=guess_number", "--oracle=observational", "--max_turns=1")
    assert done.returncode == 1
    assert "out of turns: turns 1, return 0, score 0" in done.stdout


def test_by_hand(play):
    typed = "?\nguess 1\nThought: high. Action: guess 32\nhello\nquit\n"
    done = play(
        "--env=guess_number",
        "--task=guess_number_3",
        "--profile=agentgym",
        "--list_actions=first",
        typed=typed,
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "AVAILABLE ACTIONS: guess 1,guess 2",
        "guess 31\nguess 32\n",
        "It is higher than 1.",
        "It is lower than 32.",
        "action not allowed",
        "turn 3 of 12",
        "stopped after turn 3",
    ):
        assert part in done.stdout, part


def test_the_end_of_input_ends_the_play(play):
    done = play("--env=guess_number", typed="guess 1\n")
    assert done.returncode == 0, done.stderr
    assert "stopped after turn 1" in done.stdout


def test_a_replay_shows_what_was_stored(play, recording):
    done = play(f"--replay={recording()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "guess_number_5 (all), profile strict" in done.stdout
    assert "Action: [bold]x" in done.stdout  # not read as markup
    assert "stored ending max_tokens\n" in done.stdout
    assert "stopped after turn 2" in done.stdout


def test_a_replay_shows_the_answer_that_was_cut_off(play, recording):
    first = "What is your first guess?"
    turn = {"observation": first, "action": "Action: [gue", "valid": False}
    done = play(f"--replay={recording(turns=[turn], final_observation=first)}")
    assert done.returncode == 0, done.stdout + done.stderr
    *_, number, answer, _, told, stopped = done.stdout.splitlines()
    assert "turn 1 of 8" in number and answer == "Action: [gue"
    assert told == "stored ending max_tokens: the answer was cut off, not sent"
    assert "stopped after turn 1" in stopped


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": [{"observation": "Other text.", "action": "Action: guess 1"}]},
        {"final_observation": "Other text."},
    ],
    ids=["first", "last"],
)
def test_a_replay_that_differs_is_an_error(play, recording, changes):
    done = play(f"--replay={recording(**changes)}")
    assert done.returncode == 1
    assert "differs from what was stored:\nOther text." in done.stdout


def test_a_stored_configuration_is_used_unless_flags_differ(play, recording):
    place = recording(config={"profile": "agentgym", "max_turns": 3})
    assert "turn 2 of 3" in play(f"--replay={place}").stdout
    done = play(f"--replay={place}", "--max_turns=2")
    assert "profile agentgym" in done.stdout and "turn 2 of 2" in done.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--env=guess_numbr"], r"unknown environment 'guess_numbr'.*guess_number"),
        ([], "--env is missing; choose one of"),
        (
            ["--env=guess_number", "--task=textcraft_0"],
            "ids look like 'guess_number_0'",
        ),
        (["--env=guess_number", "--task=guess_number_500"], "no task 500"),
        (["--env=guess_number", "--taks=1"], "Unknown command line flag 'taks'.*task"),
        (["--env=guess_number", "guess_number_0"], "unexpected arguments"),
        (["--env=guess_number", "--option=a"], "write --option=key=value"),
        (["--env=guess_number", "--option=a=1"], "has no option 'a'"),
        (["--env=guess_number", "--profile=lenient"], "strict|agentgym"),
        (
            ["--env=guess_number", "--checkpoint=/tmp/no/run"],
            "no directory at /tmp/no/run; give the working directory of a run",
        ),
        (
            ["--env=guess_number", "--oracle=observational", "--temperature=0.3"],
            "--temperature has no effect without a policy",
        ),
        (["--env=guess_number", "--seed=5"], "--seed has no effect without a policy"),
        (["--replay=nowhere.jsonl", "--tokens"], "--tokens has no effect"),
        (["--replay=nowhere.jsonl", "--take_over"], "--take_over has no effect"),
        (["--replay=nowhere.jsonl", "--own_task"], "--own_task has no effect"),
        (["--replay=nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["--replay=guess_number.py"], "guess_number.py:1 is not an episode"),
        (["--replay=guess_number.py:9999"], "there is no line 9999"),
        (["--replay=guess_number.py:0"], "guess_number.py:0 is not an episode"),
    ],
)
def test_what_cannot_be_played_is_told(play, flags, message):
    done = play(*flags)
    assert done.returncode not in (0, 130)
    assert re.search(message, done.stdout + done.stderr, re.DOTALL)
    assert "Traceback" not in done.stderr


def test_a_replay_takes_no_other_task(play, recording):
    done = play(f"--replay={recording()}", "--env=guess_number")
    assert done.returncode == 1 and "leave out --env" in done.stderr


@pytest.fixture
def broken(play):
    """Plays the example with one part replaced, in a folder of its own."""
    source = (play.folder / "guess_number.py").read_text()

    def run(part, other, *flags, typed=""):
        assert source.count(part) == 1, part
        (play.folder / "guess_number.py").write_text(source.replace(part, other))
        return play("--env=guess_number", *flags, typed=typed)

    yield run
    (play.folder / "guess_number.py").write_text(source)


ORACLE = "--oracle=observational"
FIRST = 'return "What is your first guess?"'
CORRECT = '"Correct.", 1.0'
ADVICE = 'return parsing.render_react(thought, f"guess'
RULES = 'return (\n            f"I picked'


@pytest.mark.parametrize(
    "part, other, flags, place, problem",
    [
        (
            CORRECT,
            '"Correct.", "1"',
            ["--oracle=privileged"],
            "turn 1, on the answer 'Thought:",
            "reward is '1' (str); it must be a finite number.",
        ),
        (
            "hint = ",
            "return None; hint = ",
            [],
            "turn 1, on the answer '",
            "_apply() returned None (NoneType); it must return a StepResult.",
        ),
        (FIRST, "return None", [], "its reset", "the first observation is None"),
        (FIRST, "return None", [ORACLE], "its reset", "the first observation is None"),
        (RULES, 'return 3 and (3,\n f"I', [], "its reset", "instruction is ("),
        (
            ADVICE,
            'return f"{thought}" and None, (f"',
            [ORACLE],
            "its reset",
            "answer is",
        ),
        (
            "return parsing.render_react(thought",
            'return "It is" not in observation and parsing.render_react(thought',
            [ORACLE],
            "turn 1, on the answer 'Thought:",
            "the oracle's answer is False (bool); it must be a str.",
        ),
    ],
)
def test_what_a_worker_would_refuse_is_told_in_its_words(
    broken, part, other, flags, place, problem
):
    done = broken(part, other, "--task=guess_number_3", *flags, typed="guess 1\n" * 9)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    told = f"launch.play: environment 'guess_number', task guess_number_3, {place}"
    assert told in done.stderr and problem in done.stderr


def test_an_available_action_that_is_no_text_is_told(broken):
    done = broken('[f"guess {number}" for', "[number for", typed="?\n")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "an available action is 1 (int); it must be a str." in done.stderr
