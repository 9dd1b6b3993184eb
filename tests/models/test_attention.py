"""Attention over packed rows, written out and by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.models import attention


@pytest.mark.parametrize("num_columns", [96, 512, 514])  # whole, in quarters, whole
def test_implementations_agree_with_gradients(num_columns):
    draw = np.random.default_rng(num_columns)
    shapes = [(2, num_columns, heads, 8) for heads in (4, 2, 2)]
    arrays = [jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes]
    lengths = draw.multinomial(num_columns, [0.5, 0.2, 0.3])
    segments = jnp.tile(np.repeat(np.arange(3), lengths), (2, 1))
    weights = jnp.asarray(draw.normal(size=shapes[0]), jnp.float32)

    def attend(implementation):
        def loss(*arrays):
            out = attention.attend_segments(*arrays, segments, implementation)
            return jnp.sum(weights * out), out

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)

    found, expected = attend("matmul"), attend("xla")
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
