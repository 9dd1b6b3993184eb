"""Experiment trackers: W&B, MLflow and trackio, each behind `points.Logger`.

Where they send to, and as whom, is theirs to know: each reads its own environment
variables (`WANDB_PROJECT`, `WANDB_MODE`, `MLFLOW_TRACKING_URI`, `TRACKIO_DIR`, ...).
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.loggers import points

PROJECT = "agentrl"  # unless the tracker's own variable names another
_MLFLOW_BATCH = 1000  # most metrics of one request
_MLFLOW_TEXT = 500  # characters of a parameter that every server takes


class Wandb:
    """A run of Weights & Biases, with the optimizer step as axis."""

    def __init__(
        self, workdir: pathlib.Path, name: str, run_id: str, config: Mapping[str, Any]
    ):
        """Begins the run, or continues the one with this id."""
        import wandb  # type: ignore[import-not-found]

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=run_id,
            resume="allow",
            config=dict(config),
            dir=str(workdir),
            # Its capture of the terminal would garble the progress bar.
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, point: points.Point) -> None:
        """Adds a row; rows of evaluations have the step of their policy."""
        self._run.log(point.row())

    def close(self, *, failed: bool) -> None:
        """Waits until everything is sent, or on disk if offline."""
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run of MLflow; the axes are the optimizer step and the time."""

    def __init__(
        self, workdir: pathlib.Path, name: str, run_id: str, config: Mapping[str, Any]
    ):
        """Begins the run, or continues the one that is tagged with this id."""
        import mlflow  # type: ignore[import-not-found]
        from mlflow import entities  # type: ignore[import-not-found]

        self._new_metric = entities.Metric
        self._client = mlflow.MlflowClient()
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(title)
        number = (
            self._client.create_experiment(title)
            if experiment is None
            else experiment.experiment_id
        )
        tag = f"tags.agentrl_run = '{run_id}'"
        if found := self._client.search_runs([number], tag, max_results=1):
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {"agentrl_run": run_id, "agentrl_workdir": str(workdir)}
        self._run = self._client.create_run(
            number, run_name=name, tags=tags
        ).info.run_id
        self._client.log_dict(self._run, dict(config), "config.json")
        for key, value in config.items():
            if not isinstance(value, dict | list):
                text = str(value)[:_MLFLOW_TEXT]
                self._client.log_param(self._run, key, text)

    def log(self, point: points.Point) -> None:
        """Adds the numbers of a point at its step and time."""
        milliseconds = int(point.wall_time * 1000)
        metrics = [
            self._new_metric(name, value, milliseconds, point.step)
            for name, value in point.numbers.items()
            if value is not None
        ]
        for start in range(0, len(metrics), _MLFLOW_BATCH):
            batch = metrics[start : start + _MLFLOW_BATCH]
            self._client.log_batch(self._run, metrics=batch)

    def close(self, *, failed: bool) -> None:
        """Says how the session ended."""
        status = "FAILED" if failed else "FINISHED"
        self._client.set_terminated(self._run, status=status)


class Trackio:
    """A run of trackio, which keeps it in a local database."""

    def __init__(
        self, workdir: pathlib.Path, name: str, run_id: str, config: Mapping[str, Any]
    ):
        """Begins the run, or continues the one of this name."""
        import trackio  # type: ignore[import-not-found]

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{name}-{run_id}",  # which is what identifies a run there
            resume="allow",
            config=dict(config),
        )

    def log(self, point: points.Point) -> None:
        """Adds a row."""
        row = point.row()
        del row["step"]  # a name of its own there
        self._run.log(row, step=point.step)

    def close(self, *, failed: bool) -> None:
        """Waits until everything is in the database."""
        self._run.finish()


# Name in `log_to` -> class, and the package that it needs.
KINDS: Mapping[str, type[Wandb | Mlflow | Trackio]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def names() -> Sequence[str]:
    """Returns the names of all trackers; each is that of its package, too."""
    return tuple(KINDS)
