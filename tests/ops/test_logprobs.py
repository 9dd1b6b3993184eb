import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.ops import logprobs

R, T, D, V = 3, 10, 5, 13


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(R, T, D)).astype(np.float32),
        rng.normal(size=(D, V)).astype(np.float32),
        rng.integers(0, V - 2, (R, T)).astype(np.int32),
    )


def dense(hidden, unembedding, tokens, temperature, num_valid):
    """The same quantities from all logits at once, in float64."""
    logits = np.float64(hidden) @ np.float64(unembedding) / temperature
    logits = logits[:, :-1, :num_valid]
    total = np.log(np.exp(logits).sum(-1))
    chosen = np.take_along_axis(logits, tokens[:, 1:, None], 2)[..., 0]
    log_p = logits - total[..., None]
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    zero = np.zeros((len(tokens), 1))
    return np.hstack([zero, chosen - total]), np.hstack([zero, entropy])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("chunk", [1, 7, 12, 1000])
def test_equals_a_dense_softmax(problem, chunk, transform):
    def scores(hidden, unembedding, tokens):
        return logprobs.chunked_token_logprobs(
            hidden, unembedding, tokens, chunk=chunk, temperature=0.7, num_valid=V - 2
        )

    result = transform(scores)(*problem)

    expected = dense(*problem, 0.7, V - 2)
    np.testing.assert_allclose(result[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(result[1], expected[1], atol=1e-5)


def test_uniform_by_hand():
    hidden, tokens = np.zeros((1, 3, 2), np.float32), np.zeros((1, 3), np.int32)

    logps, entropy = logprobs.chunked_token_logprobs(
        hidden, np.ones((2, 8), np.float32), tokens, chunk=2, num_valid=4
    )

    # Four valid ids, all alike: log(1/4), and the entropy of a fair four-sided die.
    np.testing.assert_allclose(logps, [[0, -np.log(4), -np.log(4)]], rtol=1e-6)
    np.testing.assert_allclose(entropy, [[0, np.log(4), np.log(4)]], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_gradient_equals_that_of_a_dense_softmax(problem, chunk):
    hidden, unembedding, tokens = problem
    cotangent = np.random.default_rng(1).normal(size=(R, T)).astype(np.float32)

    def chunked_loss(hidden, unembedding):
        logps, _ = logprobs.chunked_token_logprobs(
            hidden, unembedding, tokens, chunk=chunk, temperature=0.7, num_valid=V - 2
        )
        return jnp.sum(logps * cotangent)

    result = jax.grad(chunked_loss, argnums=(0, 1))(hidden, unembedding)

    # d logp_t / d logits_{t-1} = (one-hot - softmax) / temperature
    logits = (np.float64(hidden) @ np.float64(unembedding) / 0.7)[:, :-1, : V - 2]
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    inner = np.eye(V - 2)[tokens[:, 1:]] - softmax
    inner *= cotangent[:, 1:, None] / 0.7
    expected_hidden = np.zeros((R, T, D))
    expected_hidden[:, :-1] = inner @ unembedding[:, : V - 2].T
    expected_weights = np.zeros((D, V))
    expected_weights[:, : V - 2] = np.einsum("rtd,rtv->dv", hidden[:, :-1], inner)
    np.testing.assert_allclose(result[0], expected_hidden, atol=1e-5)
    np.testing.assert_allclose(result[1], expected_weights, atol=1e-5)


def test_entropy_passes_no_gradient_unless_asked(problem):
    hidden, unembedding, tokens = problem

    def entropy(hidden):
        return logprobs.chunked_token_logprobs(hidden, unembedding, tokens, chunk=4)[1]

    gradient = jax.grad(lambda h: jnp.sum(entropy(h)))(hidden)

    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_both_scores_equals_that_of_a_dense_softmax(problem, chunk, masked):
    hidden, unembedding, tokens = problem
    rng = np.random.default_rng(2)
    mask = rng.random((R, T)) < (0.4 if masked else 2)
    for_logprobs, for_entropy = rng.normal(size=(2, R, T)).astype(np.float32)

    def loss(hidden, unembedding):
        logps, entropy = logprobs.chunked_token_logprobs(
            hidden,
            unembedding,
            tokens,
            chunk=chunk,
            temperature=0.7,
            num_valid=V - 2,
            mask=jnp.asarray(mask),
            entropy_gradient=True,
        )
        return jnp.sum(logps * for_logprobs + entropy * for_entropy)

    result = jax.grad(loss, argnums=(0, 1))(hidden, unembedding)

    logits = (np.float64(hidden) @ np.float64(unembedding) / 0.7)[:, :-1, : V - 2]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    p = np.exp(log_p)
    entropy = -np.sum(p * log_p, axis=-1, keepdims=True)
    # d logp / d logits = (one-hot - p) / temperature, and that of the entropy is
    # -p (log p + H) / temperature.
    weights = np.where(mask, (for_logprobs, for_entropy), 0)[:, :, 1:, None] / 0.7
    inner = weights[0] * (np.eye(V - 2)[tokens[:, 1:]] - p)
    inner -= weights[1] * p * (log_p + entropy)
    expected_hidden = np.zeros((R, T, D))
    expected_hidden[:, :-1] = inner @ unembedding[:, : V - 2].T
    expected_weights = np.zeros((D, V))
    expected_weights[:, : V - 2] = np.einsum("rtd,rtv->dv", hidden[:, :-1], inner)
    np.testing.assert_allclose(result[0], expected_hidden, rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(result[1], expected_weights, rtol=1e-5, atol=5e-5)


def test_bfloat16_is_summed_in_float32(problem):
    hidden, unembedding, tokens = problem
    hidden, unembedding = jnp.bfloat16(hidden), jnp.bfloat16(unembedding)

    logps, _ = logprobs.chunked_token_logprobs(hidden, unembedding, tokens, chunk=8)

    expected, _ = dense(np.float32(hidden), np.float32(unembedding), tokens, 1.0, V)
    assert logps.dtype == jnp.float32
    np.testing.assert_allclose(logps, expected, atol=1e-5)


def temporary_bytes(num_columns, vocab_size, chunk):
    """Scratch memory of loss and gradient as the compiler plans it."""

    def loss(hidden, unembedding, tokens):
        logps, entropy = logprobs.chunked_token_logprobs(
            hidden, unembedding, tokens, chunk=chunk
        )
        return jnp.sum(logps), jnp.sum(entropy)

    arguments = (
        jax.ShapeDtypeStruct((2, num_columns, 16), jnp.float32),
        jax.ShapeDtypeStruct((16, vocab_size), jnp.float32),
        jax.ShapeDtypeStruct((2, num_columns), jnp.int32),
    )
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    analysis = gradient.lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def test_all_logits_never_exist_together():
    all_logits = 2 * 1024 * 4096 * 4

    # The chunk of 32 tokens decides, not the 2,048 tokens of the batch.
    assert temporary_bytes(1024, 4096, chunk=32) < all_logits / 8
    # However large, it is at most an eighth of each row.
    of_eighths = temporary_bytes(1024, 4096, chunk=2048)
    assert all_logits / 8 < of_eighths < all_logits / 2
    growth = temporary_bytes(2048, 4096, chunk=32) - temporary_bytes(
        1024, 4096, chunk=32
    )
    assert growth < all_logits / 50


def test_shapes_are_checked(problem):
    hidden, unembedding, tokens = problem
    with pytest.raises(AssertionError, match="rank"):
        logprobs.chunked_token_logprobs(hidden[0], unembedding, tokens, chunk=4)
    with pytest.raises(AssertionError, match="prefix"):
        logprobs.chunked_token_logprobs(hidden, unembedding, tokens[:, 1:], chunk=4)


@pytest.mark.parametrize("chunk", [3, 12, 1000])
def test_a_mask_leaves_the_others_out(problem, chunk):
    hidden, unembedding, tokens = problem
    mask = np.random.default_rng(3).random((R, T)) < 0.4
    mask[1] = False

    def masked(hidden, unembedding):
        scores = logprobs.chunked_token_logprobs(
            hidden, unembedding, tokens, chunk=chunk, mask=jnp.asarray(mask)
        )
        return jnp.sum(jnp.sin(scores[0])), scores

    def selected(hidden, unembedding):
        scores = logprobs.chunked_token_logprobs(
            hidden, unembedding, tokens, chunk=chunk
        )
        scores = [jnp.where(mask, x, 0) for x in scores]
        return jnp.sum(jnp.sin(scores[0])), scores

    results = [
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(
            hidden, unembedding
        )
        for f in (masked, selected)
    ]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        jax.tree.leaves(results[0]),
        jax.tree.leaves(results[1]),
    )


def test_only_chunks_with_wanted_tokens_are_computed(problem):
    hidden, unembedding, tokens = problem
    mask = np.zeros((R, T), bool)
    mask[:, -3:] = True
    # A token that nobody asked for and that no shared chunk holds may be anything.
    hidden[:, :6] = np.nan

    scores = logprobs.chunked_token_logprobs(
        hidden, unembedding, tokens, chunk=3 * R, mask=jnp.asarray(mask)
    )

    assert np.isfinite(scores).all()
    assert (np.asarray(scores[0])[mask] < 0).all()
