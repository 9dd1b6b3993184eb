import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agentrl import config, errors, types
from agentrl.learner import packing

ENVS = {"farm": 0, "mine": 1}
SMALL = config.LearnerConfig(row_tokens=16, rows_per_microbatch=2, max_microbatches=20)
# Turns as (observation tokens, action tokens); the longest trajectory has 15 tokens.
TURNS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3
)
TRAJECTORIES = st.lists(TURNS, max_size=25)


def make_trajectory(lengths, first_token, env="farm"):
    """Tokens count up from `first_token`, so that order and origin can be read off."""
    token = first_token
    turns = []
    for num_observed, num_acted in lengths:
        observed = np.arange(token, token + num_observed, dtype=np.int32)
        acted = np.arange(num_acted, dtype=np.int32) + token + num_observed
        token += num_observed + num_acted
        logprobs = -acted.astype(np.float32)
        turns.append(types.Turn(observed, acted, logprobs, "see", "do", 0.0, True))
    return types.Trajectory(
        task=types.Task(env, f"{env}-{first_token}", group=0, sample=0),
        turns=tuple(turns),
        ending=types.Ending.SOLVED,
        policy_step=0,
        success=True,
        score=1.0,
    )


def make_trajectories(lengths_of_all):
    envs = list(ENVS)
    return [
        make_trajectory(lengths, 100 * (i + 1), envs[i % 2])
        for i, lengths in enumerate(lengths_of_all)
    ]


def pack(trajectories, advantages, settings=SMALL, num_batches=1, seed=0, **options):
    examples = []
    for trajectory, signal in zip(trajectories, advantages, strict=True):
        lengths = [len(turn.action_tokens) for turn in trajectory.turns]
        per_token = np.repeat(np.broadcast_to(signal, len(lengths)), lengths)
        examples.append(packing.Example(trajectory, per_token))
    return packing.to_train_batches(
        examples,
        ENVS,
        learner_config=settings,
        num_batches=num_batches,
        seed=seed,
        **options,
    )


def read_back(batches):
    """Segments of all batches, by the token they begin with."""
    found = {}
    for batch in batches:
        for row in np.ndindex(*batch.tokens.shape[:2]):
            ids = batch.segment_ids[row]
            for segment in range(1, ids.max() + 1):
                given = {k: v for k, v in vars(batch).items() if v is not None}
                fields = {k: v[row][ids == segment] for k, v in given.items()}
                found[fields["tokens"][0]] = fields
    return found


@hypothesis.settings(deadline=None)
@hypothesis.given(TRAJECTORIES, st.integers(1, 4), st.integers(0, 5))
def test_every_token_arrives_where_it_belongs(lengths_of_all, num_batches, seed):
    trajectories = make_trajectories(lengths_of_all)
    advantages = [
        np.arange(1.0, len(t.turns) + 1) + i for i, t in enumerate(trajectories)
    ]

    batches, report = pack(trajectories, advantages, num_batches=num_batches, seed=seed)

    assert len(batches) == num_batches
    found = read_back(batches)
    trained = [t for t in trajectories if t.num_action_tokens]
    assert len(found) == len(trained)
    assert report.num_left_out == len(trajectories) - len(trained)
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        if not trajectory.num_action_tokens:
            continue
        first = trajectory.turns[0].observation_tokens[0]
        fields = found[first]
        length = trajectory.num_tokens
        mask = fields["action_mask"]
        np.testing.assert_array_equal(fields["tokens"], first + np.arange(length))
        np.testing.assert_array_equal(fields["positions"], np.arange(length))
        np.testing.assert_array_equal(fields["env_ids"], ENVS[trajectory.task.env])
        acted = np.concatenate([t.action_tokens for t in trajectory.turns])
        np.testing.assert_array_equal(fields["tokens"][mask], acted)
        np.testing.assert_array_equal(fields["behavior_logprobs"][mask], -acted)
        credit = np.repeat(advantage, [len(t.action_tokens) for t in trajectory.turns])
        np.testing.assert_array_equal(fields["advantages"][mask], credit)
        assert not fields["behavior_logprobs"][~mask].any()
        assert not fields["advantages"][~mask].any()
    for batch in batches:
        padding = batch.segment_ids == 0
        for name in ("tokens", "positions", "action_mask", "advantages", "env_ids"):
            assert not getattr(batch, name)[padding].any()


@hypothesis.settings(deadline=None)
@hypothesis.given(TRAJECTORIES)
def test_rows_stay_within_the_bound_of_first_fit_decreasing(lengths_of_all):
    trajectories = make_trajectories(lengths_of_all)

    (batch,), report = pack(trajectories, np.ones(len(trajectories)))

    fill = (batch.segment_ids.reshape(-1, 16) > 0).sum(axis=1)
    fewest = -(-fill.sum() // 16)
    # The optimum is not known here. Twice the volume bounds every packing in which no
    # two rows could be merged.
    assert report.num_rows == np.count_nonzero(fill) <= max(2 * fewest, 1)
    assert (np.diff(fill) <= 0).all()  # fullest first
    if report.num_rows:
        computed = -(-report.num_rows // 2) * 2 * 16
        np.testing.assert_allclose(report.padding_fraction, 1 - fill.sum() / computed)


def test_packing_by_hand():
    # Lengths 9, 7, 6, 4, 4 into rows of 16: 9 + 7, then 6 + 4 + 4.
    lengths = [(1, 3), (1, 8), (2, 4), (4, 3), (1, 3)]
    trajectories = make_trajectories([[pair] for pair in lengths])

    (batch,), report = pack(trajectories, np.ones(5))

    assert report == packing.PackingReport(2, 0, 30, 21, 114, 1 - 30 / 32)
    np.testing.assert_array_equal(
        batch.segment_ids[0], [[1] * 9 + [2] * 7, [1] * 6 + [2] * 4 + [3] * 4 + [0] * 2]
    )
    assert not batch.segment_ids[1:].any()


def test_trajectories_without_signal_are_left_out_unless_kept():
    trajectories = make_trajectories([[(1, 2)], [(1, 2), (1, 1)], [(2, 2)]])
    advantages = [0.0, np.array([0.0, -1.0]), 0.5]

    left_out, report = pack(trajectories, advantages)
    kept, report_kept = pack(trajectories, advantages, keep_zero_variance=True)

    assert set(read_back(left_out)) == {200, 300}
    assert set(read_back(kept)) == {100, 200, 300}
    assert (report.num_left_out, report_kept.num_left_out) == (1, 0)


@pytest.mark.parametrize("num_batches", [1, 3])
def test_nothing_to_train_on_gives_padding(num_batches):
    batches, report = pack(
        make_trajectories([[(1, 2)]]), [0.0], num_batches=num_batches
    )

    assert len(batches) == num_batches
    assert not any(batch.segment_ids.any() for batch in batches)
    assert report == packing.PackingReport(0, 1, 0, 0, 0, 0.0)


def test_batches_with_a_critic_have_its_fields_even_if_empty():
    batches, _ = pack(make_trajectories([[(1, 2)]]), [0.0], has_critic=True)
    assert not batches[0].values.any() and not batches[0].returns.any()


def test_shuffle_depends_on_the_seed_alone():
    trajectories = make_trajectories([[(1, 2)]] * 12)

    def minibatches(seed):
        batches, _ = pack(trajectories, np.ones(12), num_batches=3, seed=seed)
        return [set(read_back([batch])) for batch in batches]

    assert minibatches(7) == minibatches(7)
    assert minibatches(7) != minibatches(8)
    assert [len(part) for part in minibatches(7)] == [4, 4, 4]


def test_too_many_rows_name_the_fields():
    trajectories = make_trajectories([[(1, 15)]] * 5)
    settings = dataclasses.replace(SMALL, max_microbatches=2)

    with pytest.raises(errors.ConfigError) as caught:
        pack(trajectories, np.ones(5), settings)

    assert "needs 5 rows of 16 tokens" in str(caught.value)
    assert "set learner.max_microbatches = 3 or more" in str(caught.value)


def test_long_trajectories_are_refused_not_cut():
    with pytest.raises(ValueError, match="'farm-100' has 17 tokens but rows only 16"):
        pack(make_trajectories([[(1, 16)]]), [1.0])


def test_a_trajectory_must_not_begin_with_an_action():
    with pytest.raises(ValueError, match="'farm-100' begins with an action"):
        pack(make_trajectories([[(0, 3)]]), [1.0])


def test_one_advantage_per_trajectory():
    with pytest.raises(ValueError, match="shorter"):
        pack(make_trajectories([[(1, 2)]] * 2), [1.0])
