import dataclasses

import fake_run
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentrl import checkpoint, errors, types
from launch import experiment

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def make_state(step=1, mesh=None, spec=None):
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "kernel": jax.random.normal(keys[0], (16, 8)),
        "scale": {"half": jax.random.normal(keys[1], (8,), jnp.bfloat16)},
    }
    if mesh is not None:
        placed = jax.device_put(params["kernel"], NamedSharding(mesh, spec))
        params = {"kernel": placed, "scale": params["scale"]}
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    _, opt_state = OPTIMIZER.update(grads, OPTIMIZER.init(params), params)
    return types.TrainState(
        step=jnp.int32(step),
        params=params,
        opt_state=opt_state,
        mixture=types.MixtureState(
            weights=jnp.ones(2),
            success=jnp.full(2, 0.1 * step),
            cursors=jnp.arange(2, dtype=jnp.int32),
        ),
        key=jax.random.fold_in(keys[2], 3),
    )


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def to_bytes(state):
    """Every leaf as raw bytes, the typed key among them."""
    state = jax.tree.map(
        lambda x: (
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ),
        state,
    )
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def save_all(workdir, steps, *, keep=2, ends=()):
    with checkpoint.Checkpoints(workdir, keep=keep) as checkpoints:
        for step in steps:
            progress = checkpoint.Progress(
                stage=len([e for e in ends if e < step]),
                stage_name=f"stage{len([e for e in ends if e < step])}",
                iteration=step,
                counters={"tokens": 10.0 * step},
            )
            checkpoints.save(make_state(step), progress, end_of_stage=step in ends)


def test_restores_bit_for_bit_with_key_and_progress(tmp_path):
    save_all(tmp_path, [3])

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(3, abstract(make_state(1)))
        progress = checkpoints.restore_progress(3)

    assert to_bytes(restored) == to_bytes(make_state(3))
    assert jax.tree.structure(restored) == jax.tree.structure(make_state(3))
    assert progress == checkpoint.Progress(0, "stage0", 3, counters={"tokens": 30.0})


def test_what_was_restored_is_saved_and_restored_again(tmp_path):
    like = abstract(make_state())
    save_all(tmp_path, [1])
    for step in (1, 2, 3):  # each round is one more interruption
        with checkpoint.Checkpoints(tmp_path) as checkpoints:
            state = checkpoints.restore(step, like)
            state = dataclasses.replace(state, step=jnp.int32(step + 1))
            checkpoints.save(state, checkpoint.Progress())

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(4, like)

    expected = dataclasses.replace(make_state(1), step=jnp.int32(4))
    assert to_bytes(restored) == to_bytes(expected)
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(
        lambda x: x.dtype, expected
    )


def test_restores_onto_another_mesh(tmp_path):
    devices = np.array(jax.devices())
    rows = Mesh(devices, ("data",))
    tiles = Mesh(devices.reshape(2, 4), ("data", "model"))
    saved = make_state(5, rows, PartitionSpec("data"))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, checkpoint.Progress())

    like = abstract(make_state(5, tiles, PartitionSpec("model", "data")))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(5, like)

    assert to_bytes(restored) == to_bytes(saved)
    wanted = NamedSharding(tiles, PartitionSpec("model", "data"))
    assert restored.params["kernel"].sharding == wanted


def test_parameters_alone(tmp_path):
    save_all(tmp_path, [4])

    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        params = checkpoints.restore_params(4, abstract(make_state(1).params))

    assert to_bytes(params) == to_bytes(make_state(4).params)


def test_arrays_may_be_donated_while_the_save_goes_on(tmp_path):
    overwrite = jax.jit(
        lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0
    )
    state = make_state(2)
    expected = to_bytes(state.params)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, checkpoint.Progress())
        jax.block_until_ready(overwrite(state.params))
        restored_like = abstract(make_state(2))

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(2, restored_like)

    assert to_bytes(restored.params) == expected


def test_keeps_the_newest_and_the_ends_of_stages(tmp_path):
    save_all(tmp_path, range(1, 8), keep=2, ends=(2, 4))

    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [2, 4, 6, 7]
        assert checkpoints.stage_ends() == {"stage0": 2, "stage1": 4}
        assert checkpoints.latest_step() == 7


def test_a_later_session_still_keeps_the_ends_of_stages(tmp_path):
    save_all(tmp_path, [1, 2, 3], keep=1, ends=(2,))
    save_all(tmp_path, [4, 5], keep=1)

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 5]


def test_before_the_first_save_there_is_nothing(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.steps() == []
        with pytest.raises(errors.CheckpointError, match=r"no checkpoint .*/3;"):
            checkpoints.restore_progress(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)},
            r"'kernel'\] is float32\[16, 8\] there and float32\[8, 8\] here",
        ),
        (
            {"kernel": jax.ShapeDtypeStruct((16, 8), jnp.bfloat16)},
            r"is float32\[16, 8\] there and bfloat16\[16, 8\] here",
        ),
        (
            {"head": jax.ShapeDtypeStruct((8, 8), jnp.float32)},
            r"'head'\] is absent there and float32\[8, 8\] here",
        ),
    ],
    ids=["shape", "type", "structure"],
)
def test_another_model_is_refused(tmp_path, change, message):
    save_all(tmp_path, [4])
    like = abstract(make_state(1).params) | change

    with (
        checkpoint.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(errors.CheckpointError, match=message),
    ):
        checkpoints.restore_params(4, like)


def test_finds_a_checkpoint_by_run_folder_and_step(tmp_path):
    run = tmp_path / "run"
    save_all(run, [3, 12])
    (run / experiment.RUN_FILE).write_text("{}")

    for path, step in [
        (run, 12),
        (run / "checkpoints", 12),
        (run / "checkpoints" / "3", 3),
        (str(run), 12),
    ]:
        assert checkpoint.find_checkpoint(path) == (run.resolve(), step)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(errors.CheckpointError, match="no directory at"):
        checkpoint.find_checkpoint(tmp_path / "missing")
    with pytest.raises(errors.CheckpointError, match=r"holds no run.json"):
        checkpoint.find_checkpoint(tmp_path)
    fake_run.write_run(tmp_path / "run")
    with pytest.raises(errors.CheckpointError, match="holds no checkpoint yet"):
        checkpoint.find_checkpoint(tmp_path / "run")
