import fake_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import states
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentrl import errors, types
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files


def test_restores_bit_for_bit_with_progress(tmp_path):
    states.save_all(tmp_path, [3])

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(3, states.abstract(states.make_state(1)))
        progress = checkpoints.restore_progress(3)

    assert states.to_bytes(restored) == states.to_bytes(states.make_state(3))
    assert jax.tree.structure(restored) == jax.tree.structure(states.make_state(3))
    assert progress == types.Progress(0, "stage0", 3)


def test_a_save_leaves_the_sync_point_of_hosts_alone(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda n: told.append(n)
    )
    states.save_all(tmp_path, [3])
    assert told == []


def test_what_was_restored_is_saved_and_restored_again(tmp_path):
    like = states.abstract(states.make_state())
    states.save_all(tmp_path, [1])
    for step in (1, 2, 3):  # each round is one more interruption
        with checkpoint.Checkpoints(tmp_path) as checkpoints:
            state = checkpoints.restore(step, like)
            state = states.with_step(state, step + 1)
            checkpoints.save(state, types.Progress())

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(4, like)

    expected = states.with_step(states.make_state(1), 4)
    assert states.to_bytes(restored) == states.to_bytes(expected)
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(
        lambda x: x.dtype, expected
    )


def test_restores_onto_another_mesh(tmp_path):
    devices = np.array(jax.devices())
    rows = Mesh(devices, ("data",))
    tiles = Mesh(devices.reshape(2, 4), ("data", "model"))
    saved = states.make_state(5, rows, PartitionSpec("data"))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, types.Progress())

    like = states.abstract(states.make_state(5, tiles, PartitionSpec("model", "data")))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(5, like)

    assert states.to_bytes(restored) == states.to_bytes(saved)
    wanted = NamedSharding(tiles, PartitionSpec("model", "data"))
    assert restored.learner.params["kernel"].sharding == wanted


def test_parameters_alone(tmp_path):
    states.save_all(tmp_path, [4])

    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        params = checkpoints.restore_params(
            4, states.abstract(states.make_state(1).learner.params)
        )

    assert states.to_bytes(params) == states.to_bytes(
        states.make_state(4).learner.params
    )


def test_arrays_may_be_donated_while_the_save_goes_on(tmp_path):
    overwrite = jax.jit(
        lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0
    )
    state = states.make_state(2)
    expected = states.to_bytes(state.learner.params)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, types.Progress())
        jax.block_until_ready(overwrite(state.learner.params))
        restored_like = states.abstract(states.make_state(2))

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(2, restored_like)

    assert states.to_bytes(restored.learner.params) == expected


def test_keeps_the_newest_and_the_ends_of_stages(tmp_path):
    states.save_all(tmp_path, range(1, 8), keep=2, ends=(2, 4))

    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [2, 4, 6, 7]
        assert checkpoints.stage_ends() == {"stage0": 2, "stage1": 4}
        assert checkpoints.latest_step() == 7


def test_a_later_session_still_keeps_the_ends_of_stages(tmp_path):
    states.save_all(tmp_path, [1, 2, 3], keep=1, ends=(2,))
    states.save_all(tmp_path, [4, 5], keep=1)

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
    states.save_all(tmp_path, [4])
    like = states.abstract(states.make_state(1).learner.params) | change

    with (
        checkpoint.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(errors.CheckpointError, match=message),
    ):
        checkpoints.restore_params(4, like)


def test_finds_a_checkpoint_by_run_folder_and_step(tmp_path):
    run = tmp_path / "run"
    states.save_all(run, [3, 12])
    (run / files.RUN_FILE).write_text("{}")

    for path, step in [
        (run, 12),
        (run / "checkpoints", 12),
        (run / "checkpoints" / "3", 3),
        (str(run), 12),
    ]:
        assert checkpoint.find_checkpoint(path) == (run.resolve(), step)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(errors.CheckpointError, match="no directory at") as told:
        checkpoint.find_checkpoint(tmp_path / "missing")
    assert "--workdir" not in str(told.value)  # several flags take a checkpoint
    with pytest.raises(errors.CheckpointError, match=r"holds no run.json"):
        checkpoint.find_checkpoint(tmp_path)
    fake_run.write_run(tmp_path / "run")
    with pytest.raises(errors.CheckpointError, match="holds no checkpoint yet"):
        checkpoint.find_checkpoint(tmp_path / "run")


def test_what_the_file_system_cannot_do_is_explained(tmp_path, monkeypatch):
    def unable(*_args, **_options):  # so Orbax says it of some mounted buckets
        raise NotImplementedError("folders cannot be renamed")

    with (
        pytest.raises(
            errors.CheckpointError, match=r"1 could not be written.*be renamed"
        ),
        checkpoint.Checkpoints(tmp_path) as checkpoints,
    ):
        monkeypatch.setattr(checkpoints._manager, "save", unable)
        checkpoints.save(states.make_state(1), types.Progress())
