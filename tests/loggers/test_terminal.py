"""Lines of the progress table, and what they say of the time that is left."""

import io

import fake_run
import rich.console

from agentrl import types
from agentrl.loggers import terminal

VALUES = {
    "rollout/return": 0.25,
    "rollout/success": 0.5,
    "rollout/zero_variance_groups": 0.375,
    "policy/loss": 1.0,
    "policy/behavior_kl": 0.0123,
    "policy/entropy": 1.5,
    "perf/decode_tokens_per_second": 1234.0,
}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_bar(iterations, *, total=10, on_terminal=False):
    """Output if iteration `done` of a stage ends at `time`: (time, stage, done, values)."""
    output, clock = io.StringIO(), Clock()
    settings = fake_run.make_settings(total)
    bar = terminal.ProgressBar(
        settings,
        console=rich.console.Console(file=output, force_terminal=on_terminal, width=80),
        clock=clock,
    )
    bar.start()
    for now, stage, done, values in iterations:
        clock.now = now
        name = settings.stages[stage].name
        bar.update(types.Progress(stage=stage, stage_name=name, iteration=done), values)
    bar.stop()
    return output.getvalue().splitlines()


def test_lines_are_a_few_seconds_apart_and_end_with_the_stage():
    times = [0, 1, 2, 6, 7, 8, 9, 10, 10.5, 10.6]

    lines = run_bar([(now, 1, n, VALUES) for n, now in enumerate(times, 1)])

    assert lines == [
        "stage 2/3 textcraft: 10 iterations",
        "       it return success signal     KL entropy  tok/s   s/it     left  run left",
        "     1/10  0.250   50.0%    62% 0.0123   1.500  1,234      -        -         -",
        # 6 s for 3 more iterations: 12 s for the 6 that are left, 32 s with the 10 of the
        # stage to come.
        "     4/10  0.250   50.0%    62% 0.0123   1.500  1,234   2.00     0:12      0:32",
        "    10/10  0.250   50.0%    62% 0.0123   1.500  1,234   1.18     0:00      0:12",
    ]
    assert max(map(len, lines)) <= 80


def test_wide_values_stay_within_80_columns():
    values = VALUES | {
        "rollout/return": -123.456,
        "policy/reference_kl": 12.3456,
        "policy/entropy": 12.345,
        "perf/decode_tokens_per_second": 123456.0,
        "time/total": 1234.5,
    }
    lines = run_bar([(0, 1, 1, values), (9000, 1, 2, values)], total=1000)
    assert max(map(len, lines)) <= 80
    assert "ref KL" in lines[1]
    cells = "2/1000 -123 50.0% 62% 12.3 12.345 123k 9000 103d 23h 208d 3h"
    assert lines[3].split() == cells.split()


def test_nothing_is_said_of_a_policy_that_was_not_trained():
    untrained = VALUES | {"learner/action_tokens": 0, "policy/entropy": 0.0}
    *_, line = run_bar([(0, 1, 1, untrained)])
    cells = "1/10 0.250 50.0% 62% - - 1,234 - - -"
    assert line.split() == cells.split()


def test_supervised_stages_have_their_own_columns():
    lines = run_bar([(0, 0, 1, {"policy/loss": 2.5, "time/total": 3.0})])
    assert "loss" in lines[1] and "return" not in lines[1]
    assert "2.5000" in lines[2] and "3.00" in lines[2]
    # Nothing is known of stages that play.
    assert lines[2].split()[-2:] == ["0:27", "-"]


def test_time_left_is_counted_from_where_this_session_began():
    lines = run_bar([(0, 2, 5, {}), (3600, 2, 6, {})])
    assert lines[-1].split()[-2:] == ["4:00:00", "4:00:00"]


def test_what_lies_between_stages_is_counted_once_it_has_been_seen():
    values = VALUES | {"time/total": 1.0}
    one_stage = [(n, 0, n, {"time/total": 1.0}) for n in range(1, 11)]
    # 60 s between the stages, then an iteration of 1 s.
    lines = run_bar([*one_stage, (71.0, 1, 1, values), (72.0, 1, 2, values)])
    # 9 iterations, an evaluation, 10 iterations, an evaluation.
    assert lines[-1].split()[-2:] == ["0:09", f"2:{19:02}"]


def test_the_header_comes_again():
    lines = run_bar([(6.0 * n, 1, n, VALUES) for n in range(1, 25)], total=30)
    assert sum("return" in line for line in lines) == 2


def test_a_terminal_has_a_bar_below_the_same_lines():
    iterations = [(0, 1, 1, VALUES), (1, 1, 2, VALUES)]
    shown = "\n".join(run_bar(iterations, total=2, on_terminal=True))
    plain = run_bar(iterations, total=2)
    assert all(line in shown for line in plain)
    assert "2/2" in shown and "0:00 left" in shown
