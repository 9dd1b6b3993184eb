"""Splash attention, interpreted, against attention that is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels import written_out

from agentrl.kernels import splash

QUICK = [5, 8]
ALL = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(100)]


def make_segments(draw, rows, tokens):
    """Segments of random lengths, padding behind them; the last row is empty."""
    ids = np.zeros((rows, tokens), np.int32)
    for row in range(rows - 1 if rows > 1 else rows):
        ends = np.sort(draw.integers(0, tokens + 1, 3))
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            ids[row, start:end] = number + 1
    return ids


def draw(case):
    generator = case.generator
    shape = (case.rows, case.tokens, case.heads * case.group, case.size)
    narrow = (*shape[:2], case.heads, case.size)
    arrays = [generator.normal(size=s) for s in (shape, narrow, narrow)]
    ids = make_segments(generator, case.rows, case.tokens)
    visible = np.tril(ids[:, :, None] == ids[:, None, :])
    return arrays, ids, visible, generator.normal(size=shape)


@pytest.mark.parametrize("seed", [*QUICK, *ALL])
def test_forward_and_gradients(seed):
    arrays, ids, visible, upstream = draw(written_out.Case.draw(seed))

    def loss(*arrays):
        out = splash.attend(*arrays, ids, interpret=True)
        return jnp.sum(out * upstream.astype(np.float32)), out

    floats = [jnp.asarray(x, jnp.float32) for x in arrays]
    grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*floats)
    expected, _ = written_out.attend(*arrays, visible)
    np.testing.assert_allclose(out, expected, atol=1e-5, rtol=1e-5)
    by_hand = written_out.gradients(*arrays, visible, upstream)
    for found, wanted in zip(grads, by_hand, strict=True):
        if wanted.any():
            assert written_out.relative(found, wanted) < 1e-4
        else:  # each query sees one token, with weight 1: only rounding is left
            assert np.linalg.norm(found) < 1e-6 * np.linalg.norm(upstream)


@pytest.mark.parametrize("seed", [*QUICK[:1], *ALL])
def test_bfloat16(seed):
    arrays, ids, visible, _ = draw(written_out.Case.draw(seed))
    halves = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    out = splash.attend(*halves, ids, interpret=True)
    rounded = [np.asarray(x, np.float64) for x in halves]
    expected, _ = written_out.attend(*rounded, visible)
    assert out.dtype == jnp.bfloat16
    assert written_out.beyond_rounding(out, expected) < 2e-3
