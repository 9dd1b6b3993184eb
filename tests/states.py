"""Small training states, and checkpoints of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from agentrl import types
from agentrl.checkpoints import checkpoint

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def make_state(step=1, mesh=None, spec=None):
    keys = jax.random.split(jax.random.key(step))
    params = {
        "kernel": jax.random.normal(keys[0], (16, 8)),
        "scale": {"half": jax.random.normal(keys[1], (8,), jnp.bfloat16)},
    }
    if mesh is not None:
        placed = jax.device_put(params["kernel"], NamedSharding(mesh, spec))
        params = {"kernel": placed, "scale": params["scale"]}
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    _, opt_state = OPTIMIZER.update(grads, OPTIMIZER.init(params), params)
    return types.RunState(
        learner=types.TrainState(
            step=jnp.int32(step), params=params, opt_state=opt_state
        ),
        mixture=types.MixtureState(
            weights=jnp.ones(2),
            success=jnp.full(2, 0.1 * step),
            cursors=jnp.arange(2, dtype=jnp.int32),
        ),
    )


def with_step(state, step):
    """The state with another count of updates."""
    learner = dataclasses.replace(state.learner, step=jnp.int32(step))
    return dataclasses.replace(state, learner=learner)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def to_bytes(state):
    """Every leaf as raw bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def save_all(workdir, steps, *, keep=2, ends=()):
    with checkpoint.Checkpoints(workdir, keep=keep) as checkpoints:
        for step in steps:
            progress = types.Progress(
                stage=len([e for e in ends if e < step]),
                stage_name=f"stage{len([e for e in ends if e < step])}",
                iteration=step,
            )
            checkpoints.save(make_state(step), progress, end_of_stage=step in ends)
