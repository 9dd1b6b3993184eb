"""Commands whose evaluation loses too many episodes to a broken environment."""

import os
import pathlib
import sys

import commands
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


def run(module, *arguments, broken_if):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", HERE)))
    variables = {
        "AGENTRL_ENVS": "shaky=shaky_env",
        "PYTHONPATH": paths,
        "JAX_PLATFORMS": "cpu",
        "BROKEN_IF": str(broken_if),
    }
    return commands.run(
        [sys.executable, "-m", module, *arguments], env=os.environ | variables
    )


@pytest.mark.slow
def test_training_goes_on_with_the_evaluation_that_was_refused(tmp_path):
    workdir, broken = tmp_path / "run", tmp_path / "broken"
    train = (f"--config={HERE / 'shaky_experiment.py'}", f"--workdir={workdir}")
    broken.touch()
    # Once it trains: what is broken from the beginning is refused before the run.
    conditions = f"{broken},{workdir / 'metrics.jsonl'}"

    refused = run("agentrl.launch.train", *train, broken_if=conditions)
    assert refused.returncode == 1
    assert "launch.train: the evaluation of stage 'shaky' on 'shaky'" in refused.stderr
    assert "lost 20 of 20 episodes" in refused.stderr
    assert "launch.play --env=shaky --task=shaky_1" in refused.stderr
    assert refused.stderr.count("Traceback") == 1  # the environment's own
    assert not list(workdir.glob("evaluations/*"))

    out = f"--out={tmp_path / 'results'}"
    command = ("agentrl.launch.evaluate", f"--checkpoint={workdir}", out)
    refused = run(*command, broken_if=conditions)
    assert refused.returncode == 1
    assert "launch.evaluate: the evaluation of stage 'shaky'" in refused.stderr
    assert refused.stderr.count("Traceback") == 1

    broken.unlink()
    metrics = (workdir / "metrics.jsonl").read_bytes()
    done = run("agentrl.launch.train", *train, broken_if=conditions)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (workdir / "metrics.jsonl").read_bytes() == metrics
    (stored,) = workdir.glob("evaluations/*.json")
    assert '"lost": [0, 0, 0, 0, 0]' in stored.read_text()

    done = run(*command, broken_if=conditions)
    assert done.returncode == 0, done.stderr[-3000:]
    (repeated,) = (tmp_path / "results").glob("evaluations/*.json")
    assert repeated.read_bytes() == stored.read_bytes()
