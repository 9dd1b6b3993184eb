"""Which demonstrations an update learns from."""

import collections

import jax
import pytest

from agentrl import types
from agentrl.supervised import warmstart


def demonstration(env, index):
    task = types.Task(env, f"{env}_{index}", group=0, sample=0)
    return types.Trajectory(task, (), types.Ending.SOLVED, 0, True, 1.0)


def choose(sizes, weights, episodes, iterations):
    stored = [demonstration(e, i) for e, size in sizes.items() for i in range(size)]
    batches = [
        warmstart.choose_batch(
            stored,
            jax.random.key(0),
            iteration,
            weights=tuple(weights.items()),
            batch_size=episodes,
        )
        for iteration in range(iterations)
    ]
    return [[t.task.item_id for t in batch] for batch in batches]


def test_updates_follow_the_weights_of_the_mixture():
    batches = choose({"a": 7, "b": 5}, {"a": 3.0, "b": 1.0}, episodes=8, iterations=6)
    for batch in batches:
        counts = collections.Counter(item_id[0] for item_id in batch)
        assert counts == {"a": 6, "b": 2}


@pytest.mark.parametrize("episodes", [3, 5])
def test_shares_that_are_no_whole_numbers_even_out(episodes):
    batches = choose({"a": 9, "b": 9}, {"a": 2.0, "b": 1.0}, episodes, iterations=9)
    counts = collections.Counter(i[0] for batch in batches for i in batch)
    assert counts == {"a": 6 * episodes, "b": 3 * episodes}


@pytest.mark.parametrize(
    "weights",
    [(1, 1, 1), (1,) * 8, (5, 1, 1, 1), (0.7, 0.1, 0.1, 0.05, 0.05), (1, 0, 2)],
)
@pytest.mark.parametrize("episodes", [1, 4, 7])
def test_every_update_has_as_many_as_configured(weights, episodes):
    names = dict(zip("abcdefgh", map(float, weights), strict=False))
    batches = choose(dict.fromkeys(names, 5), names, episodes, iterations=40)
    assert {len(batch) for batch in batches} == {episodes}
    drawn = collections.Counter()
    for number, batch in enumerate(batches, start=1):
        drawn.update(item_id[0] for item_id in batch)
        for name, weight in names.items():
            share = number * episodes * weight / sum(weights)
            assert abs(drawn[name] - share) < 1.5


def test_each_epoch_visits_all_in_a_new_order():
    batches = choose({"a": 6}, {"a": 1.0}, episodes=3, iterations=4)
    first, second = batches[0] + batches[1], batches[2] + batches[3]
    assert sorted(first) == sorted(second) == [f"a_{i}" for i in range(6)]
    assert first != second


def test_an_environment_without_demonstrations_leaves_its_share_to_the_others():
    batches = choose({"a": 4}, {"a": 1.0, "b": 3.0}, episodes=4, iterations=2)
    assert [len(batch) for batch in batches] == [4, 4]
