import chex
import jax
import jax.numpy as jnp
import pytest

from agentrl import config, learner, optimizer, sharding, types
from agentrl.models import config as model_config
from agentrl.models import transformer

MODEL = transformer.Model(
    model_config.ModelConfig(
        vocab_size=16, hidden_size=16, num_layers=1, num_heads=4, num_kv_heads=2,
        head_dim=8, mlp_size=32,
    )
)  # fmt: skip
OPTIMIZER = optimizer.make_optimizer(
    # A large epsilon keeps Adam from blowing rounding up to whole steps.
    config.OptimizerConfig(learning_rate=0.1, epsilon=1e-3),
    total_steps=1,
)


@pytest.fixture(scope="module")
def problem():
    params = MODEL.init(jax.random.key(0))
    mixture = types.MixtureState(jnp.ones(1), jnp.ones(1), jnp.zeros(1, int))
    state = types.TrainState(
        jnp.int32(0), params, OPTIMIZER.init(params), mixture, jax.random.key(1)
    )
    step = learner.make_train_step(
        learner.make_score(
            MODEL.hidden,
            MODEL.unembedding,
            chunk=32,
            temperature=1.0,
            num_valid_tokens=13,
        ),
        OPTIMIZER,
        algorithm=config.AlgorithmConfig(name="gspo", clip_low=0.5, clip_high=0.5),
    )
    return step, state


@pytest.mark.parametrize(
    "mesh_config",
    [
        config.MeshConfig(data=8),
        config.MeshConfig(data=2, fsdp=2, model=2),
    ],
    ids=["data", "data_fsdp_model"],
)
def test_eight_devices_take_the_step_of_one(problem, mesh_config, make_batch):
    step, state = problem
    batch = make_batch(0, shape=(2, 8, 24))
    expected_state, expected_metrics = jax.jit(step)(state, batch)

    mesh = sharding.make_mesh(mesh_config)
    placements = sharding.shardings_for(state, mesh, sharding.TRANSFORMER_RULES)
    jitted = jax.jit(step, out_shardings=(placements, sharding.replicated(mesh)))
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


def test_unused_microbatches_are_skipped_on_all_devices_alike(problem, make_batch):
    step, state = problem
    batch = make_batch(1, shape=(3, 8, 24))
    # Rows of the last microbatch in use lie on one device only.
    batch.segment_ids[1:] = batch.action_mask[1:] = 0
    batch.segment_ids[1, 3] = batch.segment_ids[0, 0]
    batch.action_mask[1, 3] = batch.action_mask[0, 0]
    _, expected = jax.jit(step)(state, batch)

    mesh = sharding.make_mesh(config.MeshConfig(data=8))
    _, metrics = jax.jit(step)(
        jax.device_put(state, sharding.replicated(mesh)),
        sharding.to_global(batch, mesh),
    )

    chex.assert_trees_all_close(
        jax.device_get(metrics), jax.device_get(expected), rtol=2e-5, atol=1e-6
    )
