"""All loggers of a run, opened by their names in `log_to`."""

import difflib
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl import errors
from agentrl.loggers import mirror, points, tensorboard, trackers

TENSORBOARD = "tensorboard"


def names() -> tuple[str, ...]:
    """Returns what `log_to` may name."""
    return (TENSORBOARD, *trackers.names())


def check(log_to: Sequence[str]) -> None:
    """Raises `ConfigError` if a logger is unknown, named twice, or not installed."""
    for name in log_to:
        if name not in names():
            close = difflib.get_close_matches(name, names(), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise errors.ConfigError(
                f"log_to names {name!r}.{hint} There are {', '.join(names())}; an "
                "empty list leaves metrics in metrics.jsonl alone."
            )
        if name != TENSORBOARD and importlib.util.find_spec(name) is None:
            raise errors.ConfigError(
                f"log_to names {name!r}, whose package is not installed; run `python -m "
                f"pip install {name}`, or leave it out."
            )
    if len(set(log_to)) != len(log_to):
        raise errors.ConfigError(f"log_to = {tuple(log_to)} names one twice.")


class Outlets:
    """The loggers of one session."""

    def __init__(
        self,
        log_to: Sequence[str],
        *,
        workdir: pathlib.Path,
        name: str,
        config: Mapping[str, Any],
        step: int,
        axes: Mapping[str, float],
        before: Callable[[], Sequence[points.Point]],
        say: Callable[[str], None],
    ):
        """Opens them.

        Args:
          log_to: their names; `check` has been called.
          workdir: of the run.
          name: of the run.
          config: of the run, as JSON.
          step: optimizer updates behind the state that the session goes on from.
          axes: tokens and environment steps up to there.
          before: reads what the run has recorded up to there.
          say: tells a person.

        Raises:
          ConfigError: if a tracker cannot be begun.
        """
        self._loggers: list[points.Logger] = []
        for kind in log_to:
            if kind == TENSORBOARD:
                self._loggers.append(
                    tensorboard.TensorBoard(workdir, step=step, axes=axes)
                )
                continue
            mark = mirror.Mark.open(workdir, kind)
            title = f"{name}-{workdir.resolve().name}"
            try:
                tracker = trackers.KINDS[kind](workdir, title, mark.run_id, config)
            except Exception as error:  # whatever a client of a server may raise
                raise errors.ConfigError(
                    f"log_to: {kind} cannot begin a run ({type(error).__name__}: "
                    f"{error}). Mend its settings, or leave it out: --log_to takes the "
                    "others."
                ) from error
            self._loggers.append(mirror.Mirror(mark, tracker, before=before(), say=say))

    def log(self, point: points.Point) -> None:
        """Gives a point to all of them."""
        for logger in self._loggers:
            logger.log(point)

    def close(self, *, failed: bool) -> None:
        """Closes all of them."""
        for logger in self._loggers:
            logger.close(failed=failed)
