"""Scanned blocks compute what unrolled ones do, and convert without loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import states

from agentrl import errors, types
from agentrl.checkpoints import checkpoint
from agentrl.config import MeshConfig
from agentrl.experiment import files
from agentrl.learner import optimizer
from agentrl.models import kv_cache, layers, lora, model_config, transformer
from agentrl.parallel import sharding

SMALL = model_config.ModelConfig(
    vocab_size=50, hidden_size=32, num_layers=3, head_dim=8, mlp_size=48
)
FAMILIES = {
    "qwen2": SMALL,
    "qwen3": dataclasses.replace(SMALL, qkv_bias=False, qk_norm=True),
    "llama": dataclasses.replace(SMALL, qkv_bias=False, tied_embeddings=False),
    "critic_xla": dataclasses.replace(SMALL, critic=True, attention="xla"),
}
ADAPTERS = model_config.LoraConfig(rank=4, alpha=6.0, int8_base=True)
TOKENS = np.arange(24).reshape(2, 12) % 50
POSITIONS = np.tile(np.arange(12)[None], (2, 1))


def models(config=SMALL):
    """The unrolled model and the scanned one."""
    return [
        transformer.Model(dataclasses.replace(config, scan_blocks=choice))
        for choice in ("never", "always")
    ]


def shaken(params):
    """Parameters of which none, bias or norm, is constant."""
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * draw.normal(size=x.shape), params)


def equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def split(model, **settings):
    settings = {"lora": ADAPTERS, "trainable": None, **settings}
    params = model.init(jax.random.key(0))
    return lora.split(params, jax.random.key(1), config=model.config, **settings)


@pytest.mark.parametrize(
    "family",
    [
        "qwen2",
        "critic_xla",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "llama")),
    ],
)
def test_hidden_states_gradients_and_rollouts_agree(family):
    unrolled, scanned = models(FAMILIES[family])
    drawn = unrolled.init(jax.random.key(0))
    equal(scanned.init(jax.random.key(0)), layers.stack(drawn))
    params = shaken(drawn)

    def loss(params, model, remat):
        segments = np.ones_like(TOKENS)
        hidden = model.hidden(params, TOKENS, POSITIONS, segments, remat=remat)
        return jnp.sum(jnp.sin(hidden))

    compute = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    expected = compute(params, unrolled, True)
    value, grads = compute(layers.stack(params), scanned, True)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        layers.unstack(grads),
        expected[1],
    )

    def play(model, params):
        cache = kv_cache.empty(model.config, 2, 16)
        append = jax.jit(model.append)
        _, cache = append(params, TOKENS[:, :8], jnp.array([8, 5]), cache)
        cache = kv_cache.take_rows(cache, jnp.array([1, 0]))
        cache = kv_cache.grow(cache, 24)
        cache = kv_cache.copy_row(
            cache, kv_cache.take_rows(cache, jnp.array([1])), jnp.array([False, True])
        )
        last, cache = append(params, TOKENS[:, 8:9], jnp.array([1, 1]), cache)
        return last, cache

    (last, cache), (other_last, other) = (
        play(unrolled, params),
        play(scanned, layers.stack(params)),
    )
    np.testing.assert_allclose(other_last, last, atol=2e-5)
    assert other.stacked and other.max_length == cache.max_length == 24
    np.testing.assert_allclose(other.keys, jnp.stack(cache.keys), atol=2e-5)


def test_adapters_and_int8_kernels_are_those_of_single_layers():
    unrolled, scanned = models()
    expected, (trained, frozen) = split(unrolled), split(scanned)
    equal((trained, frozen), layers.stack(expected))
    assert lora.digest(frozen) == lora.digest(expected[1])

    trained = shaken(trained)
    joined = lora.join(trained, frozen, 1.5)
    parts = layers.unstack((trained, frozen))
    segments = np.ones_like(TOKENS)
    hidden = scanned.hidden(joined, TOKENS, POSITIONS, segments)
    np.testing.assert_allclose(
        hidden,
        unrolled.hidden(lora.join(*parts, 1.5), TOKENS, POSITIONS, segments),
        atol=2e-5,
    )
    merged = lora.merge(joined)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        layers.unstack(merged),
        lora.merge(lora.join(*parts, 1.5)),
    )


def test_layers_that_are_trained_otherwise_stay_unrolled():
    with pytest.raises(errors.ConfigError, match=r"model\.scan_blocks=never"):
        split(models()[1], lora=None, trainable=("blocks/1/", "^norm"))
    kinds = ("mlp/up", "attention/query")
    assert layers.are_alike(("blocks/./mlp", "norm"), 3, kinds)
    assert not layers.are_alike(("blocks/[12]/mlp",), 3, kinds)


def test_decay_leaves_vectors_of_all_layers_alone():
    unrolled, scanned = models(FAMILIES["qwen2"])
    masks = [
        optimizer.decay_mask(m.init(jax.random.key(0))) for m in (unrolled, scanned)
    ]
    one = masks[0]["blocks"][0]
    assert masks[1]["blocks"] == one
    assert not one["attention_norm"]["scale"] and one["mlp"]["up"]


@pytest.mark.parametrize(
    "stored", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["unrolled", "stacked"]
)
def test_checkpoints_are_restored_into_either_form(tmp_path, stored):
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, model=2))

    def make_state(model):
        params = sharding.with_shardings(
            jax.eval_shape(model.init, jax.random.key(0)), mesh
        )
        init = jax.jit(
            lambda: shaken(model.init(jax.random.key(0))),
            out_shardings=jax.tree.map(lambda s: s.sharding, params),
        )
        learner = types.TrainState(jnp.int32(3), init(), states.OPTIMIZER.init(init()))
        return dataclasses.replace(states.make_state(3), learner=learner)

    state, like = (make_state(model) for model in models()[:: (1, -1)[stored]])
    like = states.abstract(like)
    like = dataclasses.replace(
        like, learner=sharding.with_shardings(like.learner, mesh)
    )
    state = jax.device_put(
        state,
        dataclasses.replace(
            jax.tree.map(lambda x: x.sharding, state),
            learner=sharding.shardings_for(
                state.learner, mesh, sharding.TRANSFORMER_RULES
            ),
        ),
    )
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, types.Progress())
        checkpoints.stage_ends()  # waits
        restored = checkpoints.restore(3, like)

    change = layers.unstack if stored else layers.stack
    equal(restored, change(state))
    query = restored.learner.params["blocks"]
    query = (query[0] if stored else query)["attention"]["query"]
    wanted = ("fsdp", "model") if stored else (None, "fsdp", "model")
    assert query.sharding.spec == jax.sharding.PartitionSpec(*wanted)


def test_a_run_that_trains_some_layers_is_never_scanned(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("import fake_run\nget_config = fake_run.make_settings\n")
    uneven = files.load(path, ['trainable=("blocks/1/",)'], platform="tpu")
    even = files.load(path, ['trainable=("mlp",)'], platform="tpu")
    assert (uneven.model.scan_blocks, even.model.scan_blocks) == ("never", "auto")
