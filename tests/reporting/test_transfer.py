import dataclasses

import fake_run
import numpy as np
import pytest

from agentrl import config
from agentrl.statistics import intervals, transfer

RESULT = fake_run.make_result("warm", 8, "textcraft", 0.5)


def make_matrix(*seeds):
    """Success after each stage of each seed, as {stage: {environment: rate}}."""
    return transfer.to_matrix(
        {
            seed: [
                fake_run.make_result(stage, step, env, rate)
                for step, (stage, by_env) in enumerate(rates.items())
                for env, rate in by_env.items()
            ]
            for seed, rates in enumerate(seeds)
        }
    )


def make_stage(name, *environments, algorithm=config.Grpo):
    mixture = config.MixtureConfig(environments=tuple((e, 1.0) for e in environments))
    return config.StageConfig(
        name=name, algorithm=algorithm(), mixture=mixture, num_iterations=1
    )


SEQUENCE = (
    make_stage("warm", "textcraft", "babyai", algorithm=config.Supervised),
    make_stage("a", "textcraft"),
    make_stage("b", "babyai"),
)
RATES = {
    "warm": {"textcraft": 0.25, "babyai": 0.25, "alfworld": 0.5},
    "a": {"textcraft": 1.0, "babyai": 0.5, "alfworld": 0.5},
    "b": {"textcraft": 0.75, "babyai": 0.75, "alfworld": 0.25},
}


def test_seeds_do_not_overwrite_each_other():
    matrix = make_matrix(RATES, {**RATES, "b": {"textcraft": 0.25}})

    assert matrix.seeds == (0, 1)
    assert matrix.stages == ("warm", "a", "b")
    assert [r.mean for r in matrix.results_of("b", "textcraft")] == [0.75, 0.25]
    assert matrix.change("a", "b", "textcraft").mean == pytest.approx(-0.5)
    assert matrix.change("a", "b", "babyai").mean == pytest.approx(0.25)  # one seed


def test_plan_is_fixed_by_the_configuration():
    plan = transfer.Plan.of(SEQUENCE, RATES)

    assert (plan.baseline, plan.last) == ("warm", "b")
    assert plan.own == {"textcraft": "a", "babyai": "b"}
    assert plan.before_first == {"textcraft": "warm", "babyai": "a"}
    assert plan.trained == {"textcraft", "babyai"}


def test_own_stage_is_the_last_that_trained_on_the_environment_alone():
    stages = (
        make_stage("easy", "textcraft"),
        make_stage("hard", "textcraft"),
        make_stage("both", "textcraft", "babyai"),
    )

    plan = transfer.Plan.of(stages, ["hard", "both"])

    assert plan.own == {"textcraft": "hard", "babyai": "both"}
    assert plan.baseline == ""  # nothing was evaluated before reinforcement learning
    assert plan.before_first == {"babyai": "hard"}


def test_forward_transfer_ends_before_any_training_on_the_environment():
    """In A, then A, the gain of the first is training, not transfer."""
    warm, _, last = SEQUENCE
    twice = (warm, make_stage("a", "textcraft"), make_stage("b", "textcraft"))
    mixed = (warm, make_stage("a", "babyai", "alfworld"), last)
    matrix = make_matrix(RATES)

    plan = transfer.Plan.of(twice, matrix.stages)
    assert plan.own == {"textcraft": "b"}
    assert transfer.summarize(matrix, plan).forward is None
    plan = transfer.Plan.of(mixed, matrix.stages)
    assert plan.own["babyai"] == "b"
    assert transfer.summarize(matrix, plan).forward is None  # a mixture trained on it


def test_summary_by_hand():
    matrix = make_matrix(RATES)

    found = transfer.summarize(matrix, transfer.Plan.of(SEQUENCE, matrix.stages))

    assert found.held_in.mean == pytest.approx((0.5 + 0.5) / 2)
    assert found.held_out.mean == pytest.approx(-0.25)
    assert found.overall.mean == pytest.approx((0.5 + 0.5 - 0.25) / 3)
    assert found.backward.mean == pytest.approx(-0.25)  # of textcraft alone
    assert found.forward.mean == pytest.approx(0.25)  # of babyai, before its own stage
    assert found.forgetting["textcraft"].mean == pytest.approx(0.25)
    assert found.forgetting["babyai"] is None  # trained last
    assert found.forgetting["alfworld"] is None  # never trained
    assert found.largest_loss == {
        "textcraft": pytest.approx(0.25),
        "babyai": pytest.approx(-0.25),
        "alfworld": pytest.approx(0.25),
    }


def test_forgetting_is_not_chosen_by_the_numbers():
    """Policies that differ by noise alone: own stage unbiased, the maximum biased."""
    rng = np.random.default_rng(0)
    stages = [
        make_stage(f"s{i}", "textcraft" if i == 0 else "babyai") for i in range(6)
    ]
    own, largest, called = [], [], 0
    for _ in range(150):
        difficulty = rng.beta(0.5, 0.5, 31)
        found = []
        for stage in stages:
            rows = rng.random((31, 8)) < difficulty[:, None]
            result = fake_run.with_success(RESULT, rows)
            found.append(dataclasses.replace(result, stage=stage.name))
        matrix = transfer.to_matrix({0: found})
        plan = transfer.Plan.of(stages, matrix.stages)
        value = transfer.summarize(matrix, plan).forgetting["textcraft"]
        own.append(value.mean)
        called += value.low > 0
        largest.append(matrix.largest_loss("textcraft"))

    assert abs(np.mean(own)) < 0.01
    assert np.mean(largest) > 0.015
    assert called / 150 < 0.07  # 2.5 % is right


def test_seeds_allow_a_claim_about_the_recipe():
    other = {**RATES, "b": {"textcraft": 1.0, "babyai": 1.0, "alfworld": 0.25}}
    matrix = make_matrix(RATES, other, RATES)
    plan = transfer.Plan.of(SEQUENCE, matrix.stages)

    policies = transfer.summarize(matrix, plan)
    recipe = transfer.summarize(matrix, plan, claim="recipe")

    assert policies.held_in.mean == pytest.approx(recipe.held_in.mean)
    width = recipe.held_in.high - recipe.held_in.low
    assert width > policies.held_in.high - policies.held_in.low
    assert transfer.summarize(make_matrix(RATES), plan, claim="recipe").held_in is None


def test_average_and_worst_environment():
    matrix = make_matrix(RATES)

    average = transfer.average_environment(matrix, "b")
    name, worst = transfer.worst_environment(matrix, "b")

    assert average.mean == pytest.approx((0.75 + 0.75 + 0.25) / 3)
    one = intervals.share(np.full(10, 0.25), samples=4)
    assert name == "alfworld"
    assert worst.mean == 0.25
    assert worst.low < one.low  # wider: which one is worst was chosen by the numbers
    assert average.high - average.low < one.high - one.low
    assert transfer.average_environment(matrix, "nowhere") is None


def test_gap_to_joint_training():
    ours = {"textcraft": [RESULT], "babyai": [RESULT]}
    theirs = {"textcraft": [fake_run.make_result("joint", 8, "textcraft", 0.75)]}

    assert transfer.gap(ours, theirs).mean == pytest.approx(0.25)
    assert transfer.gap(ours, {}) is None


def test_what_was_not_evaluated_stays_empty():
    matrix = make_matrix({"a": {"textcraft": 0.5}, "b": {"babyai": 0.5}})

    assert matrix.change("a", "b", "textcraft") is None
    assert matrix.largest_loss("babyai") is None
    empty = transfer.to_matrix({0: []})
    found = transfer.summarize(empty, transfer.Plan.of(SEQUENCE, ()))
    assert found.overall is None
    assert transfer.worst_environment(empty, "") is None


def test_a_matrix_copes_with_tasks_that_one_stage_lost():
    def after(stage, step, rows):
        result = fake_run.with_success(RESULT, rows)
        return dataclasses.replace(result, stage=stage, step=step)

    matrix = transfer.to_matrix(
        {
            0: [
                # On its one finished task better than the last stage, which lost it.
                after("a", 1, [[1, 1], [None, None], [None, None]]),
                after("b", 2, [[0, 0], [1, 1], [1, 1]]),
                after("c", 3, [[None, None], [1, 0], [1, None]]),
            ]
        }
    )

    assert matrix.change("a", "c", "textcraft") is None
    assert matrix.change("b", "c", "textcraft").mean == pytest.approx(-0.25)
    assert matrix.change("a", "b", "textcraft").mean == -1.0
    assert matrix.largest_loss("textcraft") == pytest.approx(0.25)


def test_panels_are_told_apart_by_split_and_tier():
    easy = fake_run.make_result("a", 1, "babyai", 0.5)
    hard = dataclasses.replace(easy, tier="hard", split="train")

    assert transfer.to_matrix({0: [easy]}).panels == ("babyai",)
    matrix = transfer.to_matrix({0: [easy, hard]})
    assert matrix.panels == ("babyai (test)", "babyai (train, hard)")
    assert matrix.environments == ("babyai", "babyai")
    assert matrix.main_panels() == {"babyai": "babyai (test)"}
