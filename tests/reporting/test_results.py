import dataclasses
import itertools
import json

import fake_run
import numpy as np
import pytest

from agentrl import errors
from agentrl.statistics import results, summaries

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


LOST = fake_run.with_success(RESULT, [[1, None, 1], [None, None, None], [0, 1, 0]])


def test_lost_samples_enter_no_statistic(tmp_path):
    assert LOST.lost == (1, 3, 0)
    assert (LOST.num_lost, LOST.num_lost_tasks) == (4, 1)
    assert LOST.task_means == {"textcraft_0": 1.0, "textcraft_2": pytest.approx(1 / 3)}
    assert LOST.mean == pytest.approx((1 + 1 / 3) / 2)
    average = summaries.average(LOST)
    assert average.mean == pytest.approx(LOST.mean)
    # pass@3 of the first task from the two samples that it has.
    assert summaries.pass_at_k(LOST, 3).mean == 1.0
    assert summaries.pass_at_k(LOST, 2).mean == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ValueError, match=r"pass@4 needs at least 4 samples, not 3"):
        summaries.pass_at_k(LOST, 4)

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


def test_result_whose_rows_do_not_match_its_tasks_is_reported(tmp_path):
    dataclasses.replace(RESULT, score=RESULT.score[1:]).save(tmp_path)
    with pytest.raises(errors.DamagedFileError, match="score is not one row"):
        results.load_all(tmp_path)
