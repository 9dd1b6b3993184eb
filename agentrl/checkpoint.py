"""Checkpoints: what a run is resumed, evaluated and continued from.

A run keeps its newest few checkpoints and the last one of every stage, in
`WORKDIR/checkpoints/STEP`. Arrays are restored onto whatever shardings are asked for,
so the devices may have changed. A checkpoint appears whole or not at all, and carries
the CRC-32 of its files: a damaged one is reported, never skipped.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from agentrl import errors, experiment, types

FOLDER = "checkpoints"
_CHECKSUMS = "checksums.json"
_BLOCK = 1 << 22  # bytes read at a time
_MOVE_AWAY = "Move the folder away to go on from the checkpoint before it."


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands, apart from arrays. Small, and readable as JSON."""

    stage: int = 0  # index into the run's stages
    stage_name: str = ""
    iteration: int = 0  # iterations finished within that stage
    counters: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one working directory; a context manager.

    Saving goes on in the background. A save that fails raises at the next call of
    `save` or at the end of the `with` block.
    """

    def __init__(
        self, workdir: pathlib.Path, *, keep: int = 1, read_only: bool = False
    ):
        """Opens the directory, and clears what a killed process left half-written.

        Args:
          workdir: working directory of the run.
          keep: how many of the newest checkpoints stay, besides the ends of stages.
          read_only: neither creates, clears nor removes anything, so that a run can be
            evaluated while it trains.
        """
        self.folder = workdir.resolve() / FOLDER
        self._saving: int | None = None  # step of the save under way
        retention = _Retention(keep)
        self._retention = retention
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                preservation_policy=retention,
                async_options=ocp.AsyncOptions(
                    # Runs once all arrays are written, before the folder is renamed.
                    post_finalization_callback=self._write_checksums
                ),
            ),
        )
        retention.stage_ends.update(self.stage_ends().values())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        with self._explain_writing():
            self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """Optimizer steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Optimizer step of the newest checkpoint; None before the first."""
        return self._manager.latest_step()

    def stage_ends(self) -> dict[str, int]:
        """Step of the checkpoint that ended each finished stage, by stage name."""
        entries = {step: self._read_progress(step) for step in self.steps()}
        return {
            entry["progress"]["stage_name"]: step
            for step, entry in entries.items()
            if entry["end_of_stage"]
        }

    def save(
        self, state: types.TrainState, progress: Progress, *, end_of_stage: bool = False
    ) -> None:
        """Starts an asynchronous save; returns as soon as the arrays may be changed.

        Raises:
          CheckpointError: if this or the save before cannot be written.
        """
        step = int(state.step)
        with self._explain_writing():
            self._manager.wait_until_finished()
            self._saving = step
            if end_of_stage:
                self._retention.stage_ends.add(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    state=ocp.args.StandardSave(_without_params(state)),
                    progress=ocp.args.JsonSave(
                        {
                            "progress": dataclasses.asdict(progress),
                            "end_of_stage": end_of_stage,
                        }
                    ),
                ),
            )

    def restore_progress(self, step: int) -> Progress:
        """Where the run stood when the checkpoint of `step` was saved."""
        return Progress(**self._read_progress(step)["progress"])

    def restore(self, step: int, like: types.TrainState) -> types.TrainState:
        """Loads a checkpoint, bit for bit.

        Args:
          step: one of `steps()`.
          like: `jax.ShapeDtypeStruct`s with the shardings to restore onto.

        Raises:
          CheckpointError: if it is missing, damaged, or of other shapes than `like`.
        """
        restored = self._restore(
            step, {"params": like.params, "state": _without_params(like)}
        )
        return dataclasses.replace(restored["state"], params=restored["params"])

    def restore_params(self, step: int, like: types.PyTree) -> types.PyTree:
        """Loads the parameters alone, as an evaluation needs them; see `restore`."""
        return self._restore(step, {"params": like})["params"]

    def _restore(
        self, step: int, wanted: Mapping[str, types.PyTree]
    ) -> Mapping[str, Any]:
        folder = self._check_files(step, list(wanted))
        args = {name: ocp.args.StandardRestore(like) for name, like in wanted.items()}
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise errors.CheckpointError(
                f"checkpoint {folder} does not fit this run: {error}\n"
                "Its files are whole, so it was saved with another model or optimizer; "
                "use the configuration that saved it, or another --workdir."
            ) from error

    def _read_progress(self, step: int) -> Mapping[str, Any]:
        folder = self._check_files(step, ["progress"])
        try:
            args = ocp.args.Composite(progress=ocp.args.JsonRestore())
            entry = self._manager.restore(step, args=args)["progress"]
            Progress(**entry["progress"])
            entry["end_of_stage"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise errors.CheckpointError(
                f"{folder} is not a checkpoint of this library, or is damaged: its "
                f"progress cannot be read ({type(error).__name__}: {error}). "
                f"{_MOVE_AWAY}"
            ) from error
        return entry

    def _check_files(self, step: int, items: Sequence[str]) -> pathlib.Path:
        folder = self.folder / str(step)
        if not folder.is_dir():
            raise errors.CheckpointError(
                f"there is no checkpoint {folder}; {self.folder} holds {self.steps()}."
            )
        verify(folder, items)
        return folder

    def _write_checksums(self) -> None:
        if jax.process_index() != 0:
            return
        (unfinished,) = (
            path
            for path in self.folder.iterdir()
            if path.name.partition(".")[0] == str(self._saving)
        )
        sums = {
            path.relative_to(unfinished).as_posix(): _checksum(path)
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        }
        (unfinished / _CHECKSUMS).write_text(json.dumps(sums, indent=1))

    @contextlib.contextmanager
    def _explain_writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: how TensorStore reports
            free = shutil.disk_usage(self.folder).free
            raise errors.CheckpointError(
                f"checkpoint {self.folder / str(self._saving)} could not be written "
                f"({free / 2**20:.0f} MiB are free there): {error}\n"
                f"Complete checkpoints: {self.steps()}. Make room or mend the "
                "permissions, then repeat the command to go on from the newest."
            ) from error


@dataclasses.dataclass
class _Retention:
    """Orbax policy: keep the newest checkpoints and the ends of stages."""

    keep: int
    stage_ends: set[int] = dataclasses.field(default_factory=set)

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        del context
        first_kept = len(checkpoints) - self.keep
        return [
            index >= first_kept or checkpoint.step in self.stage_ends
            for index, checkpoint in enumerate(checkpoints)
        ]


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
    if not path.is_dir():
        raise errors.CheckpointError(
            f"no directory at {path}; give a --workdir of a run."
        )
    path = path.resolve()
    step = None
    if path.parent.name == FOLDER and path.name.isdecimal():
        step, path = int(path.name), path.parents[1]
    elif path.name == FOLDER:
        path = path.parent
    if not (path / experiment.RUN_FILE).is_file():
        raise errors.CheckpointError(
            f"{path} holds no {experiment.RUN_FILE}, so launch.train did not make it; "
            "give a working directory, or one of its checkpoints/STEP folders."
        )
    if step is None:
        names = [p.name for p in (path / FOLDER).glob("*") if p.name.isdecimal()]
        if not names:
            raise errors.CheckpointError(
                f"{path} holds no checkpoint yet; the first is saved after save_every "
                "iterations or at the end of a stage."
            )
        step = max(map(int, names))
    return path, step


def verify(folder: pathlib.Path, items: Sequence[str]) -> None:
    """Compares the files of some items of a checkpoint with their recorded CRC-32.

    Raises:
      CheckpointError: naming the file that is missing or has changed.
    """
    try:
        sums = json.loads((folder / _CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(
            f"{folder} has no readable {_CHECKSUMS} ({error}), so it was not saved by "
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


def _without_params(state: types.TrainState) -> types.TrainState:
    return dataclasses.replace(state, params=None)
