import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.ops import kl, losses, segments

LOG = np.log(np.array([[0.5, 1.0, 2.0, 5.0]], np.float32))
GOOD, BAD = np.ones((1, 4), np.float32), -np.ones((1, 4), np.float32)
both = pytest.mark.parametrize(
    "transform", [lambda f: f, jax.jit], ids=["eager", "jit"]
)


def random_segments(seed, num_rows=3, num_columns=12):
    rng = np.random.default_rng(seed)
    steps = rng.random((num_rows, num_columns)) < 0.3
    segment_ids = np.cumsum(steps, axis=1).astype(np.int32)
    return segment_ids, rng.random((num_rows, num_columns)) < 0.5


@both
def test_clipped_surrogate_by_hand(transform):
    def loss(advantages, **options):
        return transform(
            lambda log_ratio: losses.clipped_surrogate(
                log_ratio, advantages, clip_low=0.2, clip_high=0.5, **options
            )
        )(LOG)

    # Better than expected: pushed up no further than 1.5. Worse: down to 0.8.
    np.testing.assert_allclose(loss(GOOD), [[-0.5, -1, -1.5, -1.5]], rtol=1e-6)
    np.testing.assert_allclose(loss(BAD), [[0.8, 1, 2, 5]], rtol=1e-6)
    np.testing.assert_allclose(loss(BAD, dual_clip=3.0), [[0.8, 1, 2, 3]], rtol=1e-6)
    np.testing.assert_allclose(
        loss(GOOD, dual_clip=3.0), [[-0.5, -1, -1.5, -1.5]], rtol=1e-6
    )
    np.testing.assert_allclose(
        loss(BAD, importance_cap=2.0), [[0.8, 1, 2, 2]], rtol=1e-6
    )


def test_clipped_tokens_have_no_gradient_and_capped_ones_have():
    def gradient(advantages, **options):
        return jax.grad(
            lambda x: jnp.sum(
                losses.clipped_surrogate(
                    x, advantages, clip_low=0.2, clip_high=0.5, **options
                )
            )
        )(LOG)

    np.testing.assert_allclose(gradient(GOOD), [[-0.5, -1, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient(BAD), [[0, 1, 2, 5]], rtol=1e-6)
    np.testing.assert_allclose(gradient(BAD, dual_clip=3.0), [[0, 1, 2, 0]], rtol=1e-6)
    np.testing.assert_allclose(
        gradient(BAD, importance_cap=2.0), [[0, 1, 2, 2]], rtol=1e-6
    )


@both
def test_clipped_importance_by_hand(transform):
    def gradient(advantages):
        return transform(
            jax.grad(
                lambda x: jnp.sum(
                    losses.clipped_importance(
                        x, advantages, clip_low=1.0, clip_high=1.0
                    )
                )
            )
        )(LOG)

    # Every token keeps a gradient; its weight ends at 2.
    np.testing.assert_allclose(gradient(GOOD), [[-0.5, -1, -2, -2]], rtol=1e-6)
    np.testing.assert_allclose(gradient(BAD), [[0.5, 1, 2, 2]], rtol=1e-6)


@pytest.mark.parametrize(
    "surrogate", [losses.clipped_surrogate, losses.clipped_importance]
)
@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_hopeless_ratios_stay_finite(surrogate, log_ratio, advantage):
    def loss(x):
        scores = jnp.full((1, 1), advantage)
        return jnp.sum(surrogate(x, scores, clip_low=0.2, clip_high=0.2))

    value, gradient = jax.value_and_grad(loss)(jnp.full((1, 1), log_ratio))

    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_no_gradient_flows_through_advantages():
    for surrogate in (losses.clipped_surrogate, losses.clipped_importance):
        gradient = jax.grad(
            lambda a, f=surrogate: jnp.sum(f(LOG, a, clip_low=0.2, clip_high=0.2))
        )(GOOD)
        np.testing.assert_array_equal(gradient, 0)


def test_sequence_log_ratio_by_hand():
    log_ratio = np.array([[1.0, 3.0, 9.0, 4.0, 8.0]], np.float32)
    mask = np.array([[True, True, False, True, False]])
    segment_ids = np.array([[1, 1, 1, 2, 0]], np.int32)

    result = losses.sequence_log_ratio(log_ratio, mask, segment_ids)

    np.testing.assert_allclose(result, [[2, 2, 0, 4, 0]])


@both
def test_aggregation_by_hand(transform):
    loss = np.array([[1.0, 2.0, 3.0, 50.0], [4.0, 60.0, 70.0, 80.0]], np.float32)
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    segment_ids = np.array([[1, 1, 2, 2], [1, 1, 0, 0]], np.int32)

    def aggregate(over):
        def weighted(loss, mask, segment_ids):
            weights = losses.aggregation_weights(mask, segment_ids, over, horizon=10)
            return jnp.sum(jnp.where(mask, weights * loss, 0))

        return transform(weighted)(loss, mask, segment_ids)

    np.testing.assert_allclose(aggregate("token"), (1 + 2 + 3 + 4) / 4)
    # Three sequences, of means 1.5, 3 and 4.
    np.testing.assert_allclose(aggregate("sequence"), (1.5 + 3 + 4) / 3)
    # Three sequences, each divided by the 10 tokens that an episode may have, not by the
    # 4 columns of a row.
    np.testing.assert_allclose(aggregate("constant"), 10 / (3 * 10), rtol=1e-6)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_denominators(seed):
    segment_ids, mask = random_segments(seed)
    weights = {
        over: np.asarray(losses.aggregation_weights(mask, segment_ids, over, horizon=7))
        for over in ("token", "sequence", "constant")
    }

    for values in weights.values():
        assert not values[~mask].any()
    if mask.any():
        # A constant loss is its own mean; dividing by a fixed length is no mean.
        np.testing.assert_allclose(weights["token"].sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(weights["sequence"].sum(), 1, rtol=1e-5)
        sequences = {(r, segment_ids[r, t]) for r, t in np.argwhere(mask)}
        np.testing.assert_allclose(
            weights["constant"][mask], 1 / (7 * len(sequences)), rtol=1e-5
        )
        for row, segment in sequences:
            inside = (segment_ids[row] == segment) & mask[row]
            np.testing.assert_allclose(
                weights["sequence"][row][inside].sum(), 1 / len(sequences), rtol=1e-5
            )


@pytest.mark.parametrize("over", ["token", "sequence", "constant"])
def test_nothing_selected_gives_zero(over):
    mask, segment_ids = np.zeros((2, 3), bool), np.ones((2, 3), np.int32)
    weights = losses.aggregation_weights(mask, segment_ids, over, horizon=3)
    np.testing.assert_array_equal(weights, 0)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="unknown aggregation 'median'"):
        losses.aggregation_weights(
            np.ones((1, 2), bool), np.ones((1, 2), int), "median", horizon=2
        )


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimates_agree_with_the_sum_over_a_vocabulary(estimator):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(6))
    q = p * np.exp(rng.normal(size=6) * 0.02)
    q /= q.sum()

    expected_estimate = np.sum(p * kl.ESTIMATORS[estimator](np.log(q / p)))

    exact = np.sum(p * np.log(p / q))
    np.testing.assert_allclose(expected_estimate, exact, rtol=0.05, atol=1e-6)


def test_kl_gradients_are_those_the_docstring_names():
    rng = np.random.default_rng(1)
    logits, other = jnp.array(rng.normal(size=5)), jnp.array(rng.normal(size=5))
    log_q = jax.nn.log_softmax(other)
    weights = jax.nn.softmax(logits)  # the policy that draws, held fixed

    def gradient_of(estimator):
        return jax.grad(
            lambda x: jnp.sum(weights * estimator(log_q - jax.nn.log_softmax(x)))
        )(logits)

    def exact(p, q):
        return jnp.sum(jnp.exp(p) * (p - q))

    forward = jax.grad(lambda x: exact(jax.nn.log_softmax(x), log_q))(logits)
    backward = jax.grad(lambda x: exact(log_q, jax.nn.log_softmax(x)))(logits)
    np.testing.assert_allclose(gradient_of(kl.k1), 0, atol=1e-6)
    np.testing.assert_allclose(gradient_of(kl.k2), forward, atol=1e-6)
    np.testing.assert_allclose(gradient_of(kl.k3), backward, atol=1e-6)


@both
def test_segment_sum_by_hand(transform):
    x = np.array([[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 5.0]], np.float32)
    segment_ids = np.array([[1, 1, 2, 0], [4, 4, 4, 1]], np.int32)

    result = transform(segments.segment_sum)(x, segment_ids)

    np.testing.assert_array_equal(result, [[3, 3, 4, 8], [3, 3, 3, 5]])
