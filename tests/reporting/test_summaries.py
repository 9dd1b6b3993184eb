import dataclasses

import fake_run
import numpy as np
import pytest

from agentrl import errors
from agentrl.statistics import intervals, summaries

RESULT = fake_run.make_result("warm", 8, "textcraft", 0.5)


def with_score(result, rows):
    return dataclasses.replace(result, score=tuple(map(tuple, rows)))


def test_averages_by_hand():
    result = fake_run.with_success(RESULT, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])

    average = summaries.average(result)

    assert average.mean == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert average == intervals.share(np.array([0.5, 0.25, 0]), samples=4)
    assert summaries.pass_at_k(result, 1).mean == pytest.approx(0.25)
    # pass@2 of two in four: 1 - C(2,2)/C(4,2) = 5/6; of one in four: 1 - 3/6.
    assert summaries.pass_at_k(result, 2).mean == pytest.approx((5 / 6 + 1 / 2) / 3)


def test_samples_of_one_task_do_not_narrow_the_interval():
    """Eight samples that all agree are worth as much as one."""
    rows = [[1], [0], [1], [0], [1]]
    one = fake_run.with_success(RESULT, rows)
    eight = fake_run.with_success(RESULT, [row * 8 for row in rows])

    assert summaries.average(one) == summaries.average(eight)


def test_nothing_solved_is_not_certain():
    nothing = fake_run.with_success(RESULT, [[0] * 8] * 32)

    average, best = summaries.average(nothing), summaries.pass_at_k(nothing, 8)

    assert (average.mean, average.low) == (0, 0)
    assert 0.05 < average.high < 0.15
    assert 0.05 < best.high < 0.15


def test_seeds_are_averaged_task_by_task():
    first = fake_run.with_success(RESULT, [[1, 1], [0, 0], [0, 0]])
    second = fake_run.with_success(RESULT, [[0, 0], [0, 0], [1, 1]])

    average = summaries.average([first, second])

    assert average == intervals.share(np.array([0.5, 0, 0.5]), samples=4)


def test_scores_outside_of_0_to_1_have_a_t_interval():
    result = fake_run.with_success(RESULT, [[0, 0], [0, 0], [0, 0]])
    result = with_score(result, [[-1.0, -3.0], [2.0, 4.0], [1.0, 3.0]])

    average = summaries.average(result, "score")

    half = 4.302653 * np.std([-2, 3, 2], ddof=1) / np.sqrt(3)
    assert average.mean == pytest.approx(1)
    assert average.high == pytest.approx(1 + half)
    assert average.low == pytest.approx(1 - half)


def test_score_is_told_apart_from_success():
    result = fake_run.with_success(RESULT, [[0, 1], [0, 0]])
    result = with_score(result, [[0.5, 1.0], [0.25, 0.75]])

    assert summaries.average(result, "success").mean == 0.25
    assert summaries.average(result, "score").mean == 0.625


def test_a_difference_removes_the_difficulty_of_tasks():
    solved = np.random.default_rng(0).integers(0, 7, 10)
    before = fake_run.with_success(RESULT, [[1] * n + [0] * (8 - n) for n in solved])
    after = fake_run.with_success(
        RESULT, [[1] * (n + 2) + [0] * (6 - n) for n in solved]
    )

    gain = summaries.change(before, after)

    assert gain.mean == pytest.approx(0.25)
    assert gain.excludes_zero
    assert gain.high - gain.low < 0.1
    assert summaries.average(after).low < summaries.average(before).high


@pytest.mark.parametrize(
    "change", [{"panel_digest": "other"}, {"env": "babyai"}, {"item_ids": ("x",) * 10}]
)
def test_results_on_other_tasks_do_not_compare(change):
    other = dataclasses.replace(RESULT, stage="later", **change)

    with pytest.raises(errors.ConfigError, match=r"'warm' on textcraft test .*'later'"):
        summaries.change(RESULT, other)


def test_a_difference_takes_the_tasks_that_both_have_finished():
    before = fake_run.with_success(RESULT, [[0, 0], [None, None], [0, 1], [1, 1]])
    after = fake_run.with_success(RESULT, [[None, 1], [1, 1], [1, 1], [None, None]])

    gain = summaries.change(before, after)

    assert summaries.common_tasks([before, after]) == ("textcraft_0", "textcraft_2")
    assert gain.mean == pytest.approx((1.0 + 0.5) / 2)
    nothing = fake_run.with_success(RESULT, [[None, None]] * 3 + [[1, 1]])
    with pytest.raises(errors.ConfigError, match="no task of textcraft test"):
        summaries.change(nothing, after)


def test_recipes_need_seeds_and_have_wider_intervals():
    rng = np.random.default_rng(1)

    def make(rate):
        return fake_run.with_success(RESULT, rng.random((40, 8)) < rate)

    before, after = [make(0.2) for _ in range(3)], [make(r) for r in (0.3, 0.5, 0.7)]

    policies = summaries.difference({"e": before}, {"e": after})
    recipe = summaries.difference({"e": before}, {"e": after}, claim="recipe")

    assert policies.mean == pytest.approx(recipe.mean)
    assert recipe.high - recipe.low > 3 * (policies.high - policies.low)
    one = summaries.difference({"e": before[:1]}, {"e": after[:1]}, claim="recipe")
    assert one is None
    assert summaries.difference({}, {}) is None


def test_a_result_is_sliced_by_label():
    result = fake_run.with_success(RESULT, [[1, 1], [0, 0], [1, 0]])

    parts = summaries.slice_result(
        result, lambda item: "odd" if item[-1] == "1" else "even"
    )

    assert list(parts) == ["even", "odd"]
    assert parts["even"].item_ids == ("textcraft_0", "textcraft_2")
    assert (parts["even"].mean, parts["odd"].mean) == (0.75, 0)
    assert len(parts["even"].tokens) == 2
