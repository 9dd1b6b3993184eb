"""Attention over packed rows, written out and by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

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

        compute = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        return jax.jit(compute)(*arrays)

    found, expected = attend("matmul"), attend("xla")
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def lower_for_gpu(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    lowered = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",))
    lines = lowered.as_text().splitlines()
    return [line for line in lines if "cudnn$fmha" in line or "__cudnn" in line]


@pytest.mark.parametrize(
    ("chunk", "operands"), [(0, "CAUSAL"), (1, "PADDING"), (16, "PADDING")]
)
def test_cudnn_is_told_what_it_may_skip(monkeypatch, chunk, operands):
    # Lowered for a GPU that is not there; what it computes waits for one.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)

    def learner(*arrays):
        return attention.attend_segments(*arrays, "cudnn")

    def sampler(*arrays):
        return attention.attend_cache(*arrays, "cudnn")

    half, ids = jnp.bfloat16, jnp.int32
    narrow = ((2, 64, 2, 64), half)
    if chunk:
        shapes = [((2, chunk, 4, 64), half), narrow, narrow, ((2, chunk), ids)]
        (call,) = lower_for_gpu(sampler, *shapes)
        assert ("fmhaScaleBias" in call) == (chunk > 1)
    else:
        shapes = [((2, 64, 4, 64), half), narrow, narrow, ((2, 64), ids)]
        (call,) = lower_for_gpu(learner, *shapes)
    assert f'"mask_type": "{operands}"' in call.replace("\\22", '"')
