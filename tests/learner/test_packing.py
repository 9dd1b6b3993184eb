import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agentrl import config, errors, types
from agentrl.learner import packing

SMALL = config.LearnerConfig(row_tokens=16, rows_per_microbatch=2, max_microbatches=20)
# Turns as (observation tokens, action tokens); the longest trajectory has 15 tokens.
TURNS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3
)
TRAJECTORIES = st.lists(TURNS, max_size=25)


def make_trajectory(lengths, first_token):
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
        task=types.Task("farm", f"farm-{first_token}", group=0, sample=0),
        turns=tuple(turns),
        ending=types.Ending.SOLVED,
        policy_step=0,
        success=True,
        score=1.0,
    )


def make_trajectories(lengths_of_all):
    return [
        make_trajectory(lengths, 100 * (i + 1))
        for i, lengths in enumerate(lengths_of_all)
    ]


def make_signal(trajectory, advantage, keep_zero=False):
    """A signal from the advantage of the episode or of each turn."""
    lengths = [len(turn.action_tokens) for turn in trajectory.turns]
    per_token = np.repeat(np.broadcast_to(advantage, len(lengths)), lengths)
    return types.Signal(per_token, rl_weights=float(keep_zero or per_token.any()))


def pack(trajectories, advantages, settings=SMALL, num_batches=1, seed=0, **options):
    keep_zero = options.pop("keep_zero", False)
    signals = [
        make_signal(*pair, keep_zero)
        for pair in zip(trajectories, advantages, strict=True)
    ]
    return packing.pack(
        trajectories,
        signals,
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
    assert report.num_dropped == len(trajectories) - len(trained)
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        if not trajectory.num_action_tokens:
            continue
        first = trajectory.turns[0].observation_tokens[0]
        fields = found[first]
        length = trajectory.num_tokens
        mask = fields["rl_weights"] != 0
        np.testing.assert_array_equal(fields["tokens"], first + np.arange(length))
        np.testing.assert_array_equal(fields["positions"], np.arange(length))
        acted = np.concatenate([t.action_tokens for t in trajectory.turns])
        np.testing.assert_array_equal(fields["tokens"][mask], acted)
        np.testing.assert_array_equal(fields["behavior_logprobs"][mask], -acted)
        credit = np.repeat(advantage, [len(t.action_tokens) for t in trajectory.turns])
        np.testing.assert_array_equal(fields["advantages"][mask], credit)
        assert not fields["behavior_logprobs"][~mask].any()
        assert not fields["advantages"][~mask].any()
    for batch in batches:
        padding = batch.segment_ids == 0
        for name in ("tokens", "positions", "rl_weights", "advantages"):
            assert not getattr(batch, name)[padding].any()


@hypothesis.settings(deadline=None)
@hypothesis.given(TRAJECTORIES, st.integers(1, 3), st.integers(0, 5))
def test_hosts_write_their_own_rows_of_one_batch(lengths_of_all, num_batches, seed):
    trajectories = make_trajectories(lengths_of_all)
    signals = np.ones(len(trajectories))
    whole, report = pack(trajectories, signals, num_batches=num_batches, seed=seed)

    of_hosts = [
        pack(
            trajectories, signals, num_batches=num_batches, seed=seed, local_rows={row}
        )
        for row in range(2)
    ]

    for row, (batches, same) in enumerate(of_hosts):
        assert same == report
        for batch, complete in zip(batches, whole, strict=True):
            for name, values in vars(batch).items():
                if values is not None:
                    wanted = getattr(complete, name)[:, row]
                    np.testing.assert_array_equal(values[:, row], wanted)
                    assert not values[:, 1 - row].any()


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


def test_trajectories_without_signal_are_dropped_unless_kept():
    trajectories = make_trajectories([[(1, 2)], [(1, 2), (1, 1)], [(2, 2)]])
    advantages = [0.0, np.array([0.0, -1.0]), 0.5]

    dropped, report = pack(trajectories, advantages)
    kept, report_kept = pack(trajectories, advantages, keep_zero=True)

    assert set(read_back(dropped)) == {200, 300}
    assert set(read_back(kept)) == {100, 200, 300}
    assert (report.num_dropped, report_kept.num_dropped) == (1, 0)


@pytest.mark.parametrize("num_batches", [1, 3])
def test_nothing_to_train_on_gives_padding(num_batches):
    batches, report = pack(
        make_trajectories([[(1, 2)]]), [0.0], num_batches=num_batches
    )

    assert len(batches) == num_batches
    assert not any(batch.segment_ids.any() for batch in batches)
    assert report == packing.PackingReport(0, 1, 0, 0, 0, 0.0)


def test_batches_have_the_streams_of_their_stage_even_if_nothing_fills_them():
    streams = ("ce_weights", "kl_weights", "old_values", "value_targets")
    (empty,), _ = pack(make_trajectories([[(1, 2)]]), [0.0], streams=streams)
    assert not any(getattr(empty, name).any() for name in streams)
    (plain,), _ = pack(make_trajectories([[(1, 2)]]), [1.0])
    assert all(getattr(plain, name) is None for name in streams)


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


def test_one_signal_per_trajectory():
    with pytest.raises(ValueError, match="shorter"):
        packing.pack(
            make_trajectories([[(1, 2)]] * 2),
            [types.Signal(rl_weights=1.0)],
            learner_config=SMALL,
            num_batches=1,
            seed=0,
        )


@pytest.mark.parametrize("num_batches", [1, 3])
def test_each_pass_visits_all_in_another_order(num_batches):
    trajectories = make_trajectories([[(1, 2)]] * 12)

    batches, report = pack(
        trajectories, np.ones(12), num_batches=num_batches, num_passes=2
    )

    visits = [list(read_back([batch])) for batch in batches]
    assert len(visits) == 2 * num_batches
    first, second = (
        [segment for visit in of_pass for segment in visit]
        for of_pass in (visits[:num_batches], visits[num_batches:])
    )
    everything = [100 * (i + 1) for i in range(12)]
    assert sorted(first) == sorted(second) == everything
    if num_batches > 1:
        assert [set(v) for v in visits[:3]] != [set(v) for v in visits[3:]]
    (_, alone) = pack(trajectories, np.ones(12), num_batches=num_batches)
    assert report.num_action_tokens == 2 * alone.num_action_tokens
    assert report.num_rows == 2 * alone.num_rows
    assert report.padding_fraction == pytest.approx(alone.padding_fraction)


@hypothesis.settings(deadline=None)
@hypothesis.given(TRAJECTORIES, st.integers(1, 3))
def test_unpack_reads_what_fill_wrote(lengths_of_all, max_microbatches):
    trajectories = make_trajectories(lengths_of_all)
    settings = dataclasses.replace(SMALL, max_microbatches=max_microbatches)
    signals = [types.Signal(rl_weights=1.0)] * len(trajectories)
    found = {}

    for placement in packing.place(trajectories, settings):
        batch = packing.fill(placement, trajectories, signals, settings)
        tokens = batch.tokens.reshape(-1, settings.row_tokens)[: len(placement.rows)]
        found |= packing.unpack(placement, trajectories, tokens)

    assert set(found) == {i for i, t in enumerate(trajectories) if t.num_action_tokens}
    for index, tokens in found.items():
        acted = np.concatenate([t.action_tokens for t in trajectories[index].turns])
        np.testing.assert_array_equal(tokens, acted)


def test_every_stream_lands_on_its_own_tokens():
    first, second = make_trajectories([[(1, 2), (2, 1)], [(2, 2)]])
    signals = [
        types.Signal(
            advantages=np.array([1.0, 2.0, 3.0]),
            rl_weights=np.array([0.5, 0.0, 0.25]),
            kl_weights=0.1,
            old_values=np.array([7.0, 8.0, 9.0]),
            value_targets=np.array([4.0, 5.0, 6.0]),
        ),
        types.Signal(ce_weights=0.75),
    ]
    streams = ("ce_weights", "kl_weights", "old_values", "value_targets")
    placement = packing.Placement(rows=((1, 0),), lengths=(6, 4))

    batch = packing.fill(placement, [first, second], signals, SMALL, streams=streams)

    def row(name):
        return getattr(batch, name)[0, 0, :11].tolist()

    assert row("segment_ids") == [1] * 4 + [2] * 6 + [0]
    assert row("advantages") == [0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 0]
    assert row("rl_weights") == [0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0.25, 0]
    assert row("ce_weights") == [0, 0, 0.75, 0.75, 0, 0, 0, 0, 0, 0, 0]
    tenth = float(np.float32(0.1))
    assert row("kl_weights") == [0, 0, 0, 0, 0, tenth, tenth, 0, 0, tenth, 0]
    assert row("old_values") == [0, 0, 0, 0, 0, 7, 8, 0, 0, 9, 0]
    assert row("value_targets") == [0, 0, 0, 0, 0, 4, 5, 0, 0, 6, 0]


PICTURE = """\
token       10  11  12  13  14  15  16  17  18  19  20
mask         0   0   0   0   1   1   1   0   0   1   1
segment      1   1   1   1   1   1   1   1   1   1   1
position     0   1   2   3   4   5   6   7   8   9  10
advantage    0   0   0   0   2   2   2   0   0  -1  -1
rl weight    0   0   0   0   1   1   1   0   0   1   1
logprob      0   0   0   0 -14 -15 -16   0   0 -19 -20
"""


def test_picture_of_a_three_turn_episode():
    # The second turn ends at once: its observation and the third's follow each other.
    episode = make_trajectory([(4, 3), (1, 0), (1, 2)], first_token=10)
    signal = make_signal(episode, [2.0, 9.0, -1.0])
    settings = config.LearnerConfig(
        row_tokens=11, rows_per_microbatch=1, max_microbatches=1
    )

    (batch,), _ = packing.pack(
        [episode], [signal], learner_config=settings, num_batches=1, seed=0
    )

    rows = {
        "token": batch.tokens,
        "mask": packing.action_mask(episode),
        "segment": batch.segment_ids,
        "position": batch.positions,
        "advantage": batch.advantages,
        "rl weight": batch.rl_weights,
        "logprob": batch.behavior_logprobs,
    }
    picture = "".join(
        f"{name:<10}" + "".join(f"{int(x):4d}" for x in np.ravel(row)) + "\n"
        for name, row in rows.items()
    )
    assert picture == PICTURE


def test_contexts_that_were_cut_become_pieces():
    """Three turns by hand: the second takes two tokens back, the third none."""

    def turn(observed, acted, num_cut=0, sampled=None):
        logprobs = -np.asarray(acted, np.float32)
        mask = None if sampled is None else np.asarray(sampled, bool)
        logprobs *= 1 if mask is None else mask
        numbers = np.asarray(observed, np.int32), np.asarray(acted, np.int32), logprobs
        return types.Turn(*numbers, "see", "do", 0.0, True, num_cut, mask)

    whole = dataclasses.replace(
        make_trajectory([], 0),
        turns=(
            turn([1, 2], [3, 4, 5]),
            turn([6, 7], [8, 9, 10], num_cut=2, sampled=[True, False, True]),
            turn([11], [12]),
        ),
    )
    assert whole.num_action_tokens == 6
    assert whole.max_context == 10  # 1 2 3 | 6 7 8 9 10 | 11 12
    advantages = np.arange(1.0, 7.0)
    (batch,), report = packing.pack(
        [whole],
        [types.Signal(advantages, rl_weights=1.0)],
        learner_config=SMALL,
        num_batches=1,
        seed=0,
    )
    row = np.argmax(batch.segment_ids[0].sum(axis=1))
    long = np.flatnonzero(batch.segment_ids[0, row] == 1)
    np.testing.assert_array_equal(
        batch.tokens[0, row, long], [1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    )
    np.testing.assert_array_equal(
        batch.advantages[0, row, long], [0, 0, 0, 0, 0, 4, 0, 5, 0, 6]
    )
    np.testing.assert_array_equal(
        batch.behavior_logprobs[0, row, long], [0, 0, 0, 0, 0, -8, 0, -10, 0, -12]
    )
    short = np.flatnonzero(batch.segment_ids[0, row] == 2)
    np.testing.assert_array_equal(batch.tokens[0, row, short], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(batch.advantages[0, row, short], [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(batch.positions[0, row, short], np.arange(5))
    assert report.num_dropped == 0
    assert report.num_action_tokens == 6
    assert report.num_tokens == 15
