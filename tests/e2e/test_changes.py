"""Runs that are interrupted by signals, changed, extended, and started from others."""

import json
import math
import os
import pathlib
import signal
import sys
import time

import commands
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
SHORT = (
    "--set=stages.warm_start.num_iterations=4",
    "--set=stages.recall.num_iterations=4",
    "--set=save_every=3",
    # Half the programs.
    "--set=stages.*.rollout.cache_buckets=(64,)",
    "--set=evaluation.rollout.cache_buckets=(64,)",
)
TIMING = ("time/", "wall_time", "perf/")


def start(workdir, *arguments):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = {
        "AGENTRL_ENVS": "recall=recall_env",
        "PYTHONPATH": paths,
        "JAX_PLATFORMS": "cpu",
    }
    experiment = f"--config={HERE / 'recall_experiment.py'}"
    return commands.Process(
        [
            *(sys.executable, "-m", "agentrl.launch.train", experiment),
            *(f"--workdir={workdir}", *SHORT, *arguments),
        ],
        env=os.environ | variables,
    )


def finish(process, code=0):
    printed, complaints = process.communicate(timeout=400)
    assert process.returncode == code, complaints[-3000:]
    assert "Traceback" not in complaints
    return printed + complaints


def interrupt(workdir, number, *arguments, after):
    """Sends a signal once so many iterations are recorded; returns what it printed."""
    process = start(workdir, *arguments)
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < after:
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.005)
    process.send_signal(number)
    return finish(process, code=75)


def read_metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(TIMING)}
        for line in lines
    ]


def read_run(workdir):
    return json.loads((workdir / "run.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(workdir))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("number", "after"), [(signal.SIGTERM, 5), (signal.SIGINT, 1)])
def test_a_signal_costs_nothing(undisturbed, tmp_path, number, after):
    workdir = tmp_path / "run"
    said = interrupt(workdir, number, after=after)

    assert f"{number.name}: ending in order" in said
    done = read_metrics(workdir)
    last = done[-1]
    assert f"stage '{last['stage']}' is finished and saved as checkpoint" in said
    assert (workdir / "checkpoints" / str(last["step"])).is_dir()

    finish(start(workdir))
    assert read_metrics(workdir) == read_metrics(undisturbed)
    for path in (undisturbed / "evaluations").glob("*.json"):
        assert (workdir / "evaluations" / path.name).read_bytes() == path.read_bytes()


def assert_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if name.startswith("learner/"):
                continue  # shapes of packed batches
            if isinstance(value, float):
                assert math.isclose(value, other[name], rel_tol=1e-3, abs_tol=1e-5), (
                    name
                )
            else:
                assert value == other[name], name


FREE = (
    "name=other",
    "num_env_workers=1",
    "env_timeout_s=50",
    "max_env_error_fraction=0.2",
    "save_every=2",
    "keep_checkpoints=1",
    "learner.max_microbatches=4",
    "evaluation.samples=2",
    "stages.warm_start.evaluate_after=False",
)
ROUNDING = {
    "learner": ("learner.rows_per_microbatch=4", "learner.logprob_chunk=64",
                "learner.remat=full", "learner.row_tokens=128"),
    "rollout": ("stages.*.rollout.num_slots=8", "stages.*.rollout.num_cohorts=1",
                "stages.*.rollout.cache_buckets=(64,)",
                "stages.*.rollout.append_buckets=(8,32)",
                "stages.*.rollout.row_buckets=(4,)"),
    "mesh": ("mesh.cpu_devices=1",),
}  # fmt: skip


def test_free_fields_leave_a_run_as_it_is(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    said = interrupt(workdir, signal.SIGTERM, after=2)
    done = len(read_metrics(workdir))
    assert f"stage 'warm_start' is finished and saved as checkpoint {done}" in said
    begun = read_run(workdir)
    assert "continued" not in begun
    begun["versions"]["jax"] = "0.1"  # as if it had begun elsewhere
    (workdir / "run.json").write_text(json.dumps(begun))
    finish(start(workdir, *(f"--set={field}" for field in FREE)))

    assert read_metrics(workdir) == read_metrics(undisturbed)
    (change,) = read_run(workdir)["changes"]
    assert (change["stage"], change["iteration"]) == ("warm_start", done)
    names = ["stages.0." + f.split(".", 2)[2] if "stages" in f else f for f in FREE]
    assert {f["field"] for f in change["fields"]} == {n.split("=")[0] for n in names}
    (moved,) = read_run(workdir)["continued"]
    assert (moved["stage"], moved["iteration"]) == ("warm_start", done)
    assert moved["versions"]["jax"] != "0.1" == read_run(workdir)["versions"]["jax"]
    assert "num_env_workers" in (workdir / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("group", ROUNDING)
def test_other_shapes_leave_a_run_as_it_is_but_for_rounding(
    undisturbed, tmp_path, group
):
    workdir = tmp_path / "run"
    interrupt(workdir, signal.SIGTERM, after=2)
    finish(start(workdir, *(f"--set={field}" for field in ROUNDING[group])))

    assert_close(read_metrics(workdir), read_metrics(undisturbed))


@pytest.mark.slow
def test_a_finished_run_grows(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    finish(start(workdir, "--set=stages.recall.num_iterations=2"))
    said = finish(start(workdir))  # four iterations now

    assert "has optimizer.schedule" not in said
    assert read_metrics(workdir) == read_metrics(undisturbed)
    (change,) = read_run(workdir)["changes"]
    assert change["fields"] == [
        {"field": "stages.1.num_iterations", "old": 2, "new": 4}
    ]


RATE = "--set=stages.recall.optimizer.learning_rate=1e-2"
ALLOWED = "--allow_changes=stages.recall.optimizer.learning_rate"


def test_what_changes_results_is_refused(undisturbed):
    before = read_run(undisturbed)
    said = finish(start(undisturbed, RATE), code=1)
    assert "stages.1.optimizer.learning_rate was 0.001 and is 0.01" in said
    assert said.rstrip().endswith(ALLOWED)
    assert read_run(undisturbed) == before


@pytest.mark.slow
def test_what_changes_results_is_recorded_where_it_is_allowed(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    interrupt(workdir, signal.SIGTERM, after=2)
    finish(start(workdir, RATE, ALLOWED))
    (change,) = read_run(workdir)["changes"]
    assert change["allowed"] == ["stages.recall.optimizer.learning_rate"]
    assert read_metrics(workdir) != read_metrics(undisturbed)
    said = finish(start(workdir), code=1)  # the run is the changed one from now on
    assert "was 0.01 and is 0.001" in said


def test_a_run_starts_from_the_policy_of_another(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    source = f"--start_from={undisturbed / 'checkpoints' / '4'}"
    finish(start(workdir, source, "--set=stages.warm_start.num_iterations=1"))

    begun = read_run(workdir)["config"]["start_from"]
    assert begun.startswith(f"{undisturbed}/checkpoints/4#")
    name = "tokenizer.model"
    assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes()
    first, before = (read_metrics(run) for run in (workdir, undisturbed))
    assert first[0]["policy/loss"] < before[0]["policy/loss"] - 0.1
