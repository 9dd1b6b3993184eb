"""Checkpoints: what a run is resumed, evaluated and continued from.

A run keeps its newest few checkpoints and the last one of every stage, in
`WORKDIR/checkpoints/STEP`. Arrays are restored onto whatever shardings are asked for,
so the devices may have changed, and into blocks unrolled or stacked, whichever is stored.
A checkpoint appears whole and disappears whole, both by a rename, and carries the CRC-32
of its files: a damaged one that is asked for is reported, never skipped, and one that is
not asked for hinders nobody.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from agentrl import errors, types
from agentrl.experiment import files
from agentrl.models import layers

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
_REMOVED = "removed-"  # before the name of a checkpoint while it is removed
_ASIDE = "aside-"  # before the name of what stood in the way
_BLOCK = 1 << 22  # bytes read at a time
_MOVE_AWAY = "Move the folder away to go on from the checkpoint before it."


class Checkpoints:
    """The checkpoints of one working directory; a context manager.

    Saving goes on in the background. A save that fails raises at the next call of
    `save` or at the end of the `with` block.
    """

    def __init__(
        self, workdir: pathlib.Path, *, keep: int = 1, read_only: bool = False
    ):
        """Opens it; what a killed process left half-written goes before the next save.

        Args:
          workdir: working directory of the run.
          keep: how many of the newest checkpoints stay, besides the ends of stages.
          read_only: neither creates, clears nor removes anything, so that a run can be
            evaluated while it trains.
        """
        self.folder = workdir.resolve() / FOLDER
        self._keep = keep
        self._read_only = read_only
        self._saving: int | None = None  # step of the save under way
        # Replicas share the writing of large arrays only: to cut them, the first save
        # compiles programs.
        handler = ocp.type_handlers.ArrayHandler(
            min_slice_bytes_for_replica_parallel=1 << 26
        )
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # it warns of overrides and read-only use
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                max_to_keep=None,  # `_remove_old` removes: orbax does it file by file
                async_options=ocp.AsyncOptions(
                    # Runs once all arrays are written, before the folder is renamed.
                    post_finalization_callback=self._write_checksums
                ),
            ),
        )
        logging.set_verbosity(verbosity)
        # JAX finds the iteration to stop after by counts of `parallel.interruption`.
        self._manager.reached_preemption = lambda step: False
        if not read_only and jax.process_index() == 0:
            self._clear_leftovers()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        with self._explain_writing():
            self._manager.close()  # waits for the save under way
            self._remove_old()

    def steps(self) -> list[int]:
        """Optimizer steps that have a complete checkpoint, ascending."""
        return list_steps(self.folder)

    def latest_step(self) -> int | None:
        """Optimizer step of the newest checkpoint; None before the first."""
        return max(self.steps(), default=None)

    def wait(self) -> None:
        """Waits until the save under way is on disk.

        Raises:
          CheckpointError: if it cannot be written.
        """
        with self._explain_writing():
            self._manager.wait_until_finished()

    def stage_ends(self) -> dict[str, int]:
        """Step of the checkpoint that ended each finished stage, by stage name.

        A damaged checkpoint that cannot say what it is counts as none.
        """
        self._manager.wait_until_finished()  # the last one may still be on its way
        ends = {}
        for step in self.steps():
            try:
                entry = self.read_progress(step)
            except errors.CheckpointError:
                continue
            if entry["end_of_stage"]:
                ends[entry["progress"]["stage_name"]] = step
        return ends

    def save(
        self,
        state: types.RunState,
        progress: types.Progress,
        *,
        end_of_stage: bool = False,
        episodes: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts an asynchronous save; returns as soon as the arrays may be changed.

        Args:
          state: of the run.
          progress: where the run stands.
          end_of_stage: whether it is to stay for good.
          episodes: those that were played ahead or have begun, as JSON has them.

        Raises:
          CheckpointError: if this or the save before cannot be written.
        """
        step = int(state.learner.step)
        items = {"params": state.learner.params, "state": _without_params(state)}
        entry = {
            "progress": dataclasses.asdict(progress),
            "end_of_stage": end_of_stage,
            "arrays": {name: _describe_arrays(tree) for name, tree in items.items()},
        }
        saved: dict[str, ocp.args.CheckpointArgs] = {
            name: ocp.args.StandardSave(tree) for name, tree in items.items()
        }
        saved["progress"] = ocp.args.JsonSave(entry)
        if episodes is not None:
            saved["episodes"] = ocp.args.JsonSave(episodes)
        with self._explain_writing():
            self._manager.wait_until_finished()
            self._remove_old()
            self._saving = step
            self._manager.save(step, args=ocp.args.Composite(**saved))

    def restore_progress(self, step: int, *, frozen_digest: int = 0) -> types.Progress:
        """Where the run stood when the checkpoint of `step` was saved.

        Raises:
          CheckpointError: if it is missing, damaged, or was trained beside other frozen
            parameters than those of this digest.
        """
        stored = self.read_progress(step)["progress"]
        known = [field.name for field in dataclasses.fields(types.Progress)]
        progress = types.Progress(**{name: stored[name] for name in known})
        if progress.frozen_digest != frozen_digest:
            raise errors.CheckpointError(
                f"checkpoint {self.folder / str(step)} was trained beside frozen "
                f"parameters of digest {progress.frozen_digest:08x}, and this run's have "
                f"{frozen_digest:08x}. Only trained ones are stored: put back the files "
                "that the run's `weights` names, or its `seed` and version of JAX if it "
                "started from random ones."
            )
        return progress

    def restore(self, step: int, like: types.RunState) -> types.RunState:
        """Loads a checkpoint, bit for bit.

        Args:
          step: one of `steps()`.
          like: `jax.ShapeDtypeStruct`s with the shardings to restore onto.

        Raises:
          CheckpointError: if it is missing, damaged, or of other shapes than `like`.
        """
        restored = self._restore(
            step, {"params": like.learner.params, "state": _without_params(like)}
        )
        state = restored["state"]
        learner = dataclasses.replace(state.learner, params=restored["params"])
        return dataclasses.replace(state, learner=learner)

    def restore_params(self, step: int, like: types.PyTree) -> types.PyTree:
        """Loads the parameters alone, as an evaluation needs them; see `restore`."""
        return self._restore(step, {"params": like})["params"]

    def _restore(
        self, step: int, wanted: Mapping[str, types.PyTree]
    ) -> Mapping[str, Any]:
        self._check_files(step, list(wanted))
        stored = self.read_progress(step)["arrays"]
        paths = (path for item in wanted for path in stored[item])
        stacked = layers.name_stacked(paths)

        def load(like: Mapping[str, types.PyTree]) -> Mapping[str, Any]:
            self._check_arrays(step, like, stored)
            args = {name: ocp.args.StandardRestore(t) for name, t in like.items()}
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
            return {name: restored[name] for name in like}

        restored = layers.load_as(wanted, load, stacked=stacked)
        for name, like in wanted.items():
            _check_restored(restored[name], like)
        return restored

    def restore_episodes(self, step: int) -> Mapping[str, Any] | None:
        """The episodes that were saved with the checkpoint of `step`, if any were."""
        self._check_files(step, ["episodes"])  # one that is missing is a damage
        has_some = (self.folder / str(step) / "episodes").is_dir()
        return self._read_json(step, "episodes") if has_some else None

    def num_environments(self, step: int) -> int:
        """How many environments the run had when the checkpoint was saved."""
        arrays = self.read_progress(step)["arrays"]["state"]
        return int(arrays[".mixture.cursors"].partition("[")[2].rstrip("]"))

    def read_progress(self, step: int) -> Mapping[str, Any]:
        """What the checkpoint of `step` says of itself; see `save`."""
        self._check_files(step, ["progress"])
        return self._read_json(step, "progress")

    def _read_json(self, step: int, item: str) -> Mapping[str, Any]:
        # Not by the manager, which makes all hosts wait for each other: the first host
        # reads alone before it removes a checkpoint.
        folder = self.folder / str(step) / item
        return ocp.JsonCheckpointHandler().restore(folder)  # type: ignore[arg-type]

    def _remove_old(self) -> None:
        """Removes what need not stay: the newest and the ends of stages do.

        Each is renamed first, so that a process killed meanwhile leaves either a whole
        checkpoint or a folder that nobody takes for one.
        """
        if self._read_only or jax.process_index() != 0:
            return
        for step in self.steps()[: -self._keep]:
            folder = self.folder / str(step)
            try:
                needed = self.read_progress(step)["end_of_stage"]
            except errors.CheckpointError as error:
                self._move_aside(folder, str(error))
                continue
            if not needed:
                removed = folder.with_name(_REMOVED + folder.name)
                folder.rename(removed)
                shutil.rmtree(removed)

    def _clear_leftovers(self) -> None:
        """Clears the way: nothing but the newest checkpoint has to be sound for a run.

        What a removal has left goes. A file named by a number, or an older checkpoint
        whose progress cannot be read, is moved aside, where a person may look at it.
        """
        for path in self.folder.glob(_REMOVED + "*"):
            shutil.rmtree(path)
        for path in self.folder.glob("*"):
            if path.name.isdecimal() and not path.is_dir():
                self._move_aside(path, "it is no folder")
        for step in self.steps()[:-1]:
            try:
                self.read_progress(step)
            except errors.CheckpointError as error:
                self._move_aside(self.folder / str(step), str(error))

    def _move_aside(self, path: pathlib.Path, reason: str) -> None:
        taken = {other.name for other in self.folder.iterdir()}
        names = (f"{_ASIDE}{path.name}" + "+" * n for n in itertools.count())
        aside = path.with_name(next(name for name in names if name not in taken))
        path.rename(aside)
        logging.warning(
            "%s is not used, and is called %s now: %s", path, aside.name, reason
        )

    def _check_arrays(
        self,
        step: int,
        wanted: Mapping[str, types.PyTree],
        stored: Mapping[str, Mapping[str, str]],
    ) -> None:
        for item, tree in wanted.items():
            here, there = _describe_arrays(tree), stored[item]
            for name in [*here, *there]:
                if here.get(name) != there.get(name):
                    raise errors.CheckpointError(
                        f"checkpoint {self.folder / str(step)} does not fit this run: "
                        f"{item} {name} is {there.get(name, 'absent')} there and "
                        f"{here.get(name, 'absent')} here. Use the configuration that "
                        "saved it, or another --workdir."
                    )

    def _check_files(self, step: int, items: Sequence[str]) -> None:
        folder = self.folder / str(step)
        if not folder.is_dir():
            raise errors.CheckpointError(
                f"there is no checkpoint {folder}; {self.folder} holds {self.steps()}."
            )
        verify(folder, items)

    def _write_checksums(self) -> None:
        if jax.process_index() != 0:
            return
        (unfinished,) = self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        sums = {
            path.relative_to(unfinished).as_posix(): _checksum(path)
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        }
        entry = {"files": sums, "crc32": _checksum_of(sums)}
        (unfinished / CHECKSUMS).write_text(json.dumps(entry, indent=1))

    @contextlib.contextmanager
    def _explain_writing(self) -> Iterator[None]:
        try:
            yield
        # ValueError: how TensorStore reports; NotImplementedError: Orbax, where folders
        # cannot be renamed.
        except (OSError, ValueError, NotImplementedError) as error:
            free = shutil.disk_usage(self.folder).free
            raise errors.CheckpointError(
                f"checkpoint {self.folder / str(self._saving)} could not be written "
                f"({free / 2**20:.0f} MiB are free there): {error}\n"
                f"Complete checkpoints: {self.steps()}. Make room or mend the "
                "permissions, then repeat the command to go on from the newest."
            ) from error


@dataclasses.dataclass(frozen=True)
class StoredPolicy:
    """A policy as a checkpoint holds it."""

    params: types.PyTree  # the trained ones
    progress: types.Progress
    step: int


def restore_policy(
    path: str | pathlib.Path, like: types.PyTree, *, frozen_digest: int
) -> StoredPolicy:
    """Loads the policy that `path` names, while its run may go on training.

    Args:
      path: as `find_checkpoint` takes it. If it names no step and the newest checkpoint
        makes way for a newer one meanwhile, the newer one is loaded.
      like: `jax.ShapeDtypeStruct`s of the trained parameters, with their shardings.
      frozen_digest: of the parameters beside which they were trained.

    Raises:
      CheckpointError: if it is missing, damaged, or of another run.
    """
    workdir, step = find_checkpoint(path)
    while True:
        try:
            with Checkpoints(workdir, read_only=True) as checkpoints:
                progress = checkpoints.restore_progress(
                    step, frozen_digest=frozen_digest
                )
                return StoredPolicy(
                    checkpoints.restore_params(step, like), progress, step
                )
        except (errors.CheckpointError, OSError, ValueError):
            replaced, step = step, find_checkpoint(path)[1]
            if step == replaced or (workdir / FOLDER / str(replaced)).is_dir():
                raise


def find_checkpoint(path: str | pathlib.Path) -> tuple[pathlib.Path, int]:
    """Resolves what a person gives as a checkpoint.

    Args:
      path: WORKDIR, WORKDIR/checkpoints, or WORKDIR/checkpoints/STEP.

    Returns:
      The working directory, which holds `run.json` and the tokenizer, and the step; the
      newest one if only a working directory is given.

    Raises:
      CheckpointError: if there is none, or the directory was made by something else.
    """
    path = pathlib.Path(path)
    errors.refuse_missing(path)
    path = path.resolve()
    step = None
    if path.parent.name == FOLDER and path.name.isdecimal():
        step, path = int(path.name), path.parents[1]
    elif path.name == FOLDER:
        path = path.parent
    if not (path / files.RUN_FILE).is_file():
        raise errors.CheckpointError(
            f"{path} holds no {files.RUN_FILE}, so launch.train did not make it; "
            "give a working directory, or one of its checkpoints/STEP folders."
        )
    if step is None:
        step = max(list_steps(path / FOLDER), default=None)
        if step is None:
            raise errors.CheckpointError(
                f"{path} holds no checkpoint yet; the first is saved after save_every "
                "iterations or at the end of a stage."
            )
    return path, step


def list_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in `folder`, ascending.

    Orbax's own list counts a save that is still under way, or has failed.
    """
    folders = (p for p in folder.glob("*") if p.name.isdecimal() and p.is_dir())
    return sorted(int(p.name) for p in folders)


def verify(folder: pathlib.Path, items: Sequence[str]) -> None:
    """Compares the files of some items of a checkpoint with their recorded CRC-32.

    Raises:
      CheckpointError: naming the file that is missing or has changed.
    """
    try:
        entry = json.loads((folder / CHECKSUMS).read_text())
        sums = entry["files"]
        if _checksum_of(sums) != entry["crc32"]:
            raise ValueError("it has changed since it was saved")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{folder} has no readable {CHECKSUMS} ({error}), so it was not saved by "
            f"this library or is damaged. {_MOVE_AWAY}"
        ) from error
    for name, expected in sums.items():
        if name.partition("/")[0] not in items:
            continue
        path = folder / name
        if not path.is_file() or _checksum(path) != expected:
            what = "has changed since it was saved" if path.is_file() else "is missing"
            raise errors.CheckpointError(
                f"checkpoint {folder} is damaged: {name} {what}. {_MOVE_AWAY}"
            )


def _checksum(path: pathlib.Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def _checksum_of(sums: Mapping[str, int]) -> int:
    return zlib.crc32(json.dumps(sums).encode())


def _describe_arrays(tree: types.PyTree) -> dict[str, str]:
    """Type and shape of every leaf, by its path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _check_restored(restored: types.PyTree, like: types.PyTree) -> None:
    """Raises if what came back differs from `like` in structure, type, shape or place."""
    if (found := _describe_arrays(restored)) != (wanted := _describe_arrays(like)):
        different = dict(found.items() ^ wanted.items())
        raise errors.CheckpointError(
            f"restored arrays differ from those asked for in {sorted(different)}; this "
            "is a fault of the library, and nothing was trained with them."
        )
    for leaf, asked in zip(
        jax.tree.leaves(restored), jax.tree.leaves(like), strict=True
    ):
        placed = asked.sharding
        if placed is not None and not leaf.sharding.is_equivalent_to(placed, leaf.ndim):
            raise errors.CheckpointError(
                f"an array was restored onto {leaf.sharding} in place of {placed}; this "
                "is a fault of the library, and nothing was trained with it."
            )


def _without_params(state: types.RunState) -> types.RunState:
    return dataclasses.replace(
        state, learner=dataclasses.replace(state.learner, params=None)
    )
