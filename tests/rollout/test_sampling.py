import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.engine import sampling
from agentrl.models import kv_cache, model_config

CACHE = kv_cache.empty(model_config.ModelConfig(num_layers=1), 3, 8)
STOP = 2


def random_logits(num_rows, vocab_size):
    return 2 * jax.random.normal(jax.random.key(0), (num_rows, vocab_size))


@pytest.mark.parametrize("vocab_size", [5, 64, 100, 200])
def test_sample_inverts_the_cumulative_distribution(vocab_size):
    logits = random_logits(4, vocab_size)
    grid = (jnp.arange(4000) + 0.5) / 4000

    tokens, logprobs = jax.vmap(lambda u: sampling.sample(logits, jnp.full(4, u)))(grid)

    expected = jax.nn.log_softmax(logits)
    for row in range(4):
        # Evenly spaced uniforms: each share is exact up to one grid step at either end.
        shares = np.bincount(tokens[:, row], minlength=vocab_size) / 4000
        np.testing.assert_allclose(shares, np.exp(expected[row]), atol=1e-3)
        np.testing.assert_allclose(
            logprobs[:, row], expected[row][tokens[:, row]], atol=1e-5
        )
        assert np.all(np.diff(tokens[:, row]) >= 0)


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(np.float32(1), 0)])
def test_masked_tokens_are_never_drawn(uniform):
    # Whole chunks before and after the only allowed entries are masked.
    logits = jnp.full((1, 256), -jnp.inf).at[0, 70:73].set(1.0)
    token, logprob = sampling.sample(logits, jnp.full(1, uniform))
    assert 70 <= int(token[0]) < 73
    np.testing.assert_allclose(logprob, [-np.log(3)], rtol=1e-5)


def scripted(script):
    """Logits that force the tokens of `script` int[B, N], one column per call."""
    calls = []

    def next_logits(tokens, live, cache):
        lengths = cache.lengths + live
        column = lengths[:, None]
        wanted = jnp.take_along_axis(jnp.asarray(script), column, axis=1)[:, 0]
        calls.append(None)
        new_cache = kv_cache.KVCache(cache.keys, cache.values, lengths)
        return jnp.where(
            jnp.arange(8)[None] == wanted[:, None], 0.0, -jnp.inf
        ), new_cache

    first = jnp.asarray(script)[:, 0]
    first_logits = jnp.where(jnp.arange(8)[None] == first[:, None], 0.0, -jnp.inf)
    return next_logits, first_logits


def test_rows_stop_at_the_stop_token_or_their_budget():
    script = np.array([[5, 6, STOP, 7, 7], [5, 5, 5, 5, 5], [4, 4, 4, 4, 4]])
    next_logits, first_logits = scripted(script)

    state = sampling.decode(
        next_logits,
        first_logits,
        CACHE,
        jnp.full((3, 5), 0.5),
        jnp.array([5, 4, 0]),
        stop_tokens=(STOP,),
    )

    expected = [[5, 6, STOP, 0, 0], [5, 5, 5, 5, 0], [0] * 5]
    np.testing.assert_array_equal(state.tokens, expected)
    np.testing.assert_array_equal(state.counts, [3, 4, 0])
    # Every token but each row's last one has been appended.
    np.testing.assert_array_equal(state.cache.lengths, [2, 3, 0])
    assert int(state.step) == 4  # no step for the stopped rows alone


def test_any_of_several_tokens_ends_a_row():
    script = np.array([[5, 1, 7, 7], [3, 7, 7, 7], [5, 6, STOP, 7]])
    next_logits, first_logits = scripted(script)
    state = sampling.decode(
        next_logits,
        first_logits,
        CACHE,
        jnp.full((3, 4), 0.5),
        jnp.array([4, 4, 4]),
        stop_tokens=(STOP, 1, 3),
    )
    expected = [[5, 1, 0, 0], [3, 0, 0, 0], [5, 6, STOP, 0]]
    np.testing.assert_array_equal(state.tokens, expected)
    np.testing.assert_array_equal(state.counts, [2, 1, 3])


def test_no_budget_means_no_step():
    next_logits, first_logits = scripted(np.full((3, 4), 5))
    state = sampling.decode(
        next_logits,
        first_logits,
        CACHE,
        jnp.full((3, 4), 0.5),
        jnp.zeros(3, jnp.int32),
        stop_tokens=(STOP,),
    )
    np.testing.assert_array_equal(state.counts, 0)
    np.testing.assert_array_equal(state.cache.lengths, 0)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [1]),
        (3, 1.0, [0, 1, 3]),
        (0, 0.5, [1]),  # 0.5 is reached by the first alone
        (0, 0.51, [1, 3]),
        (0, 0.79, [1, 3]),
        (2, 0.95, [1, 3]),
        (0, 0.93, [0, 1, 3]),
    ],
)
def test_restrict_keeps_the_likeliest(top_k, top_p, kept):
    logits = jnp.log(jnp.array([[0.125, 0.5, 0.0625, 0.3125]]))
    restricted = sampling.apply_top_k_top_p(logits, top_k=top_k, top_p=top_p)[0]
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(restricted)), kept)
    np.testing.assert_array_equal(
        restricted[jnp.array(kept)], logits[0, jnp.array(kept)]
    )
