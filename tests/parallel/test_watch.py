"""Hosts that watch each other: here processes that share a folder and nothing else."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import commands
import jax
import pytest

from agentrl.parallel import watch

SCRIPT = """
    import pathlib, sys, time
    import jax
    from agentrl.parallel import processes, watch

    host, folder, wait = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    jax.process_count = lambda: 3
    jax.process_index = lambda: host
    processes.gather = lambda items: ["a session"]
    with watch.HostWatch(
        folder, timeout_s=3.0, describe_place=lambda: f"stage 'a', iteration {host}"
    ):
        print("ready", flush=True)
        if wait == "abort":
            sys.stdin.readline()
            import os
            os.abort()
        if wait == "hang":
            time.sleep(100)
        if wait == "jax":
            import numpy as np

            def wait_for_others():
                time.sleep(100)
                return np.float32(0)

            shape = jax.ShapeDtypeStruct((), np.float32)
            waiting = jax.jit(lambda: jax.pure_callback(wait_for_others, shape))
            jax.device_get(waiting())
        if wait == "refuse":
            sys.stdin.readline()
            from agentrl import errors
            raise errors.DamagedFileError("metrics.jsonl")
        if wait == "raise":
            sys.stdin.readline()
            raise RuntimeError("connection closed by peer")
        if wait == "connection":
            sys.stdin.readline()
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: connection closed by peer")
        sys.stdin.readline()
    print("ended", flush=True)
"""


def start(host, folder, wait="line"):
    process = commands.Process(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(host), folder, wait],
        stdin=subprocess.PIPE,
    )
    return process


def start_all(folder, waits=("line", "line", "line")):
    hosts = [start(host, folder, wait) for host, wait in enumerate(waits)]
    for host in hosts:
        assert host.stdout.readline() == "ready\n"
    return hosts


def assert_named(process, lost):
    process.wait(timeout=30)
    _, complaints = process.communicate()
    assert process.returncode == 69
    assert f"host {lost} (" in complaints
    assert f"it was in stage 'a', iteration {lost}, this one is in stage" in complaints
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    ("number", "lost"),
    [
        (signal.SIGKILL, 0),
        (signal.SIGSTOP, 2),
        pytest.param(signal.SIGKILL, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_a_lost_host_is_named_by_the_others(tmp_path, number, lost):
    hosts = start_all(tmp_path)
    time.sleep(0.7)  # a few signs of life
    hosts[lost].send_signal(number)
    started = time.monotonic()
    for host in range(3):
        if host != lost:
            assert_named(hosts[host], lost)
    assert time.monotonic() - started < 10
    hosts[lost].kill()
    hosts[lost].communicate()


@pytest.mark.slow
def test_a_host_that_hangs_is_named_although_it_is_alive(tmp_path):
    hosts = start_all(tmp_path, ("jax", "hang", "line"))
    hosts[0].wait(timeout=60)
    _, complaints = hosts[0].communicate()
    assert hosts[0].returncode == 69
    assert "host 1 (" in complaints and "is alive but has done nothing" in complaints
    assert "it was in stage 'a', iteration 1, this one is in stage" in complaints
    for host in hosts[1:]:
        host.kill()
        host.communicate()


@pytest.mark.parametrize(
    "how", ["abort", pytest.param("raise", marks=pytest.mark.slow)]
)
def test_what_a_lost_host_leads_to_is_not_taken_for_the_cause(tmp_path, how):
    hosts = start_all(tmp_path, (how, how, "line"))
    hosts[2].kill()
    for host in hosts[:2]:
        assert_named(host, 2)
    hosts[2].communicate()


@pytest.mark.parametrize(
    ("how", "name", "code"),
    [
        ("refuse", "DamagedFileError", 1),
        pytest.param("raise", "RuntimeError", 1, marks=pytest.mark.slow),
        ("connection", "JaxRuntimeError", 69),  # perhaps of no host's making
    ],
)
def test_a_host_that_ends_alone_with_an_error_ends_the_others(
    tmp_path, how, name, code
):
    hosts = start_all(tmp_path, (how, "line", "line"))
    hosts[0].communicate("\n", timeout=30)
    assert hosts[0].returncode == 1
    for host in hosts[1:]:
        host.wait(timeout=30)
        _, complaints = host.communicate()
        assert host.returncode == code, complaints
        assert f"has ended with {name}" in complaints
        assert ("would end there again" in complaints) == (code == 1)


def test_hosts_that_end_one_after_another_are_not_lost(tmp_path):
    hosts = start_all(tmp_path)
    for host in hosts:
        if host is not hosts[0]:
            time.sleep(4)  # more than the time limit
        printed, complaints = host.communicate("\n", timeout=30)
        assert (printed, complaints, host.returncode) == ("ended\n", "", 0)


def test_files_of_an_earlier_session_do_not_count(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(watch.processes, "gather", lambda items: items)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(watch.HostWatch, "_leave_on_abort", lambda self: None)
    arguments = {"timeout_s": 30.0, "describe_place": lambda: "its start"}
    with watch.HostWatch(tmp_path, **arguments):
        pass  # "has ended", of another session
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with watch.HostWatch(tmp_path, **arguments, clock=lambda: now[0]) as watching:
        assert watching.look() == ("", 0)
        now[0] = 31.0
        lost, code = watching.look()
    assert "host 1 (which never wrote a sign of life) has given no sign of life" in lost
    assert "--host_timeout_s=30" in lost and code == 69


def test_the_host_that_fell_silent_first_is_the_cause(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    monkeypatch.setattr(watch.processes, "gather", lambda items: ["a session"])
    monkeypatch.setattr(watch.HostWatch, "_leave_on_abort", lambda self: None)
    told = {"session": "a session", "host": "a", "place": "a stage", "ending": ""}
    fault = {"ending": "has ended with KeyError", "is_fault": True}
    watching = watch.HostWatch(
        tmp_path, timeout_s=30.0, describe_place=lambda: "a stage", clock=lambda: now[0]
    )
    with watching:
        for host, more in ((1, {}), (0, fault)):  # 1 falls silent, then 0 fails
            path = tmp_path / watch.FOLDER / f"{host}.json"
            path.write_text(json.dumps(told | {"beat": 1} | more))
            watching.look()
            now[0] += 5.0
        now[0] += 40.0
        problem, code = watching.look()
    assert problem.startswith("host 1 (a) has given no sign of life") and code == 69
