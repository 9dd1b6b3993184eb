"""Rollouts on every mesh of four and eight devices: all end, with one device's episodes."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]
TIMEOUT_S = 240  # seconds; takes 10 to 20 on two idle cores


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize(
    ("num_devices", "num_meshes"),
    [(4, 6), pytest.param(8, 10, marks=pytest.mark.slow)],
)
def test_every_mesh_plays_the_episodes_of_one_device(num_devices, num_meshes):
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    process = subprocess.Popen(
        [sys.executable, TESTS / "multidevice/play_rollouts.py", str(num_devices)],
        env=os.environ | {"PYTHONPATH": paths, "AGENTRL_ENVS": "recall=recall_env"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its workers can be ended with it
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"not done after {TIMEOUT_S} s, probably a deadlock:\n{output}")
    assert process.returncode == 0, output
    assert output.count("played on") == num_meshes
