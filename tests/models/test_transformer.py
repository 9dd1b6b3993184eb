import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.models import choices, kv_cache, model_config, transformer

SMALL = model_config.ModelConfig(
    vocab_size=50, hidden_size=32, num_layers=2, head_dim=8, mlp_size=48
)
MODELS = {
    "qwen2": SMALL,
    "qwen3": dataclasses.replace(SMALL, qkv_bias=False, qk_norm=True),
    "llama": dataclasses.replace(SMALL, qkv_bias=False, tied_embeddings=False),
    "multi_head": dataclasses.replace(SMALL, num_kv_heads=4),
    "xla": dataclasses.replace(SMALL, attention="xla"),
}
T = 24
# Compiled as a whole: operation by operation takes longer.
hidden_states = jax.jit(
    lambda model, params, *arrays, remat=False: model.hidden(
        params, *arrays, remat=remat
    ),
    static_argnums=0,
    static_argnames="remat",
)
append = jax.jit(
    lambda model, params, *arrays: model.append(params, *arrays), static_argnums=0
)


@pytest.fixture(params=MODELS, scope="module")
def setup(request):
    model = transformer.Model(MODELS[request.param])
    params = model.init(jax.random.key(0))
    # Biases and scales start constant; shake them so that each matters.
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    params = jax.tree.map(
        lambda p, k: p + 0.1 * jax.random.normal(k, p.shape), params, keys
    )
    tokens = jax.random.randint(jax.random.key(2), (3, T), 0, 50)
    positions = jnp.tile(jnp.arange(T)[None], (3, 1))
    segments = jnp.ones((3, T), jnp.int32)
    hidden = hidden_states(model, params, tokens, positions, segments)
    return model, params, tokens, hidden


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(pieces=st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_appending_in_pieces_equals_the_full_forward(setup, pieces):
    model, params, tokens, hidden = setup
    cache = kv_cache.empty(model.config, 3, T + 8)
    start = 0
    for piece in pieces:
        stop = min(start + piece, T)
        chunk = (
            jnp.zeros((3, 8), jnp.int32)
            .at[:, : stop - start]
            .set(tokens[:, start:stop])
        )
        counts = jnp.array([stop - start, stop - start, 0])
        last, cache = append(model, params, chunk, counts, cache)
        if stop > start:
            np.testing.assert_allclose(last[:2], hidden[:2, stop - 1], atol=2e-5)
        start = stop
    np.testing.assert_array_equal(cache.lengths, [start, start, 0])
    np.testing.assert_array_equal(cache.keys[0][2], 0)


def test_packed_segments_do_not_see_each_other(setup):
    model, params, tokens, hidden = setup
    row = jnp.concatenate([tokens[0, :10], tokens[1, :9], jnp.zeros(5, jnp.int32)])
    segments = jnp.array([1] * 10 + [2] * 9 + [0] * 5)
    positions = jnp.array([*range(10), *range(9), *range(5)])

    packed = hidden_states(model, params, row[None], positions[None], segments[None])[0]

    np.testing.assert_allclose(packed[:10], hidden[0, :10], atol=2e-5)
    np.testing.assert_allclose(packed[10:19], hidden[1, :9], atol=2e-5)


def test_remat_changes_no_value_and_no_gradient(setup):
    model, params, tokens, _ = setup
    positions = jnp.tile(jnp.arange(T)[None], (3, 1))
    segments = jnp.ones((3, T), jnp.int32)

    def loss(params, remat):
        out = model.hidden(params, tokens, positions, segments, remat=remat)
        return jnp.sum(jnp.sin(out))

    compute = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, saved = compute(params, False), compute(params, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), plain, saved)


def test_columns_beyond_the_cache_are_dropped():
    config = SMALL
    model = transformer.Model(config)
    params = model.init(jax.random.key(0))
    cache = kv_cache.empty(config, 1, 4)
    tokens = jnp.arange(8)[None]
    _, cache = append(model, params, tokens, jnp.array([3]), cache)
    before = cache.keys[0]
    _, cache = append(model, params, tokens, jnp.array([5]), cache)
    np.testing.assert_array_equal(cache.keys[0][..., :3], before[..., :3])


def test_grown_cache_continues_the_same(setup):
    model, params, tokens, hidden = setup
    cache = kv_cache.empty(model.config, 3, 12)
    counts = jnp.full(3, 10)
    _, cache = append(model, params, tokens[:, :10], counts, cache)
    cache = kv_cache.grow(cache, 32)
    last, _ = append(model, params, tokens[:, 10:20], counts, cache)
    np.testing.assert_allclose(last, hidden[:, 19], atol=2e-5)


def test_attention_implementations_agree(setup):
    model, params, tokens, hidden = setup
    chosen = choices.attention(model.config)
    other = {"matmul": "xla", "xla": "matmul"}[chosen]
    same = transformer.Model(dataclasses.replace(model.config, attention=other))
    positions = jnp.tile(jnp.arange(T)[None], (3, 1))
    segments = jnp.ones((3, T), jnp.int32)
    np.testing.assert_allclose(
        hidden_states(same, params, tokens, positions, segments), hidden, atol=2e-5
    )
    cache = kv_cache.empty(same.config, 3, T + 1)
    assert cache.layout != kv_cache.empty(model.config, 3, T).layout
    counts = jnp.full(3, T - 1)
    _, cache = append(same, params, tokens[:, :-1], counts, cache)
    last, _ = append(same, params, tokens[:, -1:], jnp.ones(3, jnp.int32), cache)
    np.testing.assert_allclose(last, hidden[:, -1], atol=2e-5)


def test_rows_continue_a_copied_beginning(setup):
    model, params, tokens, hidden = setup
    shared = kv_cache.empty(model.config, 1, T + 8)
    _, shared = append(model, params, tokens[:1, :10], jnp.array([10]), shared)
    cache = kv_cache.empty(model.config, 3, T)
    cache = kv_cache.copy_row(cache, shared, jnp.array([True, False, True]))
    cache = dataclasses.replace(cache, lengths=jnp.array([10, 0, 10]))
    chunk = jnp.tile(tokens[:1, 10:20], (3, 1))
    last, cache = append(model, params, chunk, jnp.array([10, 0, 10]), cache)
    np.testing.assert_allclose(last[0], hidden[0, 19], atol=2e-5)
    np.testing.assert_array_equal(last[2], last[0])
    np.testing.assert_array_equal(cache.keys[0][1], 0)


@pytest.mark.parametrize(
    ("platform", "head_dim", "dtype", "attention", "scan_blocks"),
    [
        ("cpu", 64, "bfloat16", "matmul", "never"),
        ("tpu", 64, "bfloat16", "pallas", "always"),
        ("tpu", 8, "bfloat16", "xla", "always"),
        ("gpu", 64, "float32", "xla", "never"),
        ("gpu", 64, "bfloat16", "cudnn", "never"),
    ],
)
def test_the_platform_chooses(platform, head_dim, dtype, attention, scan_blocks):
    half = model_config.Precision(compute=dtype)
    config = dataclasses.replace(SMALL, precision=half, head_dim=head_dim)
    found = choices.for_platform(config, platform)
    assert (found.attention, found.scan_blocks) == (attention, scan_blocks)
    own = dataclasses.replace(config, attention="xla", scan_blocks="always")
    assert choices.for_platform(own, platform) == own
    assert f"On {platform}, with head size {head_dim} in {dtype}." in choices.describe(
        config, platform
    )
