"""W&B offline, MLflow's file store and trackio hold what TensorBoard holds.

Each needs its package: `pip install wandb mlflow-skinny trackio`.
"""

import collections
import dataclasses
import importlib.util
import json
import os
import pathlib
import sqlite3
import struct
import subprocess
import sys

import fake_run
import pytest

from agentrl import types
from agentrl.reporting import metrics

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = fake_run.make_settings(num_iterations=3)
WORK = """
import sys
sys.path[:0] = [{tests!r}]
import test_trackers
test_trackers.write_session(*map(int, sys.argv[2:]), log_to=sys.argv[1].split(","))
"""


def write_session(first, last, *, log_to):
    """Iterations `first` to `last` in this directory, and an evaluation at the end."""
    workdir = pathlib.Path("run")
    settings = dataclasses.replace(SETTINGS, log_to=tuple(log_to))
    fake_run.write_iterations(workdir, settings, first=first, last=last)
    if last == 9:
        result = fake_run.make_result("both", 9, "babyai", 0.5)
        with metrics.Writer(workdir, settings) as writer:
            writer.resume(types.Progress(2, "both", 3), step=9)
            writer.write_evaluations([result])


def run_sessions(folder, log_to):
    """A session that is killed after its sixth iteration, and one from the fourth on."""
    code = WORK.format(tests=str(pathlib.Path(__file__).parent))
    variables = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    for first, last in ((0, 6), (4, 9)):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, log_to, str(first), str(last)],
            cwd=folder,
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]


def expected(folder):
    """Series of `metrics.jsonl` with the evaluation: name -> [(step, value)]."""
    series = collections.defaultdict(list)
    for line in metrics.jsonl.read(folder / "run" / metrics.FILE):
        for name, value in line.items():
            if "/" in name and value is not None:
                series[name].append((line["step"], pytest.approx(value, rel=1e-6)))
    result = fake_run.make_result("both", 9, "babyai", 0.5)
    for name, value in result.means.items():
        series[f"evaluation/babyai/{name}"] = [(9, value)]
    return dict(series)


def read_tensorboard(folder):
    sys.path.append(str(pathlib.Path(__file__).parent))
    import test_tensorboard

    series = collections.defaultdict(dict)
    for event in test_tensorboard.read_events(folder / "run" / "tensorboard"):
        if event.session_log.status == event.session_log.START:
            for points in series.values():
                for step in [step for step in points if step >= event.step]:
                    del points[step]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                series[value.tag][event.step] = value.simple_value
    return {name: sorted(points.items()) for name, points in series.items() if points}


def read_records(content):
    """Records of a file of W&B: LevelDB's log, behind a header of 7 bytes."""
    assert content.startswith(b":W&B")
    position, parts = 7, b""
    while position + 7 <= len(content):
        if (
            32768 - position % 32768 < 7
        ):  # the rest of a block is too short for a header
            position += 32768 - position % 32768
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def read_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    series, runs = collections.defaultdict(list), set()
    for path in sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in read_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            runs |= {record.run.run_id} if record.HasField("run") else set()
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            add_row(series, row)
    assert len(runs) == 1  # both sessions are of one run
    return dict(series)


def read_mlflow(folder):
    series = collections.defaultdict(list)
    (run,) = [p.parent for p in (folder / "mlruns").glob("*/*/metrics")]
    for path in (run / "metrics").rglob("*"):
        if path.is_file():
            name = path.relative_to(run / "metrics").as_posix()
            for line in path.read_text().splitlines():
                milliseconds, value, step = line.split()[:3]
                assert abs(int(milliseconds) - 1.5e12) < 1 or "evaluation" in name
                series[name].append((int(step), float(value)))
    return dict(series)


def read_trackio(folder):
    series = collections.defaultdict(list)
    with sqlite3.connect(folder / "trackio" / "agentrl.db") as database:
        rows = database.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY id"
        )
        found = list(rows)
    assert len({name for name, _, _ in found}) == 1
    for _, step, text in found:
        add_row(series, {"step": step, **json.loads(text)})
    return dict(series)


def add_row(series, row):
    """Adds a row of a table; axes beside an evaluation are no points of their own."""
    evaluated = any(name.startswith("evaluation/") for name in row)
    for name, value in row.items():
        axis = name.startswith(("progress/", "time/elapsed"))
        if "/" in name and not (evaluated and axis):
            series[name].append((row["step"], value))


@pytest.mark.parametrize(
    ("name", "package", "read"),
    [
        ("tensorboard", "tensorboardX", read_tensorboard),
        ("wandb", "wandb", read_wandb),
        ("mlflow", "mlflow", read_mlflow),
        ("trackio", "trackio", read_trackio),
    ],
)
def test_every_tracker_holds_the_series_of_the_run(tmp_path, name, package, read):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")
    run_sessions(tmp_path, name)
    found, wanted = read(tmp_path), expected(tmp_path)
    assert found.keys() == wanted.keys()
    for metric, points in wanted.items():
        assert found[metric] == points, metric
