"""TensorBoard events, on disk as soon as `log` returns.

tensorboardX's own `SummaryWriter` hands events to a process-wide queue and a thread:
what is in them when a process is killed is missing for good, although a checkpoint says
that its iteration is done. Here its record writer is called directly.

TensorBoard knows no axis but step and time. So the curves of rollouts and evaluations are
written twice more, in folders below, with environment steps and tokens in the step's place.
"""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from agentrl.loggers import points

FOLDER = "tensorboard"
AXES = {"by_env_steps": "progress/env_steps", "by_tokens": "progress/tokens"}
_OVER_AXES = ("rollout/", "env/", "evaluation/")  # metrics to draw over each of `AXES`
_proto: Any = event_pb2  # its classes are made at import, unseen by type checkers


class TensorBoard:
    """The `tensorboard` folder of a run; a session without points adds no file."""

    def __init__(self, workdir: pathlib.Path, *, step: int, axes: Mapping[str, float]):
        """Remembers where the session begins.

        Args:
          workdir: of the run.
          step: where it goes on from; TensorBoard forgets what comes after it.
          axes: likewise of each axis.
        """
        self._folder = workdir / FOLDER
        self._starts = {"": step} | {
            folder: int(axes.get(name, 0)) for folder, name in AXES.items()
        }
        self._files: dict[str, EventFile] = {}

    def log(self, point: points.Point) -> None:
        """Writes a point.

        Raises:
          OSError: if a file cannot be written.
        """
        numbers = self._new(point, "", point.step)
        if numbers:
            self._file("", point).write(
                numbers,
                step=point.step,
                wall_time=point.wall_time,
                texts=point.texts,
                histograms=point.histograms,
            )
        for folder, name in AXES.items():
            step = int(point.axes.get(name, 0))
            numbers = self._new(point, folder, step)
            drawn = {n: x for n, x in numbers.items() if n.startswith(_OVER_AXES)}
            if drawn and name in point.axes:
                self._file(folder, point).write(
                    drawn, step=step, wall_time=point.wall_time
                )

    def _new(
        self, point: points.Point, folder: str, step: int
    ) -> Mapping[str, float | None]:
        """Numbers that are not there: an earlier session may have evaluated, too."""
        if not point.evaluation or step > self._starts[folder]:
            return point.numbers
        there = find_tags(self._folder / folder, step=step)
        return {name: x for name, x in point.numbers.items() if name not in there}

    def close(self, *, failed: bool) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()

    def _file(self, folder: str, point: points.Point) -> "EventFile":
        if folder not in self._files:
            self._files[folder] = EventFile(
                self._folder / folder,
                first_step=self._starts[folder] + 1,
                wall_time=point.wall_time,
            )
        return self._files[folder]


class EventFile:
    """A new file of events."""

    def __init__(self, folder: pathlib.Path, *, first_step: int, wall_time: float):
        """Opens it.

        Args:
          folder: made if it is not there.
          first_step: tensorboard forgets what earlier files hold from this step on.
          wall_time: now, in seconds since 1970.

        Raises:
          OSError: if the file cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Names hold the second of opening only: a number keeps two sessions apart.
        number = sum(1 for path in folder.iterdir() if path.is_file())
        self._writer = event_file_writer.EventsWriter(
            str(folder / "events"), filename_suffix=f".{number}"
        )
        start = _proto.SessionLog(status=_proto.SessionLog.START)
        for content in ({"file_version": "brain.Event:2"}, {"session_log": start}):
            self._writer.write_event(
                _proto.Event(wall_time=wall_time, step=first_step, **content)
            )
        self._writer.flush()

    def write(
        self,
        values: Mapping[str, float | None],
        *,
        step: int,
        wall_time: float,
        texts: Mapping[str, str] | None = None,
        histograms: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Writes scalars, except for those that are None, texts and histograms."""
        summaries = [
            summary.scalar(name, value)
            for name, value in values.items()
            if value is not None
        ]
        summaries += [summary.text(name, text) for name, text in (texts or {}).items()]
        summaries += [
            summary.histogram(name, sample, bins="auto")
            for name, sample in (histograms or {}).items()
            if len(sample)
        ]
        for made in summaries:
            event = _proto.Event(wall_time=wall_time, step=step, summary=made)
            self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def find_tags(folder: pathlib.Path, *, step: int) -> set[str]:
    """Names of the scalars that tensorboard shows at a step."""
    found = set[str]()
    for path in sorted(folder.glob("events.*"), key=lambda p: int(p.suffix[1:])):
        record = io.BytesIO(path.read_bytes())
        # Length, a checksum of 4 bytes, the event, another checksum; the last may be torn.
        while len(head := record.read(12)) == 12:
            body = record.read(int.from_bytes(head[:8], "little"))
            if len(record.read(4)) < 4:
                break
            event = _proto.Event.FromString(body)
            if event.session_log.status == _proto.SessionLog.START:
                found &= found if event.step > step else set()  # it repeats the step
            elif event.step == step:
                found |= {value.tag for value in event.summary.value}
    return found
