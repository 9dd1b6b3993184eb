"""The terminal: lines of a table, at most 80 columns wide, and a bar below them.

The lines are the same in a terminal, in a file and over ssh; only a terminal has the bar.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import rich.console
import rich.progress

from agentrl import config, types

_SECONDS_BETWEEN_LINES = 5.0
_LINES_BETWEEN_HEADERS = 20


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    metric: str
    form: str
    width: int
    show: Callable[[float], float] = lambda value: value

    def format(self, values: Mapping[str, float | None]) -> str:
        """Returns the cell, right-aligned."""
        value = values.get(self.metric)
        if value is None:
            return f"{'-':>{self.width}}"
        shown = self.show(value)
        text = f"{shown:{self.form}}"
        if len(text) >= self.width:  # keeps a space before it
            text = f"{shown / 1000:,.0f}k" if abs(shown) >= 1e4 else f"{shown:.3g}"
        return f"{text:>{self.width}}"


def _reference_or_behavior(values: Mapping[str, float | None]) -> Column:
    if "policy/reference_kl" in values:
        return Column("ref KL", "policy/reference_kl", ".4f", 7)
    return Column("KL", "policy/behavior_kl", ".4f", 7)


def columns_of(values: Mapping[str, float | None]) -> Sequence[Column]:
    """Returns the columns for a stage, by the metrics of one of its iterations."""
    entropy = Column("entropy", "policy/entropy", ".3f", 8)
    if "rollout/return" not in values:  # supervised
        return (
            Column("loss", "policy/loss", ".4f", 8),
            entropy,
            Column("tok/s", "perf/learner_tokens_per_second", ",.0f", 8),
        )
    return (
        Column("return", "rollout/return", ".3f", 7),
        Column("success", "rollout/success", ".1%", 8),
        Column("signal", "rollout/zero_variance_groups", ".0%", 7, lambda x: 1 - x),
        _reference_or_behavior(values),
        entropy,
        Column("tok/s", "perf/decode_tokens_per_second", ",.0f", 7),
    )


class ProgressBar:
    """Says how each stage goes, and how much time is left for it and for the run.

    Lines are a few seconds apart; the last iteration of a stage always has one. `signal`
    is the share of groups whose returns differ, so that something can be learned.
    """

    def __init__(
        self,
        settings: config.RunConfig,
        *,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stages = settings.stages
        self._console = console or rich.console.Console()
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._clock = clock
        self._times = Times(settings.stages)
        self._stage = -1
        self._last_line = -math.inf
        self._num_lines = 0
        self._columns: Sequence[Column] = ()

    def start(self) -> None:
        """Draws the bar, if there is a terminal."""
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("[bold]{task.description}"),
                rich.progress.BarColumn(bar_width=None),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[left]}"),
                console=self._console,
            )
            self._bar.start()

    def stop(self) -> None:
        """Leaves the last state of the bar on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """Prints a line among those of the table."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def update(
        self, progress: types.Progress, values: Mapping[str, float | None]
    ) -> None:
        """Shows the iteration that `progress` has just finished."""
        if not values.get("learner/action_tokens", 1):  # nothing was trained on
            untold = {name for name in values if name.startswith("policy/")}
            values = {n: None if n in untold else v for n, v in values.items()}
        done, now = progress.iteration, self._clock()
        total = self._stages[progress.stage].num_iterations
        self._times.add(progress.stage, done, now, values.get("time/total"))
        stage_left, run_left = self._times.left()
        if progress.stage != self._stage:
            self._enter(progress.stage, done, values)
        if self._bar is not None and self._task is not None:
            left = f"{stage_left or '-'} left, run {run_left or '-'}"
            self._bar.update(self._task, completed=done, left=left)
        if now - self._last_line < _SECONDS_BETWEEN_LINES and done < total:
            return
        self._last_line = now
        if self._num_lines % _LINES_BETWEEN_HEADERS == 0:
            titles = "".join(f"{c.title:>{c.width}}" for c in self._columns)
            self.say(f"{'it':>9}{titles}{'s/it':>7}{'left':>9}{'run left':>10}")
        self._num_lines += 1
        cells = "".join(column.format(values) for column in self._columns)
        pace = self._times.pace(progress.stage)
        self.say(
            f"{f'{done}/{total}':>9}{cells}{_format_pace(pace):>7}"
            f"{stage_left or '-':>9}{run_left or '-':>10}"
        )

    def _enter(self, stage: int, done: int, values: Mapping[str, float | None]) -> None:
        settings = self._stages[stage]
        self._stage, self._num_lines, self._last_line = stage, 0, -math.inf
        self._columns = columns_of(values)
        title = f"stage {stage + 1}/{len(self._stages)} {settings.name}"
        self.say(f"{title}: {settings.num_iterations} iterations")
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(
                title, total=settings.num_iterations, completed=done, left=""
            )


class Times:
    """How long the rest of a run takes, by what it has taken so far.

    A stage that has not begun is reckoned to go on like the last one of its kind,
    supervised or not, in proportion to the episodes of an iteration. What lies between two
    stages, evaluation and compilation, is counted once it has been seen.
    """

    def __init__(self, stages: Sequence[config.StageConfig]):
        self._stages = stages
        self._paces: dict[int, float] = {}  # stage -> seconds of an iteration
        self._first: dict[int, tuple[float, int]] = {}  # stage -> (time, iteration)
        self._last: tuple[int, int, float] | None = None  # stage, iteration, time
        self._between = 0.0  # seconds between the last two stages

    def add(self, stage: int, done: int, now: float, seconds: float | None) -> None:
        """Takes in an iteration that has just ended.

        Args:
          stage: index.
          done: iterations of it that are finished.
          now: by a clock, in seconds.
          seconds: that the iteration took.
        """
        if self._last is not None and self._last[0] != stage:
            self._between = max(0.0, now - self._last[2] - (seconds or 0.0))
        self._last = stage, done, now
        first, before = self._first.setdefault(stage, (now, done))
        if done > before:
            self._paces[stage] = (now - first) / (done - before)
        elif seconds is not None:
            self._paces[stage] = seconds

    def pace(self, stage: int) -> float | None:
        """Returns seconds of an iteration; None if nothing is known."""
        return self._paces.get(stage)

    def left(self) -> tuple[str | None, str | None]:
        """Returns the time left for the stage and for the run; None if unknown."""
        if self._last is None or (pace := self._paces.get(self._last[0])) is None:
            return None, None
        stage, done, _ = self._last
        current = self._stages[stage]
        seconds = pace * (current.num_iterations - done)
        total = seconds + self._between * current.evaluate_after
        for index in range(stage + 1, len(self._stages)):
            guess = self._guess(index)
            if guess is None:
                return _format_seconds(seconds), None
            following = self._stages[index]
            total += guess * following.num_iterations
            total += self._between * following.evaluate_after
        return _format_seconds(seconds), _format_seconds(total)

    def _guess(self, index: int) -> float | None:
        """Seconds of an iteration of a stage to come, by the last one of its kind."""
        wanted = self._stages[index]
        for known in sorted(self._paces, reverse=True):
            seen = self._stages[known]
            if seen.supervised == wanted.supervised:
                share = _episodes(wanted) / _episodes(seen)
                return self._paces[known] * share
        return None


def _episodes(stage: config.StageConfig) -> int:
    if isinstance(stage.algorithm, config.Supervised):
        return stage.algorithm.episodes_per_step
    return stage.rollout.num_episodes


def _format_pace(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"


def _format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
