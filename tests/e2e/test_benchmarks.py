"""The benchmarks of `make bench` still run: the least that each can measure."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("iteration", ["--rounds=1", "--warm_start=1"]),
        ("learner", ["--rounds=1", "--models=d256", "--parts=packing,speed"]),
        ("rollout", ["--rounds=1", "--models=tiny", "--parts=decode,turns"]),
        ("envs", ["--rounds=1", "--seconds=0.1", "--tasks=8", "--envs=textcraft"]),
        ("oracles", ["--rounds=1", "--envs=babyai"]),
    ],
)
def test_benchmarks_run(name, flags):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.bench_{name}", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "┃" in done.stdout  # a table of results
