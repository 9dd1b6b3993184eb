"""Metrics of a run: `metrics.jsonl`, TensorBoard events, episodes, progress bar.

Metric names are `where/what`. When a run resumes, its files are truncated to the iteration
that it resumes from, so they are the same as without the interruption.
"""

import collections
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import rich.console
import rich.progress

from agentrl import config, types
from agentrl.reporting import coverage, events, silence
from agentrl.statistics import results
from agentrl.transcripts import episodes, failures, jsonl, tokens

FILE = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal to draw a bar on


class Writer:
    """Records one iteration at a time in `workdir`; a context manager.

    `resume` says where the run goes on: whatever an earlier process recorded from that
    iteration on is cut away first. The first call of `write` does so itself if nobody
    has called it. What `write` was given is with the operating system when it returns,
    so no checkpoint is ahead of the files.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        settings: config.RunConfig,
        *,
        decode: tokens.Decode | None = None,
        clock: Callable[[], float] = time.time,
    ):
        """Prepares a session.

        Args:
          workdir: of the run.
          settings: of the run.
          decode: of its tokenizer; without it no episode is stored token by token.
          clock: seconds since 1970.
        """
        self._decode, self._token_episodes = decode, settings.token_episodes
        self._signals: Sequence[types.Signal] | None = None
        self._workdir = workdir
        self._stages = settings.stages
        self._env_configs = settings.environments
        self._progress_bar = ProgressBar(settings)
        self._clock = clock
        self._first_step: int | None = None  # of this session; None before `resume`
        self._events: events.EventFile | None = None  # made when there is one to write
        self._silence = silence.SilenceWatch()

    def __enter__(self) -> "Writer":
        self._progress_bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress_bar.stop()
        if self._events is not None:
            self._events.close()

    def hold(self, signals: Sequence[types.Signal]) -> None:
        """Keeps what the episodes of the next `write` train with, in their order."""
        self._signals = signals

    def write(
        self,
        progress: types.Progress,
        *,
        step: int,
        values: types.Metrics,
        trajectories: Sequence[types.Trajectory],
    ) -> None:
        """Records the iteration that `progress` has just finished.

        Args:
          progress: where the run stands after it.
          step: optimizer updates so far.
          values: metric name -> number; one that is not finite is stored as null.
          trajectories: the iteration's episodes.

        Raises:
          OSError: if a file cannot be written, naming it and what to do.
        """
        iteration = progress.iteration - 1
        if self._first_step is None:
            before = dataclasses.replace(progress, iteration=iteration)
            self.resume(before, step=step - 1)
        wall_time = self._clock()
        stage = progress.stage_name
        limit = self._token_episodes if self._decode else 0
        by_token = tokens.keep(trajectories, self._decode or str, limit, self._signals)
        self._signals = None
        episodes.append(
            self._episodes_path(stage),
            (
                failures.tag(
                    episodes.from_trajectory(
                        t,
                        stage=stage,
                        iteration=iteration,
                        env_config=self._env_configs[t.task.env],
                        tokens=of_episode,
                    )
                )
                for t, of_episode in zip(trajectories, by_token, strict=True)
            ),
        )
        numbers = {name: _to_number(value) for name, value in values.items()}
        place = {
            "stage_index": progress.stage,
            "stage": stage,
            "iteration": iteration,
            "step": step,
            "wall_time": wall_time,  # seconds since 1970
        }
        jsonl.append(self._workdir / FILE, [place | numbers])
        self._write_events(numbers, step=step, wall_time=wall_time)
        self._progress_bar.update(progress, numbers)
        if message := self._silence.observe(stage, iteration, numbers):
            self._progress_bar.say(message)

    def write_evaluations(self, found: Iterable[results.EvaluationResult]) -> None:
        """Adds events of results, after `resume`; those of earlier sessions stay."""
        for result in found:
            earlier = result.step < (self._first_step or 0)  # than this session
            there = events.find_tags(self._workdir, step=result.step) if earlier else ()
            numbers = {
                tag: value
                for name, value in result.means.items()
                if (tag := f"evaluation/{result.env}/{name}") not in there
            }
            if numbers:
                self._write_events(numbers, step=result.step, wall_time=self._clock())

    def _write_events(
        self, numbers: Mapping[str, float | None], *, step: int, wall_time: float
    ) -> None:
        """Writes events; a session that has none to write leaves no file of them."""
        if self._events is None:
            assert self._first_step is not None
            self._events = events.EventFile(
                self._workdir, first_step=self._first_step, wall_time=wall_time
            )
        self._events.write(numbers, step=step, wall_time=wall_time)

    def resume(self, progress: types.Progress, *, step: int) -> None:
        """Makes the files agree with the checkpoint that a session goes on from.

        Lines of later iterations are cut away; lines of earlier ones that are missing
        are named on the terminal.

        Args:
          progress: of the checkpoint, or of the start of the run.
          step: optimizer updates behind it.

        Raises:
          DamagedFileError: if a line of an earlier iteration cannot be read.
          OSError: if a file cannot be written.
        """
        end = coverage.Place(progress.stage, progress.iteration)
        self._resume_metrics(end)
        self._resume_episodes(end)
        self._first_step = step + 1

    def _resume_metrics(self, end: coverage.Place) -> None:
        path = self._workdir / FILE
        jsonl.cut(path, lambda record: coverage.place_of(record, path) < end)
        lines = jsonl.read(path) if path.exists() else ()
        places = (coverage.place_of(record, path) for record in lines)
        found = list(coverage.check_order(places, path))
        self._warn_of_missing(path, end, found)

    def _resume_episodes(self, end: coverage.Place) -> None:
        """Cuts the episodes of the stage under way; those of earlier ones are whole."""
        current, *later = self._stages[end.stage :]
        path = self._episodes_path(current.name)
        iterations: set[int] = set()

        def is_earlier(record: jsonl.Record) -> bool:
            place = coverage.place_of({"stage_index": end.stage, **record}, path)
            if place < end:
                iterations.add(place.iteration)
            return place < end

        jsonl.cut(path, is_earlier)
        found = [coverage.Place(end.stage, iteration) for iteration in iterations]
        if not current.supervised:  # demonstrations are not stored
            before = coverage.expected(self._stages, coverage.Place(end.stage, 0))
            self._warn_of_missing(path, end, [*before, *found])
        for stage in later:  # the end of this stage may not have been saved in time
            self._episodes_path(stage.name).unlink(missing_ok=True)

    def _warn_of_missing(
        self,
        path: pathlib.Path,
        end: coverage.Place,
        found: Sequence[coverage.Place],
    ) -> None:
        if missing := coverage.describe_missing(self._stages, end, found):
            self._progress_bar.say(
                f"{path} lacks {missing}, which the checkpoint holds the results of. "
                "Training goes on; restore the lines from a backup if there is one."
            )

    def _episodes_path(self, stage: str) -> pathlib.Path:
        return self._workdir / episodes.FOLDER / f"{stage}.jsonl"


class ProgressBar:
    """Stage, iteration, return, success, speed and time left, on one line.

    On a terminal the line is redrawn; elsewhere plain lines are printed, a few seconds
    apart, and always at the end of a stage.
    """

    def __init__(
        self,
        settings: config.RunConfig,
        *,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._totals = {stage.name: stage.num_iterations for stage in settings.stages}
        self._console = console or rich.console.Console()
        self._clock = clock
        self._bar: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._last_line = -math.inf
        self._started: dict[str, tuple[float, int]] = {}  # stage -> (time, iterations)

    def start(self) -> None:
        """Draws the bar, if there is a terminal."""
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("[bold]{task.description}"),
                rich.progress.BarColumn(bar_width=24),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[summary]}"),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()

    def stop(self) -> None:
        """Leaves the last state of the bar on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """Prints a line above the bar, or among the plain lines."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def update(
        self, progress: types.Progress, values: Mapping[str, float | None]
    ) -> None:
        """Shows the iteration that `progress` has just finished."""
        stage, done = progress.stage_name, progress.iteration
        total = self._totals[stage]
        summary = summarize_line(values)
        if self._bar is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(
                    stage, total=total, completed=done, summary=summary
                )
            self._bar.update(self._tasks[stage], completed=done, summary=summary)
            return
        now = self._clock()
        first, before = self._started.setdefault(stage, (now, done))
        if now - self._last_line < _SECONDS_BETWEEN_LINES and done < total:
            return
        self._last_line = now
        left = ""
        if before < done < total:
            seconds = (now - first) / (done - before) * (total - done)
            left = f"  {_format_seconds(seconds)} left"
        self._console.print(
            f"{stage} {done}/{total}  {summary}{left}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def summarize_line(values: Mapping[str, float | None]) -> str:
    """Formats the main metrics of an iteration for the progress bar."""
    parts = []
    for name, label, form in (
        ("rollout/return", "return", ".3f"),
        ("rollout/success", "success", ".1%"),
        ("policy/loss", "loss", ".4f"),
        ("perf/decode_tokens_per_second", "tok/s", ",.0f"),
    ):
        value = values.get(name)
        if value is not None and not (name == "policy/loss" and parts):
            parts.append(f"{label} {value:{form}}")
    return "  ".join(parts)


def summarize_trajectories(trajectories: Sequence[types.Trajectory]) -> types.Metrics:
    """Averages the episodes of one iteration.

    Episodes that their environment lost (`env_error`, `env_timeout`) count among the
    endings only. A mean over no episodes is NaN.

    Returns:
      `rollout/*` over all episodes and `env/<name>/*` over those of one environment.
      Fractions of groups are over the groups with at least two episodes:
      `zero_variance` ones have equal returns, `identical` ones also equal tokens.
    """
    played = [t for t in trajectories if not t.ending.lost]
    turns = [turn for t in played for turn in t.turns]
    values = {f"rollout/{k}": v for k, v in _means(played).items()}
    values["rollout/score"] = _mean(t.score for t in played)
    values["rollout/tokens"] = _mean(t.num_tokens for t in played)
    values["rollout/valid_action_fraction"] = _mean(turn.valid for turn in turns)
    for ending in types.Ending:
        share = _mean(t.ending is ending for t in trajectories)
        values[f"rollout/ending/{ending.value}"] = share
    values |= _summarize_groups(played)
    for env in sorted({t.task.env for t in played}):
        of_env = [t for t in played if t.task.env == env]
        values |= {f"env/{env}/{k}": v for k, v in _means(of_env).items()}
    return values


def _means(trajectories: Sequence[types.Trajectory]) -> types.Metrics:
    return {
        "return": _mean(t.episode_return for t in trajectories),
        "success": _mean(t.success for t in trajectories),
        "turns": _mean(len(t.turns) for t in trajectories),
        "action_tokens": _mean(t.num_action_tokens for t in trajectories),
    }


def _summarize_groups(trajectories: Sequence[types.Trajectory]) -> types.Metrics:
    members = collections.defaultdict(list)
    for trajectory in trajectories:
        members[trajectory.task.group].append(trajectory)
    groups = [group for group in members.values() if len(group) > 1]
    returns = [{t.episode_return for t in group} for group in groups]
    texts = [{_action_bytes(t) for t in group} for group in groups]
    return {
        "rollout/zero_variance_groups": _mean(len(r) == 1 for r in returns),
        "rollout/identical_groups": _mean(len(t) == 1 for t in texts),
    }


def _action_bytes(trajectory: types.Trajectory) -> tuple[bytes, ...]:
    return tuple(turn.action_tokens.tobytes() for turn in trajectory.turns)


def _mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return float(np.mean(listed)) if listed else math.nan


def _to_number(value: float) -> float | None:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
