"""Whole runs that train adapters only: what is stored, resumed, and refused."""

import json
import os
import pathlib
import sys

import commands
import pytest

from agentrl.checkpoints import checkpoint

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
SHORT = (
    "--set=mesh.cpu_devices=1",
    "--set=stages.*.rollout.cache_buckets=(64,)",
    "--set=evaluation.rollout.cache_buckets=(64,)",
    "--set=stages.warm_start.num_iterations=2",
    "--set=stages.recall.num_iterations=2",
    # So short a warm start may solve nothing: what is equal trains, too.
    "--set=stages.recall.algorithm.keep_zero_variance=True",
    "--set=stages.recall.algorithm.kl.coefficient=0.01",
    "--set=stages.recall.algorithm.kl.reference=run_start",
)
LORA = "--set=lora={'rank': 2, 'int8_base': True}"


@pytest.fixture(scope="module")
def environment():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = {"AGENTRL_ENVS": "recall=recall_env", "PYTHONPATH": paths}
    return os.environ | variables | {"JAX_PLATFORMS": "cpu"}


def launch(module, *arguments, environment):
    command = [sys.executable, "-m", module, *arguments]
    return commands.run(command, env=environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    experiment = f"--config={HERE / 'recall_experiment.py'}"
    done = launch(
        "agentrl.launch.train", experiment, f"--workdir={workdir}", LORA, *SHORT,
        environment=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


def test_merged_rollouts_agree_with_the_unmerged_learner(finished):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    gaps = [json.loads(line).get("policy/first_logprob_mismatch") for line in lines]
    assert gaps[:2] == [None, None] and max(gaps[2:]) < 1e-5


def test_the_reference_is_the_model_without_its_adapters(finished):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    divergences = [json.loads(line).get("policy/reference_kl") for line in lines]
    # The warm start has moved the policy away from where the run began.
    assert divergences[:2] == [None, None] and min(divergences[2:]) > 0


def test_checkpoints_hold_adapters_and_their_moments_only(finished):
    with checkpoint.Checkpoints(finished, read_only=True) as checkpoints:
        stored = checkpoints.read_progress(4)["arrays"]
    assert all(name.endswith(("['a']", "['b']")) for name in stored["params"])
    assert len(stored["params"]) == 2 * 7 * 2  # layers, kernels, factors
    assert "embedding" not in str(stored)


def test_another_base_is_refused(finished, environment, tmp_path):
    path = finished / "run.json"
    original = path.read_text()
    described = json.loads(original)
    described["config"]["seed"] += 1
    path.write_text(json.dumps(described))
    try:
        done = launch(
            "agentrl.launch.evaluate", f"--checkpoint={finished}", f"--out={tmp_path / 'out'}",  # noqa: E501
            environment=environment,
        )  # fmt: skip
    finally:
        path.write_text(original)
    assert done.returncode != 0
    assert "frozen parameters of digest" in done.stderr


def test_an_evaluation_finds_the_base_again(finished, environment, tmp_path):
    done = launch(
        "agentrl.launch.evaluate", f"--checkpoint={finished}", f"--out={tmp_path / 'out'}",
        environment=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (stored,) = (finished / "evaluations").glob("recall.*.json")
    (again,) = (tmp_path / "out" / "evaluations").glob("*.json")
    assert (
        json.loads(stored.read_text())["success"]
        == json.loads(again.read_text())["success"]
    )
