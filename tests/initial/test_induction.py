"""Initial parameters with induction heads look where copying needs them to look."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from agentrl.initial import named
from agentrl.models import attention, model_config, transformer

CONFIG = model_config.ModelConfig(
    vocab_size=512, num_layers=2, tied_embeddings=False, init="induction"
)
LENGTH = 40  # of a random sequence, which is then repeated


def attention_weights(config, seed, monkeypatch):
    """float[layers, rows, heads, 2 LENGTH, 2 LENGTH] before any training."""
    weights = []
    attend = attention.attend_segments

    def spy(queries, keys, *rest, **options):
        repeated = jnp.repeat(keys, config.num_heads // config.num_kv_heads, axis=2)
        scores = jnp.einsum("rthd,rshd->rhts", queries, repeated)
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(seen, scores * config.head_dim**-0.5, -jnp.inf)
        weights.append(jax.nn.softmax(scores, axis=-1))
        return attend(queries, keys, *rest, **options)

    def run(key):
        half = jax.random.randint(key, (8, LENGTH), 0, config.vocab_size)
        tokens = jnp.concatenate([half, half], axis=1)
        positions = jnp.tile(jnp.arange(2 * LENGTH)[None], (8, 1))
        params = named.init(model, jax.random.key(1))
        model.hidden(params, tokens, positions, jnp.ones_like(tokens))
        return jnp.stack(weights)

    model = transformer.Model(config)
    monkeypatch.setattr(attention, "attend_segments", spy)
    return jax.jit(run)(jax.random.key(seed))


def on_relative(weights, head, back):
    """Mean weight that a head puts `back` places before, in the second half."""
    places = jnp.arange(LENGTH + 1, 2 * LENGTH)
    return jnp.mean(weights[:, head, places, places - back])


@pytest.mark.parametrize("seed", range(3))
def test_heads_attend_to_what_followed_before(seed, monkeypatch):
    first, second = attention_weights(CONFIG, seed, monkeypatch)
    assert on_relative(first, 0, 1) > 0.95 and on_relative(first, 1, 2) > 0.95
    uniform = 1 / (1.5 * LENGTH)
    for head in range(4):
        assert on_relative(second, head, LENGTH - 1) > 3 * uniform


def test_a_random_draw_does_not(monkeypatch):
    plain = dataclasses.replace(CONFIG, init="random")
    first, second = attention_weights(plain, 0, monkeypatch)
    assert on_relative(first, 0, 1) < 0.1
    assert on_relative(second, 0, LENGTH - 1) < 2 / LENGTH


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 1}, {"num_kv_heads": 1}, {"num_heads": 2}, {"qkv_bias": False}],
)
def test_shapes_without_room_are_known(change):
    assert CONFIG.has_room_for_induction
    assert not dataclasses.replace(CONFIG, **change).has_room_for_induction
