import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import pytest

from agentrl import config, types
from agentrl.learner import algorithms, optimizer, update
from agentrl.models import layers, model_config, transformer
from agentrl.parallel import sharding
from agentrl.run import stages

MODEL = transformer.Model(
    model_config.ModelConfig(
        vocab_size=24, hidden_size=16, num_layers=1, num_heads=4, num_kv_heads=2,
        head_dim=8, mlp_size=32,
    )
)  # fmt: skip
OPTIMIZER = optimizer.make_optimizer(
    # A large epsilon keeps Adam from blowing rounding up to whole steps.
    config.OptimizerConfig(learning_rate=0.1, epsilon=1e-3),
    total_steps=1,
)


SCANNED = transformer.Model(dataclasses.replace(MODEL.config, scan_blocks="always"))


def make_step(mesh=None, model=MODEL):
    settings = {
        "chunk": 32,
        "temperature": 1.0,
        "join": lambda params: params.trained,
        "num_valid_tokens": 13,
        "entropy_gradient": True,
    }
    forward = (
        update.make_forward(MODEL.hidden, MODEL.unembedding, **settings)
        if mesh is None
        else stages.place_forward(model, mesh, remat=model is SCANNED, **settings)
    )
    stage = config.StageConfig(
        name="only",
        mixture=config.MixtureConfig(environments=(("farm", 1.0),)),
        num_iterations=1,
        algorithm=config.Gspo(clip_low=0.5, clip_high=0.5, entropy_coefficient=0.01),
    )
    train_step = functools.partial(
        update.train_step,
        forward=forward,
        objective=algorithms.resolve(stage).objective,
        optimizer=OPTIMIZER,
    )
    return lambda state, batch: train_step(state, {}, batch, None)


@pytest.fixture(scope="module")
def problem():
    params = MODEL.init(jax.random.key(0))
    state = types.TrainState(jnp.int32(0), params, OPTIMIZER.init(params))
    return make_step(), state


@pytest.mark.parametrize(
    ("mesh_config", "model"),
    [
        pytest.param(config.MeshConfig(data=8), MODEL, marks=pytest.mark.slow),
        pytest.param(config.MeshConfig(fsdp=8), MODEL, marks=pytest.mark.slow),
        (config.MeshConfig(data=2, fsdp=2, model=2), SCANNED),
    ],
    ids=["data", "fsdp", "data_fsdp_model_scanned"],
)
def test_eight_devices_take_the_step_of_one(problem, mesh_config, model, make_batch):
    step, state = problem
    batch = make_batch(0, shape=(2, 8, 24))
    expected_state, expected_metrics = jax.jit(step)(state, batch)
    if model is SCANNED:
        state, expected_state = map(layers.stack, (state, expected_state))

    mesh = sharding.make_mesh(mesh_config)
    placements = sharding.shardings_for(state, mesh, sharding.TRANSFORMER_RULES)
    jitted = jax.jit(
        make_step(mesh, model), out_shardings=(placements, sharding.replicated(mesh))
    )
    new_state, metrics = jitted(
        jax.device_put(state, placements), sharding.to_global(batch, mesh)
    )

    chex.assert_trees_all_close(
        jax.device_get(new_state.params),
        jax.device_get(expected_state.params),
        rtol=2e-5,
        atol=2e-6,
    )
    chex.assert_trees_all_close(
        jax.device_get(metrics), jax.device_get(expected_metrics), rtol=2e-5, atol=1e-6
    )
    spread = len(new_state.params["embedding"].sharding.device_set)
    assert spread == 8


def activation_shapes(step, state, batch, mesh):
    """Shapes of the results of collectives in the compiled step."""
    placements = sharding.shardings_for(state, mesh, sharding.TRANSFORMER_RULES)
    jitted = jax.jit(step, out_shardings=(placements, sharding.replicated(mesh)))
    lowered = jitted.lower(
        jax.device_put(state, placements), sharding.to_global(batch, mesh)
    )
    text = lowered.compile().as_text()
    found = re.findall(r"= f32\[([\d,]+)\]\S* (?:all-reduce|all-gather)\(", text)
    return {tuple(map(int, shape.split(","))) for shape in found}


def test_with_fsdp_weights_move_and_rows_stay(problem, make_batch):
    step, state = problem
    batch = make_batch(0, shape=(2, 8, 24))
    mesh = sharding.make_mesh(config.MeshConfig(fsdp=8))

    def whole_rows(step):
        shapes = activation_shapes(step, state, batch, mesh)
        return {shape for shape in shapes if shape[:2] == (8, 24)}

    assert whole_rows(make_step(mesh)) == set()
    assert whole_rows(step)  # left to itself, the compiler adds up parts of all rows


def test_logits_stay_sharded_over_the_vocabulary(problem, make_batch):
    _, state = problem
    batch = make_batch(0, shape=(2, 8, 24))
    mesh = sharding.make_mesh(config.MeshConfig(data=2, fsdp=2, model=2))
    shapes = activation_shapes(make_step(mesh), state, batch, mesh)
    # A chunk has 32 tokens, or an eighth of each row if that is less.
    rows, width, vocabulary = 8 // 2, min(32 // 8, 24 // 8), MODEL.config.vocab_size
    assert (rows, width) in shapes  # the maximum and the sum over all shards
    assert not {
        s for s in shapes if s[0] == rows and s[-1] in (vocabulary, vocabulary // 2)
    }
    # Nor is the table, or its gradient, ever in one place.
    size = MODEL.config.hidden_size
    assert not {s for s in shapes if sorted(s) == [size, vocabulary]}


def test_unused_microbatches_are_skipped_on_all_devices_alike(problem, make_batch):
    step, state = problem
    batch = make_batch(1, shape=(3, 8, 24))
    # Rows of the last microbatch in use lie on one device only.
    batch.segment_ids[1:] = batch.rl_weights[1:] = 0
    batch.segment_ids[1, 3] = batch.segment_ids[0, 0]
    batch.rl_weights[1, 3] = batch.rl_weights[0, 0]
    _, expected = jax.jit(step)(state, batch)

    mesh = sharding.make_mesh(config.MeshConfig(data=8))
    _, metrics = jax.jit(step)(
        jax.device_put(state, sharding.replicated(mesh)),
        sharding.to_global(batch, mesh),
    )

    chex.assert_trees_all_close(
        jax.device_get(metrics), jax.device_get(expected), rtol=2e-5, atol=1e-6
    )
