import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.models import model_config, rotary

PLAIN = model_config.ModelConfig(head_dim=64, rope_theta=500_000.0)


def stretched(kind, **fields):
    scaling = model_config.RopeScaling(kind=kind, **fields)
    return dataclasses.replace(PLAIN, rope_scaling=scaling)


def test_linear_scaling_is_a_slower_count_of_positions():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 64))
    positions = jnp.arange(5)[None]
    slow = rotary.rotate(x, 4 * positions, stretched("linear", factor=4.0))
    np.testing.assert_allclose(slow, rotary.rotate(x, positions, PLAIN), atol=1e-5)


def test_llama3_scaling_keeps_fast_pairs_and_divides_slow_ones():
    config = stretched(
        "llama3",
        factor=32.0,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_context=8192,
    )
    plain, scaled = rotary.frequencies(PLAIN), rotary.frequencies(config)
    turns = plain * 8192 / (2 * np.pi)
    ratio = np.asarray(scaled / plain)
    np.testing.assert_allclose(ratio[turns >= 4], 1)
    np.testing.assert_allclose(ratio[turns <= 1], 1 / 32, rtol=1e-6)
    between = ratio[(turns > 1) & (turns < 4)]
    assert between.size and np.all((between > 1 / 32) & (between < 1))
    assert np.all(np.diff(ratio) <= 1e-7)


@pytest.mark.parametrize("distance", [1, 7])
def test_scores_depend_on_the_distance_alone(distance):
    x = jax.random.normal(jax.random.key(1), (2, 1, 1, 64))

    def score(position):
        config = stretched("llama3", factor=8.0, original_context=64)
        query = rotary.rotate(x[:1], jnp.array([[position + distance]]), config)
        key = rotary.rotate(x[1:], jnp.array([[position]]), config)
        return jnp.sum(query * key)

    np.testing.assert_allclose(score(0), score(100), rtol=1e-4)
