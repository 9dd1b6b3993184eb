"""A run on two hosts, which are two processes here, ends as the same run on one."""

import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import time

import commands
import pytest

from agentrl.checkpoints import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "e2e" / "recall_experiment.py"
SHORT = (
    "--set=stages.warm_start.num_iterations=20",
    "--set=stages.recall.num_iterations=3",
    "--set=mesh.fsdp=2",
    "--set=token_hindsight=True",
)


def start(workdir, *arguments, num_devices):
    variables = {
        "AGENTRL_ENVS": "recall=recall_env",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        # Optimised, as for users: without, the rounding of one device and of two differs
        # more often, and flips draws between tokens.
        "XLA_FLAGS": " ".join(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if not flag.startswith("--xla_backend_optimization_level")
        ),
    }
    arguments = (f"--config={EXPERIMENT}", f"--workdir={workdir}", *SHORT, *arguments)
    return commands.Process(
        [sys.executable, "-m", "agentrl.launch.train", *arguments],
        env=os.environ | variables,
    )


def finish(*processes):
    done = [process.communicate(timeout=400) for process in processes]
    for process, (_, complaints) in zip(processes, done, strict=True):
        assert process.returncode == 0, complaints[-3000:]
    return [printed for printed, _ in done]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_hosts(workdir, *arguments, num_hosts=2):
    """Starts hosts with four devices together."""
    shared = f"--coordinator=localhost:{free_port()}", f"--num_hosts={num_hosts}"
    return [
        start(
            workdir, *shared, f"--host_index={host}", *arguments,
            num_devices=4 // num_hosts,
        )
        for host in range(num_hosts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on one host, and one on two that a signal to one of them interrupted."""
    one, two = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))
    finish(start(one, num_devices=4))
    signal_one_host(two, signal.SIGTERM)  # and goes on with another `save_every`
    printed = finish(*start_hosts(two))
    assert "Report: " in printed[0] and "Report: " not in printed[1]
    return one, two


def signal_one_host(workdir, number):
    """Signals one of two hosts after some iterations; both have to save the same step."""
    hosts = start_hosts(workdir, "--set=save_every=100")
    wait_for_iterations(workdir, 3, hosts)
    hosts[1].send_signal(number)
    for host in hosts:
        _, complaints = host.communicate(timeout=400)
        assert host.returncode == 75, complaints[-3000:]
        assert "is finished and saved as checkpoint" in complaints
    (step,) = checkpoint.list_steps(workdir / "checkpoints")
    assert read_metrics(workdir)[-1]["step"] == step


def read_metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_metrics_are_those_of_one_host(runs):
    assert_close(*map(read_metrics, runs))


def assert_close(one, two, count=23):
    assert len(one) == len(two) == count
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for name in expected:
            if not name.startswith(("time/", "wall_time", "perf/")):
                value = expected[name]
                if isinstance(value, float):
                    value = pytest.approx(value, rel=1e-3, abs=1e-5)
                assert found[name] == value, name


def without_numbers(record):
    """A stored episode without log-probabilities, which are equal up to rounding."""
    for turn in record["turns"]:
        turn.pop("tokens", None)
    return record


def test_all_episodes_are_stored_once_and_are_the_same(runs):
    for name in ("recall", "evaluation.warm_start.recall", "evaluation.recall.recall"):
        one, two = (
            [
                without_numbers(json.loads(line))
                for line in (run / "episodes" / f"{name}.jsonl")
                .read_text()
                .splitlines()
            ]
            for run in runs
        )
        assert one == two and one


def test_the_working_directory_describes_both_hosts(runs):
    _, two = runs
    devices = json.loads((two / "run.json").read_text())["devices"]
    assert (devices["count"], devices["processes"]) == (4, 2)
    folder = two / "checkpoints"
    for step in checkpoint.list_steps(folder):
        checkpoint.verify(folder / str(step), ["params", "state", "progress"])


@pytest.mark.slow
def test_a_finished_run_of_two_hosts_is_read_by_one(runs, tmp_path):
    _, two = runs
    process = start(two, num_devices=4)  # resumes, finds nothing to do, and reports
    (printed,) = finish(process)
    assert "Report: " in printed


def test_fewer_hosts_than_asked_for_are_refused(tmp_path):
    process = start(tmp_path / "run", "--num_hosts=2", num_devices=1)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode != 0 and "Traceback" not in complaint
    assert "as host None of 2" in complaint


def wait_for_iterations(workdir, count, hosts):
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        for host in hosts:
            assert host.poll() is None, host.communicate()[1][-3000:]
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_host_goes_on_after_a_signal_to_one_of_two(runs, tmp_path, number):
    workdir = tmp_path / "run"
    signal_one_host(workdir, number)
    finish(start(workdir, "--set=save_every=100", num_devices=4))
    one, other = read_metrics(runs[0]), read_metrics(workdir)
    assert [r["iteration"] for r in one] == [r["iteration"] for r in other]
    assert other[-1]["policy/loss"] == pytest.approx(one[-1]["policy/loss"], abs=1e-3)


@pytest.mark.slow
def test_hosts_come_and_go(runs, tmp_path):
    workdir = tmp_path / "run"
    finished = 0
    # Saves count steps, and the session that is interrupted its own iterations.
    every = "--set=save_every=1"
    for num_hosts, after in ((2, 6), (1, 10), (4, 14)):
        hosts = start_hosts(workdir, every, num_hosts=num_hosts)
        wait_for_iterations(workdir, after, hosts)
        hosts[-1].send_signal(signal.SIGTERM)
        for host in hosts:
            _, complaints = host.communicate(timeout=400)
            assert host.returncode == 75, complaints[-3000:]
        before, finished = finished, len(read_metrics(workdir))
        assert before < finished < 23
    finish(*start_hosts(workdir, every, num_hosts=4))
    assert_close(read_metrics(runs[0]), read_metrics(workdir))


@pytest.mark.slow
def test_episodes_go_on_with_the_hosts_that_there_are(tmp_path):
    going_on = [
        f"--set=stages.recall.{change}"
        for change in ("extra_groups=2", "num_iterations=6", "rollout.num_slots=8")
    ]
    whole, stopped, fewer = (tmp_path / name for name in ("whole", "stopped", "fewer"))
    finish(*start_hosts(whole, *going_on))
    hosts = start_hosts(stopped, *going_on)
    wait_for_iterations(stopped, 22, hosts)
    hosts[1].send_signal(signal.SIGTERM)
    for host in hosts:
        _, complaints = host.communicate(timeout=400)
        assert host.returncode == 75, complaints[-3000:]
    assert len(read_metrics(stopped)) < 26
    shutil.copytree(stopped, fewer)
    finish(*start_hosts(stopped, *going_on))
    finish(start(fewer, *going_on, num_devices=4))

    records = read_metrics(whole)
    assert_close(records, read_metrics(stopped), count=26)
    assert any(r["policy/staleness"] for r in records[20:])
    assert any(r["rollout/carried_episodes"] for r in records[20:])
    for workdir in (stopped, fewer):  # each episode is stored once
        assert len(read_metrics(workdir)) == 26
        lines = (workdir / "episodes" / "recall.jsonl").read_text().splitlines()
        assert len(lines) == 6 * 4 * 4


def test_a_refused_configuration_is_told_by_every_host(runs):
    _, two = runs
    for host in start_hosts(two, "--set=seed=7"):
        _, complaints = host.communicate(timeout=400)
        assert host.returncode == 1
        assert "seed was 0 and is 7" in complaints
        assert "Traceback" not in complaints


@pytest.mark.parametrize(
    ("number", "lost"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
    ],
)
def test_a_lost_host_is_named_by_the_other(tmp_path, number, lost):
    workdir = tmp_path / "run"
    hosts = start_hosts(workdir, "--host_timeout_s=15")
    wait_for_iterations(workdir, 3, hosts)
    hosts[lost].send_signal(number)
    other = hosts[1 - lost]
    other.wait(timeout=60)
    hosts[lost].kill()
    hosts[lost].communicate()
    _, complaints = other.communicate()
    assert other.returncode == 69, complaints[-3000:]
    assert f"launch.train: host {lost} (" in complaints
    assert "it was in stage 'warm_start', iteration" in complaints
