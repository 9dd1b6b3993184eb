"""The study that comes with the library: cells of every axis, at every scale."""

import pytest

from agentrl.experiment import rules
from agentrl.experiments.generalization import published, scale, scales, study
from agentrl.study import graph, spec


@pytest.mark.parametrize(
    ("scale", "devices"),
    [("laptop", 2), ("short", 2), ("small", 2), ("small_cpu", 1), ("paper", 8)],
)
def test_cells_of_every_axis_are_runs_that_can_begin(scale, devices):
    made = study.get_study(scale, ())
    made.validate()
    assert {cell.axis for cell in made.cells} == set(spec.AXES)
    for cell in {cell.axis: cell for cell in made.cells}.values():
        settings = made.settings_of(cell, 0)
        settings.validate(num_devices=devices)
        rules.check_evaluation(settings, num_devices=devices)
    nodes = graph.build(made.select((), (0,))).nodes
    assert len(nodes) < sum(len(c.stages) for c in made.cells if c.axis != "pair")


def test_orders_hold_all_environments_and_budgets_are_equal():
    for order in study.ORDERS.values():
        assert sorted(order) == sorted(scale.ENVIRONMENTS)
    assert study.ORDERS["hard_to_easy"] == study.ORDERS["easy_to_hard"][::-1]
    made = study.get_study("laptop", ())

    def budget(cell):
        reinforced = [stage for stage in cell.stages if not stage.supervised]
        return sum(s.num_iterations * s.rollout.num_episodes for s in reinforced)

    by_axis = {
        axis: {budget(cell) for cell in made.cells if cell.axis == axis}
        for axis in ("sequence", "mixture", "within")
    }
    assert by_axis["sequence"] == by_axis["mixture"] and len(by_axis["mixture"]) == 1
    assert len(by_axis["within"]) == 1


def test_no_tier_was_demonstrated_more_than_the_other():
    made = study.get_study("laptop", ())
    for cell in (cell for cell in made.cells if cell.axis == "within"):
        first = cell.stages[0]
        assert first.supervised and first.mixture.tier == "all"
        for tiers in made.difficulty.values():
            assert {s for t in tiers.values() for s in t} <= set(first.mixture.subsets)


def test_numbers_of_the_paper_have_a_source():
    assert all(number.source and number.after for number in published.NUMBERS)
    with pytest.raises(ValueError, match="no environment 'sciworld'"):
        scales.make("laptop", ["sciworld"])


def test_only_environments_with_lists_have_more_room_for_them():
    made = study.get_study("laptop", ())
    cells = [cell for cell in made.cells if cell.axis == "interface"]
    assert [cell.name for cell in cells] == [
        "babyai lists_always",
        "babyai lists_never",
    ]
    for cell in cells:
        rooms = cell.evaluation.rollouts
        plain = made.base.evaluation.rollouts
        assert rooms["babyai"].max_tokens == 3 * plain["babyai"].max_tokens
        assert {env: rooms[env] for env in rooms if env != "babyai"} == {
            env: plain[env] for env in plain if env != "babyai"
        }
        (variant,) = cell.variants
        assert "--envs=babyai" in variant.flags  # others are tested as ever
        assert cell.learner.row_tokens >= cell.stages[0].rollout.max_tokens
