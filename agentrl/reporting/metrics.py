"""Metrics of a run: `metrics.jsonl`, TensorBoard events, episodes, progress bar.

Metric names are `where/what`. When a run resumes, its files are truncated to the iteration
that it resumes from, so they are the same as without the interruption.
"""

import collections
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import rich.console
import rich.progress
import tensorboardX

from agentrl import config, types
from agentrl.transcripts import episodes, failures, jsonl

FILE = "metrics.jsonl"
_TENSORBOARD = "tensorboard"
_SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal to draw a bar on


class Writer:
    """Records one iteration at a time in `workdir`; a context manager.

    The first call of `write` marks where the run resumes: records of an earlier process
    from that iteration on are removed first.
    """

    def __init__(self, workdir: pathlib.Path, settings: config.RunConfig):
        self._workdir = workdir
        self._stages = [stage.name for stage in settings.stages]
        self._env_configs = settings.environments
        self._progress_bar = ProgressBar(settings)
        self._events: tensorboardX.SummaryWriter | None = None

    def __enter__(self) -> "Writer":
        self._progress_bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress_bar.stop()
        if self._events is not None:
            self._events.close()

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
        if self._events is None:
            self._resume(progress, step)
        stage = progress.stage_name
        episodes.append(
            self._episodes_path(stage),
            (
                failures.tag(
                    episodes.from_trajectory(
                        t,
                        stage=stage,
                        iteration=iteration,
                        env_config=self._env_configs[t.task.env],
                    )
                )
                for t in trajectories
            ),
        )
        numbers = {name: _to_number(value) for name, value in values.items()}
        position = {"stage": stage, "iteration": iteration, "step": step}
        jsonl.append(
            self._workdir / FILE,
            [{"stage_index": progress.stage} | position | numbers],
        )
        self._write_events(numbers, step)
        self._progress_bar.update(progress, numbers)

    def _resume(self, progress: types.Progress, step: int) -> None:
        iteration = progress.iteration - 1
        jsonl.cut(
            self._workdir / FILE,
            lambda record: (
                (record["stage_index"], record["iteration"])
                < (progress.stage, iteration)
            ),
        )
        current, *later = self._stages[progress.stage :]
        jsonl.cut(
            self._episodes_path(current),
            lambda record: record["iteration"] < iteration,
        )
        for stage in later:  # they may have begun after the last checkpoint
            self._episodes_path(stage).unlink(missing_ok=True)
        self._events = tensorboardX.SummaryWriter(
            str(self._workdir / _TENSORBOARD), purge_step=step
        )

    def _episodes_path(self, stage: str) -> pathlib.Path:
        return self._workdir / episodes.FOLDER / f"{stage}.jsonl"

    def _write_events(self, numbers: Mapping[str, float | None], step: int) -> None:
        assert self._events is not None
        for name, value in numbers.items():
            if value is not None:
                self._events.add_scalar(name, value, step)
        self._events.flush()


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
