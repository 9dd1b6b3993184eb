import dataclasses
import itertools
import json

import fake_run
import numpy as np
import pytest

from agentrl import errors
from agentrl.reporting import results, transfer


def with_success(result, rows):
    rows = tuple(tuple(None if x is None else bool(x) for x in row) for row in rows)
    table = tuple(tuple(None if x is None else 0 for x in row) for row in rows)
    return dataclasses.replace(
        result,
        item_ids=tuple(f"textcraft_{i}" for i in range(len(rows))),
        success=rows,
        score=table,
        turns=table,
        tokens=table,
    )


RESULT = fake_run.make_result("warm", 8, "textcraft", 0.5)


@pytest.mark.parametrize(("n", "c"), [(4, 0), (4, 1), (4, 3), (4, 4), (8, 2)])
def test_pass_at_k_is_the_chance_over_all_choices_of_k(n, c):
    for k in range(1, n + 1):
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        chance = np.mean([any(draw) for draw in draws])

        assert results.pass_at_k(n, c, k) == pytest.approx(chance)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match=r"pass@5 needs at least 5 samples, not 4"):
        results.pass_at_k(4, 1, 5)


def test_averages_by_hand():
    result = with_success(RESULT, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])

    assert results.avg_at_k(result).mean == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert results.mean_pass_at_k(result, 1) == pytest.approx((0.5 + 0.25 + 0) / 3)
    # pass@2 of two in four: 1 - C(2,2)/C(4,2) = 5/6; of one in four: 1 - 3/6.
    assert results.mean_pass_at_k(result, 2) == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)


def test_interval_is_of_the_mean_over_tasks():
    values = np.random.default_rng(3).normal(0.4, 0.2, 200)

    estimate = results.bootstrap(values, num_resamples=4000)

    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert results.bootstrap(values, num_resamples=4000) == estimate
    assert results.bootstrap(values, num_resamples=4000, seed=1) != estimate


def test_samples_of_one_task_do_not_narrow_the_interval():
    """Eight samples that all agree are worth as much as one."""
    one = with_success(RESULT, [[1], [0], [1], [0], [1]])
    eight = with_success(RESULT, [[1] * 8, [0] * 8, [1] * 8, [0] * 8, [1] * 8])

    assert results.avg_at_k(one) == results.avg_at_k(eight)


def test_paired_difference_removes_the_difficulty_of_tasks():
    rng = np.random.default_rng(0)
    solved = rng.integers(0, 7, 10)
    before = with_success(RESULT, [[1] * n + [0] * (8 - n) for n in solved])
    after = with_success(RESULT, [[1] * (n + 2) + [0] * (6 - n) for n in solved])

    gain = results.paired_difference(before, after)

    assert gain == results.Estimate(*[pytest.approx(0.25)] * 3)
    assert gain.excludes_zero
    assert results.avg_at_k(after).low < results.avg_at_k(before).high


@pytest.mark.parametrize(
    "change", [{"panel_digest": "other"}, {"env": "babyai"}, {"item_ids": ("x",) * 10}]
)
def test_results_on_other_tasks_do_not_compare(change):
    other = dataclasses.replace(RESULT, stage="later", **change)

    with pytest.raises(errors.ConfigError, match=r"'warm' on textcraft test .*'later'"):
        results.paired_difference(RESULT, other)


def test_stored_result_comes_back_equal_and_in_learning_order(tmp_path):
    found = [
        fake_run.make_result(stage, step, env, 0.5)
        for stage, step in [("zeta", 8), ("alpha", 16)]
        for env in ("textcraft", "babyai")
    ]
    for result in reversed(found):
        result.save(tmp_path)

    assert results.load_all(tmp_path, ["textcraft", "babyai"]) == found
    assert results.load_all(tmp_path / "empty") == []


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "s"}'])
def test_foreign_result_is_reported(tmp_path, text):
    path = RESULT.save(tmp_path)
    path.write_text(text)
    with pytest.raises(errors.DamagedFileError, match=r"warm\.textcraft\.test\.all"):
        results.load_all(tmp_path)


LOST = with_success(RESULT, [[1, None, 1], [None, None, None], [0, 1, 0]])


def test_lost_samples_enter_no_statistic(tmp_path):
    assert LOST.lost == (1, 3, 0)
    assert (LOST.num_lost, LOST.num_lost_tasks) == (4, 1)
    assert LOST.task_means == {"textcraft_0": 1.0, "textcraft_2": pytest.approx(1 / 3)}
    assert LOST.mean == results.avg_at_k(LOST).mean == pytest.approx((1 + 1 / 3) / 2)
    # pass@3 of the first task from the two samples that it has.
    assert results.mean_pass_at_k(LOST, 3) == 1.0
    assert results.mean_pass_at_k(LOST, 2) == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ValueError, match=r"pass@4 needs at least 4 samples, not 3"):
        results.mean_pass_at_k(LOST, 4)

    path = LOST.save(tmp_path)
    assert results.load(path) == LOST
    assert json.loads(path.read_text())["lost"] == [1, 3, 0]


def test_a_result_from_before_losses_were_counted_still_loads(tmp_path):
    path = RESULT.save(tmp_path)
    record = json.loads(path.read_text())
    del record["lost"]
    path.write_text(json.dumps(record))
    assert results.load(path) == RESULT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lost": [0, 3, 0]}, "lost is"),
        ({"score": [[1, 1, 1], [None] * 3, [0, 1, 0]]}, "do not lack the same samples"),
        ({"item_ids": ["textcraft_0"] * 3}, "a task comes twice"),
        (
            {name: [[None] * 3] * 3 for name in ("success", "score", "turns", "tokens")}
            | {"lost": [3, 3, 3]},
            "no task has a finished sample",
        ),
    ],
)
def test_a_result_that_miscounts_its_losses_is_reported(tmp_path, change, message):
    path = LOST.save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(errors.DamagedFileError, match=message):
        results.load(path)


def test_a_difference_takes_the_tasks_that_both_have_finished():
    before = with_success(RESULT, [[0, 0], [None, None], [0, 1], [1, 1]])
    after = with_success(RESULT, [[None, 1], [1, 1], [1, 1], [None, None]])

    gain = results.paired_difference(before, after)

    assert results.common_tasks(before, after) == ("textcraft_0", "textcraft_2")
    assert gain.mean == pytest.approx((1.0 + 0.5) / 2)
    nothing = with_success(RESULT, [[None, None]] * 3 + [[1, 1]])
    with pytest.raises(errors.ConfigError, match="no task of textcraft test"):
        results.paired_difference(nothing, after)


def test_a_matrix_copes_with_tasks_that_one_stage_lost():
    def after(stage, step, rows):
        return dataclasses.replace(with_success(RESULT, rows), stage=stage, step=step)

    matrix = transfer.to_matrix(
        [
            # On its one finished task better than the last stage, which has lost it.
            after("a", 1, [[1, 1], [None, None], [None, None]]),
            after("b", 2, [[0, 0], [1, 1], [1, 1]]),
            after("c", 3, [[None, None], [1, 0], [1, None]]),
        ]
    )

    assert matrix.change("a", "c", "textcraft") is None
    assert matrix.change("b", "c", "textcraft").mean == pytest.approx(-0.25)
    assert matrix.change("a", "b", "textcraft").mean == -1.0
    assert matrix.forgetting("textcraft").mean == pytest.approx(0.25)


def test_result_whose_rows_do_not_match_its_tasks_is_reported(tmp_path):
    dataclasses.replace(RESULT, score=RESULT.score[1:]).save(tmp_path)
    with pytest.raises(errors.DamagedFileError, match="score is not one row"):
        results.load_all(tmp_path)


def make_matrix(**rates):
    """Success after each stage, as {panel: rate}."""
    return transfer.to_matrix(
        [
            fake_run.make_result(stage, step, env, rate)
            for step, (stage, by_env) in enumerate(rates.items())
            for env, rate in by_env.items()
        ]
    )


def test_forgetting_compares_the_last_stage_with_the_best_before():
    matrix = make_matrix(
        a={"textcraft": 0.25, "babyai": 0.25},
        b={"textcraft": 1.0, "babyai": 0.25},
        c={"textcraft": 0.5, "babyai": 0.75},
    )

    assert matrix.stages == ("a", "b", "c")
    assert matrix.panels == ("textcraft", "babyai")
    assert matrix.forgetting("textcraft").mean == pytest.approx(0.5)
    assert matrix.forgetting("babyai").mean == pytest.approx(-0.5)
    assert matrix.change("a", "b", "textcraft").mean == pytest.approx(0.75)


def test_what_was_not_evaluated_stays_empty():
    matrix = make_matrix(a={"textcraft": 0.5}, b={"babyai": 0.5})

    assert matrix.change("a", "b", "textcraft") is None
    assert matrix.forgetting("babyai") is None


def test_panels_are_told_apart_by_split_and_tier():
    easy = fake_run.make_result("a", 1, "babyai", 0.5)
    hard = dataclasses.replace(easy, tier="hard", split="train")

    assert transfer.to_matrix([easy]).panels == ("babyai",)
    matrix = transfer.to_matrix([easy, hard])
    assert matrix.panels == ("babyai (test)", "babyai (train, hard)")
    assert matrix.environments == ("babyai", "babyai")
