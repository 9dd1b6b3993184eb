"""Scalars as tensorboard events, on disk as soon as `write` returns.

tensorboardX's own `SummaryWriter` hands events to a process-wide queue and a thread:
what is in them when a process is killed is missing for good, although a checkpoint says
that its iteration is done. Here its record writer is called directly.
"""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

FOLDER = "tensorboard"
_proto: Any = event_pb2  # its classes are made at import, unseen by type checkers


class EventFile:
    """A new file of events in the `tensorboard` folder of a run."""

    def __init__(self, workdir: pathlib.Path, *, first_step: int, wall_time: float):
        """Opens it.

        Args:
          workdir: of the run.
          first_step: tensorboard forgets what earlier files hold from this step on.
          wall_time: now, in seconds since 1970.

        Raises:
          OSError: if the file cannot be made.
        """
        folder = workdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # Names hold the second of opening only: a number keeps two sessions apart.
        number = sum(1 for _ in folder.iterdir())
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
        self, values: Mapping[str, float | None], *, step: int, wall_time: float
    ) -> None:
        """Writes one scalar per value, except for those that are None."""
        for name, value in values.items():
            if value is not None:
                event = _proto.Event(
                    wall_time=wall_time, step=step, summary=summary.scalar(name, value)
                )
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def find_tags(workdir: pathlib.Path, *, step: int) -> set[str]:
    """Names of the scalars that tensorboard shows at a step."""
    found = set[str]()
    for path in sorted((workdir / FOLDER).glob("*"), key=lambda p: int(p.suffix[1:])):
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
