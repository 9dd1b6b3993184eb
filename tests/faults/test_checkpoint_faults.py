"""Checkpoints that were cut off, changed, removed, or never finished."""

import pathlib
import shutil
import signal
import sys
import textwrap

import commands
import pytest
import states

from agentrl import errors
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files

TESTS = pathlib.Path(__file__).parents[1]


def files_of(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size
    )


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_in_half, flip_a_bit, remove])
def test_every_damaged_file_is_reported_by_name(tmp_path, damage):
    states.save_all(tmp_path, [1, 2])
    folder = tmp_path / "checkpoints" / "2"
    like = states.abstract(states.make_state())
    for name in files_of(folder):
        path = folder / name
        whole = path.read_bytes()
        damage(path)
        if name.partition("/")[0] in ("params", "state", "progress", "checksums.json"):
            with pytest.raises(errors.CheckpointError) as caught:
                restore_newest(tmp_path, like)
            assert name in str(caught.value)
            assert "Move the folder away" in str(caught.value)
        path.write_bytes(whole)

    assert restore_newest(tmp_path, like)[0] == 2


def restore_newest(workdir, like):
    with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
        step = checkpoints.latest_step()
        return step, checkpoints.restore(step, like), checkpoints.restore_progress(step)


def test_with_the_damaged_folder_moved_away_the_run_goes_on(tmp_path):
    states.save_all(tmp_path, [1, 2])
    flip_a_bit(tmp_path / "checkpoints" / "2" / "progress" / "metadata")
    like = states.abstract(states.make_state())
    with pytest.raises(errors.CheckpointError, match="progress/metadata has changed"):
        restore_newest(tmp_path, like)

    (tmp_path / "checkpoints" / "2").rename(tmp_path / "damaged")

    assert restore_newest(tmp_path, like)[0] == 1


def test_a_foreign_folder_is_reported(tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with (
        pytest.raises(
            errors.CheckpointError, match=r"7 has no readable checksums.json"
        ),
        checkpoint.Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.restore_progress(checkpoints.latest_step())


def damage_old_checkpoints(folder):
    """What removals that were killed, copies that failed and people leave behind."""
    shutil.copytree(folder / "4", folder / "removed-1")
    (folder / "removed-1" / "checksums.json").unlink()
    (folder / "2" / "checksums.json").unlink()
    shutil.rmtree(folder / "3" / "progress")
    (folder / "26").write_text("a file")
    (folder / "5.orbax-checkpoint-tmp").mkdir()


@pytest.mark.parametrize("read_only", [True, False])
def test_only_the_newest_checkpoint_has_to_be_sound(tmp_path, read_only):
    states.save_all(tmp_path, [1, 2, 3, 4], keep=4, ends=(1,))
    damage_old_checkpoints(tmp_path / "checkpoints")
    like = states.abstract(states.make_state())

    with checkpoint.Checkpoints(tmp_path, read_only=read_only) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert checkpoints.stage_ends() == {"stage0": 1}
        restored = checkpoints.restore(4, like)

    expected = states.make_state(4)
    assert states.to_bytes(restored) == states.to_bytes(expected)


def test_a_run_goes_on_beside_damaged_old_checkpoints(tmp_path):
    states.save_all(tmp_path, [1, 2, 3, 4], keep=4, ends=(1,))
    folder = tmp_path / "checkpoints"
    damage_old_checkpoints(folder)

    states.save_all(tmp_path, [5, 26], keep=2)

    # Nothing that a person may still want to look at is gone.
    assert sorted(path.name for path in folder.iterdir()) == [
        *("1", "26", "5", "aside-2", "aside-26", "aside-3"),
    ]


def test_a_kill_in_the_middle_of_a_removal_hinders_nobody(tmp_path):
    done = run_python(
        """
        import os, shutil, signal

        def half_remove(folder):
            next(path for path in folder.rglob("*") if path.is_file()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)

        with checkpoint.Checkpoints(workdir, keep=1) as checkpoints:
            for step in (1, 2):
                state = states.make_state(step)
                checkpoints.save(state, types.Progress())
            checkpoints._manager.wait_until_finished()
            shutil.rmtree = half_remove
            checkpoints._remove_old()
        """,
        tmp_path,
    )

    assert done.returncode == -signal.SIGKILL, done.stderr
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]
    states.save_all(tmp_path, [3], keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_a_policy_is_loaded_while_its_run_replaces_checkpoints(tmp_path, monkeypatch):
    states.save_all(tmp_path, [1], keep=1)
    (tmp_path / files.RUN_FILE).write_text("{}")
    like = states.abstract(states.make_state()).learner.params
    verify = checkpoint.verify

    def save_meanwhile(folder, items):
        monkeypatch.setattr(checkpoint, "verify", verify)
        states.save_all(tmp_path, [2], keep=1)
        verify(folder, items)

    monkeypatch.setattr(checkpoint, "verify", save_meanwhile)
    stored = checkpoint.restore_policy(tmp_path, like, frozen_digest=0)

    assert stored.step == 2
    expected = states.make_state(2).learner.params
    assert states.to_bytes(stored.params) == states.to_bytes(expected)


def test_leftovers_of_a_killed_save_are_cleared_before_the_next(tmp_path):
    states.save_all(tmp_path, [1])
    folder = tmp_path / "checkpoints"
    leftover = folder / "3.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "params").write_text("half")

    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]
    assert leftover.exists()  # an evaluation must not disturb the run that saves it
    states.save_all(tmp_path, [2])
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def run_python(code, *arguments):
    """Runs code with the tests' modules at hand, on one CPU device."""
    prelude = f"""
        import sys
        sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
        import jax
        jax.config.update("jax_platforms", "cpu")
        import pathlib, states
        from agentrl import types
        from agentrl.checkpoints import checkpoint
        workdir = pathlib.Path(sys.argv[1])
        """
    script = textwrap.dedent(prelude) + textwrap.dedent(code)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return commands.run(command)


def test_kill_in_the_middle_of_a_save_leaves_the_last_whole_one(tmp_path):
    done = run_python(
        """
        import os, signal
        checkpoints = checkpoint.Checkpoints(workdir, keep=2)
        checkpoints.save(states.make_state(1), types.Progress())
        checkpoints._manager.wait_until_finished()

        def die():  # all arrays are written, the folder has not got its name yet
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoint._checksum = lambda path: die()
        checkpoints.save(states.make_state(2), types.Progress())
        checkpoints._manager.wait_until_finished()
        """,
        tmp_path,
    )

    assert done.returncode == -signal.SIGKILL, done.stderr
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["1", "2.orbax-checkpoint-tmp"]
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1


def test_a_disk_that_takes_no_more_is_reported(tmp_path):
    # A limit on file size fails inside write(2), as a full disk does, without root.
    done = run_python(
        """
        import dataclasses, resource, signal
        import jax.numpy as jnp
        from agentrl import errors

        def large(step):
            params = {"a": jax.random.normal(jax.random.key(step), (300, 300))}
            state = states.make_state(step)
            learner = dataclasses.replace(state.learner, params=params)
            return dataclasses.replace(state, learner=learner)

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with checkpoint.Checkpoints(workdir) as checkpoints:
                checkpoints.save(large(1), types.Progress())
                checkpoints._manager.wait_until_finished()
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
                checkpoints.save(large(2), types.Progress())
        except errors.CheckpointError as error:
            print("REPORTED", error)
        """,
        tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert "REPORTED" in done.stdout
    assert f"{tmp_path}/checkpoints/2 could not be written" in done.stdout
    assert "MiB are free" in done.stdout
    assert "Complete checkpoints: [1]" in done.stdout
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
