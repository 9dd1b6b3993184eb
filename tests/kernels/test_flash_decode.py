"""Flash decoding, interpreted, against a cache and attention that are written out."""

import jax.numpy as jnp
import numpy as np
import pytest
from kernels import written_out

from agentrl.kernels import flash_decode

QUICK = [5, 12]
ALL = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(200)]
ROWS, LAYERS = 4, 3


def draw(seed):
    """A cache of some layers, and a chunk: rows full, empty, without new tokens."""
    case = written_out.Case.draw(seed)
    generator = case.generator
    chunk = (1, 16, 32, 1, 96)[seed % 5]
    columns = int(generator.choice([128, 256, 640]))
    starts = generator.integers(0, columns, ROWS)
    counts = generator.integers(0, chunk + 1, ROWS)
    starts[0], counts[1], starts[2] = 0, 0, columns - 1
    shape = (LAYERS, ROWS, case.heads, columns, case.size)
    keys, values = generator.normal(size=(2, *shape))
    padding = [(0, 0)] * 4 + [(0, flash_decode.round_up(case.size) - case.size)]
    keys, values = np.pad(keys, padding), np.pad(values, padding)
    new = (ROWS, chunk, case.heads, case.size)
    new_keys, new_values = generator.normal(size=(2, *new))
    queries = generator.normal(size=(ROWS, chunk, case.heads * case.group, case.size))
    return queries, new_keys, new_values, keys, values, starts, counts


def write_out(queries, new_keys, new_values, keys, values, starts, counts):
    """The cache of one layer [B, H, S, Dh] afterwards, and what is attended."""
    keys, values = keys.copy(), values.copy()
    columns, (_, chunk, _, size) = keys.shape[2], queries.shape
    for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
        for token in range(min(count, columns - start)):
            keys[row, :, start + token, :size] = new_keys[row, token]
            values[row, :, start + token, :size] = new_values[row, token]
    positions = starts[:, None] + np.arange(chunk)
    visible = np.arange(columns)[None, None] <= positions[:, :, None]
    by_columns = [x.transpose(0, 2, 1, 3)[..., :size] for x in (keys, values)]
    attended, _ = written_out.attend(queries, *by_columns, visible)
    return attended, keys, values


def check(arrays, dtype, *, layer):
    """Runs both; returns how far they are apart where rows have new tokens."""
    *floats, starts, counts = arrays
    rounded = [jnp.asarray(x, dtype) for x in floats]
    exact = [np.asarray(x, np.float64) for x in rounded]
    one = 1 if layer is None else layer
    exact[3:] = [x[one] for x in exact[3:]]
    if layer is None:
        rounded[3:] = [x[one] for x in rounded[3:]]
    found, *caches = flash_decode.append_and_attend(
        *rounded,
        jnp.asarray(starts, jnp.int32),
        jnp.asarray(counts, jnp.int32),
        None if layer is None else jnp.int32(layer),
        interpret=True,
    )
    expected, *written = write_out(*exact, starts, counts)
    for cache, before, wanted in zip(caches, rounded[3:], written, strict=True):
        if layer is None:
            np.testing.assert_array_equal(cache, wanted.astype(cache.dtype))
        else:
            np.testing.assert_array_equal(
                cache, np.asarray(before.at[layer].set(wanted.astype(dtype)))
            )
    in_use = (
        np.arange(found.shape[1])
        < np.minimum(counts, arrays[3].shape[3] - starts)[:, None]
    )
    assert np.isfinite(np.asarray(found, np.float32)).all()
    return np.asarray(found, np.float64)[in_use], expected[in_use]


@pytest.mark.parametrize("seed", [*QUICK, *ALL])
def test_cache_and_attention(seed):
    found, expected = check(draw(seed), jnp.float32, layer=(None, 2)[seed % 2])
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", [*QUICK[:1], *ALL])
def test_bfloat16(seed):
    found, expected = check(draw(seed), jnp.bfloat16, layer=0)
    assert written_out.beyond_rounding(found, expected) < 2e-3


def test_blocks_behind_a_row_are_never_computed():
    *floats, _, _ = draw(3)
    starts, counts = np.array([0, 127, 128, 500]), np.array([1, 1, 1, 0])
    floats[3:] = [np.concatenate([x] * 5, axis=3)[..., :640, :] for x in floats[3:]]
    # Not a number times 0 is not a number: whatever is computed shows.
    for row, end in enumerate([128, 128, 256, 128]):
        floats[3][:, row, :, end:] = floats[4][:, row, :, end:] = np.nan
    arrays = [jnp.asarray(x, jnp.float32) for x in floats]
    lengths = (jnp.asarray(x, jnp.int32) for x in (starts, counts))
    found, _, _ = flash_decode.append_and_attend(
        *arrays, *lengths, jnp.int32(1), interpret=True
    )
    assert np.isfinite(found).all()
