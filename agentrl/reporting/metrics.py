"""Metrics of a run: `metrics.jsonl`, episodes, loggers, progress bar.

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

from agentrl import config, errors, types
from agentrl.experiment import files
from agentrl.loggers import outlets, points, terminal
from agentrl.reporting import coverage, silence
from agentrl.statistics import results
from agentrl.transcripts import episodes, failures, jsonl, tokens

FILE = "metrics.jsonl"
_PLACE = ("stage_index", "stage", "iteration", "step", "wall_time")
# What a run has seen and spent so far; curves may be drawn over it.
_AXES = ("progress/episodes", "progress/env_steps", "progress/tokens", "time/elapsed")
_MAX_SAMPLE = 8000  # characters of a transcript that loggers get


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
        self._hindsight: Sequence[tokens.Hindsight] = ()
        self._workdir = workdir
        self._settings = settings
        self._stages = settings.stages
        self._env_configs = settings.environments
        self._progress_bar = terminal.ProgressBar(settings)
        self._clock = clock
        self._outlets: outlets.Outlets | None = None  # None before `resume`
        # As the last iteration left them.
        self._axes: dict[str, float] = dict.fromkeys(_AXES, 0)
        self._silence = silence.SilenceWatch()

    def __enter__(self) -> "Writer":
        self._progress_bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._progress_bar.stop()
        if self._outlets is not None:
            failed = error is not None and not isinstance(error, errors.InterruptedRun)
            self._outlets.close(failed=failed)

    def hold(
        self,
        signals: Sequence[types.Signal],
        hindsight: Sequence[tokens.Hindsight] = (),
    ) -> None:
        """Keeps what the episodes of the next `write` train with, in their order.

        Args:
          signals: of all episodes.
          hindsight: of the first ones.
        """
        self._signals, self._hindsight = signals, hindsight

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
        if self._outlets is None:
            before = dataclasses.replace(progress, iteration=iteration)
            self.resume(before, step=step - 1)
        wall_time = self._clock()
        stage = progress.stage_name
        self._store_episodes(trajectories, stage, iteration)
        numbers = {name: _to_number(value) for name, value in values.items()}
        numbers |= self._advance(numbers, trajectories)
        place = {
            "stage_index": progress.stage,
            "stage": stage,
            "iteration": iteration,
            "step": step,
            "wall_time": wall_time,  # seconds since 1970
        }
        jsonl.append(self._workdir / FILE, [place | numbers])
        assert self._outlets is not None
        self._outlets.log(
            points.Point(
                step=step,
                wall_time=wall_time,
                numbers=numbers,
                axes=dict(self._axes),
                texts=sample_texts(trajectories),
                histograms=sample_histograms(trajectories),
            )
        )
        self._progress_bar.update(progress, numbers)
        if message := self._silence.observe(stage, iteration, numbers):
            self._progress_bar.say(message)

    def _store_episodes(
        self, trajectories: Sequence[types.Trajectory], stage: str, iteration: int
    ) -> None:
        limit = self._token_episodes if self._decode else 0
        by_token = tokens.keep(
            trajectories, self._decode or str, limit, self._signals, self._hindsight
        )
        self._signals, self._hindsight = None, ()
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

    def _advance(
        self,
        numbers: Mapping[str, float | None],
        trajectories: Sequence[types.Trajectory],
    ) -> dict[str, float]:
        """Adds an iteration to what the run has seen and spent so far."""
        tokens = sum(t.num_tokens for t in trajectories)
        if not trajectories:  # of demonstrations
            tokens = numbers.get("learner/tokens") or 0
        spent = {
            "progress/episodes": len(trajectories),
            "progress/env_steps": sum(len(t.turns) for t in trajectories),
            "progress/tokens": tokens,
            "time/elapsed": numbers.get("time/total") or 0,
        }
        self._axes = {name: self._axes[name] + x for name, x in spent.items()}
        return dict(self._axes)

    def write_evaluations(self, found: Iterable[results.EvaluationResult]) -> None:
        """Gives results to the loggers, after `resume`; each has them once."""
        assert self._outlets is not None
        for result in found:
            self._outlets.log(
                _point_of(result, wall_time=self._clock(), axes=self._axes)
            )

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
        self._outlets = outlets.Outlets(
            self._settings.log_to,
            workdir=self._workdir,
            name=self._settings.name,
            config=files.to_json(self._settings),
            step=step,
            axes=self._axes,
            before=self._read_points,
            say=self._progress_bar.say,
        )

    def _resume_metrics(self, end: coverage.Place) -> None:
        path = self._workdir / FILE
        jsonl.cut(path, lambda record: coverage.place_of(record, path) < end)
        lines = list(jsonl.read(path)) if path.exists() else []
        places = (coverage.place_of(record, path) for record in lines)
        found = list(coverage.check_order(places, path))
        self._warn_of_missing(path, end, found)
        last = lines[-1] if lines else {}
        self._axes = {name: last.get(name, 0) for name in _AXES}

    def _read_points(self) -> list[points.Point]:
        """What the run has recorded, as loggers get it, in its order."""
        path = self._workdir / FILE
        found: list[points.Point] = []
        for record in jsonl.read(path) if path.exists() else ():
            found.append(
                points.Point(
                    step=record["step"],
                    wall_time=record["wall_time"],
                    numbers={k: x for k, x in record.items() if k not in _PLACE},
                    axes={name: record.get(name, 0) for name in _AXES},
                )
            )
        for result in results.load_all(self._workdir, self._settings.environments):
            before = [p for p in found if p.step <= result.step and not p.evaluation]
            if before:
                last = before[-1]
                point = _point_of(result, wall_time=last.wall_time, axes=last.axes)
                found.insert(found.index(last) + 1, point)
        return found

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


def sample_texts(trajectories: Sequence[types.Trajectory]) -> dict[str, str]:
    """Returns one transcript of each environment, as Markdown that shows it verbatim."""
    found: dict[str, str] = {}
    for trajectory in trajectories:
        name = f"samples/{trajectory.task.env}"
        if name in found or not trajectory.turns:
            continue
        parts = [f"{trajectory.task.item_id}: {trajectory.ending.value}"]
        for turn in trajectory.turns:
            parts += [f"[{trajectory.task.env}] {turn.observation}"]
            parts += [f"[policy] {turn.action}"]
        text = "\n\n".join([*parts, trajectory.final_observation])[:_MAX_SAMPLE]
        found[name] = "\n".join(f"    {line}" for line in text.splitlines())
    return found


def sample_histograms(
    trajectories: Sequence[types.Trajectory],
) -> dict[str, Sequence[float]]:
    """Returns what TensorBoard shows the distribution of; lost episodes left out."""
    played = [t for t in trajectories if not t.ending.lost]
    logprobs = [turn.action_logprobs for t in played for turn in t.turns]
    return {
        "histogram/return": [t.episode_return for t in played],
        "histogram/turns": [len(t.turns) for t in played],
        "histogram/tokens": [t.num_tokens for t in played],
        "histogram/logprob": np.concatenate(logprobs).tolist() if logprobs else [],
    }


def _point_of(
    result: results.EvaluationResult, *, wall_time: float, axes: Mapping[str, float]
) -> points.Point:
    return points.Point(
        step=result.step,
        wall_time=wall_time,
        numbers={f"evaluation/{result.env}/{k}": x for k, x in result.means.items()},
        evaluation=f"{result.stage}/{result.env}/{result.step}",
        axes=dict(axes),
    )


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
