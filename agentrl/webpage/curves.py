"""Metrics of a run as curves that a page can draw, whatever the number of iterations."""

import array
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from agentrl import config
from agentrl.hardware import roofline
from agentrl.reporting import coverage, metrics

MAX_POINTS = 300  # of a curve within a stage; more iterations are averaged
# Fields of a line that are no metrics.
_PLACE = frozenset(("stage_index", "stage", "iteration", "step", "wall_time"))


class StageCurves:
    """All metrics of one stage, a column each; NaN where an iteration has no number."""

    def __init__(self) -> None:
        self.iterations = array.array("q")
        self.steps = array.array("q")
        self.wall_times = array.array("d")
        self._columns: dict[str, array.array] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes in one line of `metrics.jsonl`."""
        count = len(self.iterations)
        self.iterations.append(record["iteration"])
        self.steps.append(record.get("step") or 0)
        self.wall_times.append(record.get("wall_time") or math.nan)
        for name, value in record.items():
            if name in _PLACE or isinstance(value, str):
                continue
            if name not in self._columns:
                self._columns[name] = array.array("d", [math.nan]) * count
            self._columns[name].append(math.nan if value is None else value)
        for column in self._columns.values():
            if len(column) == count:
                column.append(math.nan)

    def column(self, name: str) -> np.ndarray:
        """float64[iterations]; NaN where there is no such number."""
        if name not in self._columns:
            return np.full(len(self.iterations), np.nan)
        return np.array(self._columns[name])

    def names(self) -> list[str]:
        """Metrics with at least one number, sorted."""
        return sorted(n for n in self._columns if np.isfinite(self.column(n)).any())

    def total(self, name: str) -> float:
        """Sum over the iterations that have the number."""
        return float(np.nansum(self.column(name)))

    def to_json(self) -> dict[str, Any]:
        """Returns the curves, averaged over neighbours where there are too many.

        The number of neighbours is a power of two, so that a curve that grows changes at
        its end only, but for the moments at which it doubles.
        """
        count = len(self.iterations)
        width = 1
        while math.ceil(count / width) > MAX_POINTS:
            width *= 2
        starts = np.arange(0, count, width)
        ends = np.minimum(starts + width, count) - 1
        series = {name: _average(self.column(name), starts) for name in self.names()}
        trained = np.nancumsum(self.column("learner/tokens"))
        return {
            "width": width,
            "iterations": np.array(self.iterations)[ends].tolist(),
            "steps": np.array(self.steps)[ends].tolist(),
            "seconds": _round(np.nancumsum(self.column("time/total"))[ends]),
            "tokens": _round(trained[ends]),
            "series": series,
        }


class RunCurves:
    """The curves of all stages of a run."""

    def __init__(self, settings: config.RunConfig):
        self._settings = settings
        self.stages: dict[str, StageCurves] = {}
        self._places: list[coverage.Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes in lines of `metrics.jsonl`, in their order.

        Raises:
          DamagedFileError: if one does not say where it belongs.
        """
        for record in records:
            self._places.append(coverage.place_of(record, metrics.FILE))
            self.stages.setdefault(str(record["stage"]), StageCurves()).add(record)

    def describe_missing(self) -> str:
        """Names the iterations before the last one that have no line."""
        if not self._places:
            return ""
        return coverage.describe_missing(
            self._settings.stages, max(self._places), self._places
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the stages that have begun, in their order."""
        supervised = {stage.name: stage.supervised for stage in self._settings.stages}
        return [
            {"stage": name, "supervised": supervised.get(name, False), **one.to_json()}
            for name, one in self.stages.items()
        ]

    def totals(self) -> list[dict[str, Any]]:
        """Returns what each stage took: time, tokens, operations and memory."""
        return [
            {"stage": name, **_totals(one, self._settings)}
            for name, one in self.stages.items()
        ]


def _totals(curves: StageCurves, settings: config.RunConfig) -> dict[str, Any]:
    count = len(curves.iterations)
    times = {
        name.removeprefix("time/"): curves.total(name)
        for name in curves.names()
        if name.startswith("time/") and name not in ("time/total", "time/elapsed")
    }
    seconds = curves.total("time/total") or sum(times.values())
    times["rest"] = max(0.0, seconds - sum(times.values()))
    sampled = curves.column("perf/decode_tokens_per_second") * curves.column(
        "time/rollout"
    )
    operations = roofline.train_flops(
        settings.model,
        curves.total("learner/tokens"),
        curves.total("learner/trained_actions"),
        curves.total("learner/attention_pairs"),
    )
    recent = curves.column("time/total")[-20:]
    return {
        "iterations": count,
        "seconds": seconds,
        "times": times,
        "seconds_per_iteration": _last_mean(recent),
        "trained_tokens": curves.total("learner/tokens"),
        "sampled_tokens": float(np.nansum(sampled)),
        "flops": operations,
        "mfu": _last_mean(curves.column("perf/mfu")),
        "memory": {
            name: float(np.nanmax(curves.column(name)))
            for name in ("perf/host_memory_bytes", "perf/device_memory_bytes")
            if np.isfinite(curves.column(name)).any()
        },
    }


def _last_mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _average(values: np.ndarray, starts: np.ndarray) -> list[float | None]:
    """Means of consecutive parts that begin at `starts`, without what is not finite."""
    finite = np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0.0), starts)
    counts = np.add.reduceat(finite.astype(np.int64), starts)
    means = np.full(len(starts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return _round(means)


def _round(values: np.ndarray) -> list[float | None]:
    """Five digits: more are not seen, and a page is sent often."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values.tolist()]
