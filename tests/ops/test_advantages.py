import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agentrl.ops import advantages

ALL_VALID = np.ones((2, 4), bool)
ESTIMATORS = [
    advantages.group_relative_advantages,
    advantages.leave_one_out_advantages,
    advantages.batch_normalized_advantages,
]


@st.composite
def groups(draw):
    """Returns float32[P, G] and validity bool[P, G]."""
    num_groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    count = num_groups * size
    value = st.sampled_from([0.0, 0.1, 0.25, 0.7, 1.0, -3.0, 10.0])
    returns = draw(st.lists(value, min_size=count, max_size=count))
    valid = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    shape = num_groups, size
    return np.float32(returns).reshape(shape), np.array(valid).reshape(shape)


def test_group_relative_by_hand():
    returns = np.array([[1, 0, 0, 1], [5, 5, 5, 5]], np.float32)

    scaled = advantages.group_relative_advantages(returns, ALL_VALID, scale="std")
    centered = advantages.group_relative_advantages(returns, ALL_VALID, scale="none")

    # Group 0: mean 0.5, std 0.5, so +-1. Group 1 is constant and carries no signal.
    np.testing.assert_allclose(scaled, [[1, -1, -1, 1], [0, 0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(centered, [[0.5, -0.5, -0.5, 0.5], [0] * 4])


def test_leave_one_out_by_hand():
    returns = np.array([[3, 0, 0, 1], [2, 4, 9, 9]], np.float32)
    valid = np.array([[True] * 4, [True, True, False, False]])

    result = advantages.leave_one_out_advantages(returns, valid)

    # 3 against the mean 1/3 of the others; 0 against 4/3; 1 against 1.
    expected = [[3 - 1 / 3, -4 / 3, -4 / 3, 0], [2 - 4, 4 - 2, 0, 0]]
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_batch_normalized_by_hand():
    returns = np.array([[1, 1], [0, 0]], np.float32)

    result = advantages.batch_normalized_advantages(returns, np.ones((2, 2), bool))

    # Mean 0.5 and std 0.5 of the batch: constant groups are told apart.
    np.testing.assert_allclose(result, [[1, 1], [-1, -1]], atol=1e-5)


@pytest.mark.parametrize("scale", ["std", "sample_std", "none"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@hypothesis.given(groups())
def test_equals_loops(estimator, scale, problem):
    returns, valid = problem

    result = estimator(returns, valid, scale=scale)

    whole_batch = estimator is advantages.batch_normalized_advantages
    for p, g in np.ndindex(*returns.shape):
        if not valid[p, g]:
            assert result[p, g] == 0
            continue
        mates = [
            float(returns[i, j])
            for i, j in np.ndindex(*returns.shape)
            if valid[i, j] and (whole_batch or i == p)
        ]
        mean = sum(mates) / len(mates)
        expected = float(returns[p, g]) - mean
        if scale != "none":
            squares = sum((x - mean) ** 2 for x in mates)
            degrees = len(mates) - (scale == "sample_std")
            expected /= (squares / max(degrees, 1)) ** 0.5 + 1e-6
        if estimator is advantages.leave_one_out_advantages and len(mates) > 1:
            expected *= len(mates) / (len(mates) - 1)
        np.testing.assert_allclose(result[p, g], expected, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_invalid_returns_may_be_nan(estimator):
    returns = np.array([[1.0, 0.0, 0.0, np.nan]], np.float32)
    valid = np.array([[True, True, True, False]])

    full = estimator(returns, valid, scale="std")
    without = estimator(returns[:, :3], valid[:, :3], scale="std")

    np.testing.assert_allclose(full[:, :3], without, rtol=1e-12)
    assert full[0, 3] == 0


@pytest.mark.parametrize("size", [3, 6, 7])
def test_equal_returns_give_exact_zeros(size):
    # Not a sum away from it: packing leaves out what is exactly 0.
    returns = np.full((1, size), 0.1, np.float32)

    result = advantages.group_relative_advantages(
        returns, np.ones((1, size), bool), scale="std"
    )

    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_wrong_shapes_are_refused(estimator):
    with pytest.raises(AssertionError, match="rank"):
        estimator(np.zeros(4), np.ones(4, bool), scale="std")
    with pytest.raises(AssertionError, match="shape"):
        estimator(np.zeros((2, 4)), np.ones((2, 3), bool), scale="std")


def test_generalized_advantages_by_hand():
    # Column 1 is text of the environment: neither its value nor its reward exists.
    rewards = np.array([[0.0, 99.0, 1.0]])
    values = np.array([[0.5, 99.0, 0.25]])
    mask = np.array([[True, False, True]])

    ended = advantages.generalized_advantages(
        rewards, values, mask, np.array([0.0]), discount=0.9, decay=0.5
    )
    cut = advantages.generalized_advantages(
        rewards, values, mask, np.array([2.0]), discount=0.9, decay=0.5
    )

    # delta_2 = 1 - 0.25 = 0.75; delta_0 = 0.9 * 0.25 - 0.5 = -0.275
    np.testing.assert_allclose(ended, [[-0.275 + 0.45 * 0.75, 0, 0.75]])
    # The limit leaves a value of 2 behind: delta_2 = 1 + 0.9 * 2 - 0.25 = 2.55
    np.testing.assert_allclose(cut, [[-0.275 + 0.45 * 2.55, 0, 2.55]])


@hypothesis.given(
    st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.5, 1), st.integers(1, 12)
)
def test_generalized_advantages_equal_the_sum_of_deltas(seed, decay, discount, columns):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, 2, columns))
    mask, bootstrap = rng.random((2, columns)) < 0.6, rng.normal(size=2)

    result = advantages.generalized_advantages(
        rewards, values, mask, bootstrap, discount=discount, decay=decay
    )

    for row in range(2):
        steps = np.flatnonzero(mask[row])
        later = np.append(values[row][steps[1:]], bootstrap[row])
        deltas = [
            rewards[row, k] + discount * following - values[row, k]
            for k, following in zip(steps, later, strict=False)
        ]
        for place, k in enumerate(steps):
            expected = sum(
                (discount * decay) ** n * d for n, d in enumerate(deltas[place:])
            )
            np.testing.assert_allclose(result[row, k], expected, atol=1e-9)
    assert not result[~mask].any()


def test_discounted_returns_by_hand():
    result = advantages.discounted_returns(np.array([1.0, 0.0, 2.0]), 0.5)
    np.testing.assert_allclose(result, [1 + 0.25 * 2, 1, 2])


def test_anchor_state_advantages_by_hand():
    returns = np.array([1.0, 0.0, 5.0, 0.5])
    anchors = [(0, "kitchen"), (0, "kitchen"), (0, "cellar"), (0, "kitchen")]

    result = advantages.anchor_state_advantages(returns, anchors, scale="none")

    # Three turns began in the kitchen, mean 0.5; the cellar has nothing to compare.
    np.testing.assert_allclose(result, [0.5, -0.5, 0, 0])
