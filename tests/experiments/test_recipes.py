"""Every recipe runs its first iterations; its header says how, and what came out."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from agentrl import preflight
from agentrl.envs import registry
from agentrl.experiment import files, packaged
from tests.parity import exported

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = [name for name in packaged.names() if name.startswith("recipes/")]
SWITCHES = "agentrl.experiments.recipes.switches"
SHORT = (
    "--set=stages.*.num_iterations=1",
    "--set=evaluation.tasks=2",
    "--set=evaluation.samples=1",
    "--set=evaluation.random_policy=False",
)


@pytest.fixture
def switches(monkeypatch):
    monkeypatch.setenv("AGENTRL_ENVS", "")
    monkeypatch.setattr(registry, "_MODULES", dict(registry._MODULES))
    registry.get_spec.cache_clear()
    registry.register("switches", SWITCHES)
    yield
    registry.get_spec.cache_clear()


FEW = "--set=stages.warm_start.algorithm.demonstrations=12"
# Of a vocabulary of 448 tokens a conversation needs three times as many as of Qwen's.
THINKING = tuple(
    f"--set=stages.grpo.rollout.{field}"
    for field in (
        *("tasks_per_iteration=2", "group_size=2", "num_slots=4"),
        *("max_action_tokens=24", "max_thinking_tokens=8"),
    )
)


def header(name):
    text = packaged.names()[name].read_text()
    return re.match(r'r?"""(.*?)"""', text, re.DOTALL)[1]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_how_they_run_and_pass_all_checks(name, switches):
    page = (ROOT / "docs" / "howto_experiment.md").read_text()
    assert f"`{name.partition('/')[2]}`" in page
    assert f"agentrl train {name} " in header(name)
    settings = files.load(name)
    settings.validate(num_devices=2)
    preflight.check_selections(settings)
    assert settings.name == name.partition("/")[2]


@pytest.mark.parametrize("name", RECIPES)
def test_headers_say_what_was_measured_or_that_nothing_was(name):
    text = header(name)
    if "has not been measured" not in text:
        assert re.search(r"CPU cores", text), "hardware"
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", text), "date"


@pytest.mark.slow
def test_the_environment_of_a_recipe_keeps_its_promises():
    done = subprocess.run(
        [sys.executable, "-m", "agentrl.envs.checks", "switches"],
        cwd=ROOT,
        env=os.environ | {"AGENTRL_ENVS": f"switches={SWITCHES}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def train(name, workdir, *arguments, wait=True):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "agentrl.launch.train", name),
            *(f"--workdir={workdir}", *SHORT, *arguments),
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "AGENTRL_ENVS": f"switches={SWITCHES}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if wait:
        finish(process)
    return process


def finish(process):
    _, complaints = process.communicate(timeout=500)
    assert process.returncode == 0, complaints[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_first_iterations(name, tmp_path):
    arguments = [FEW]
    if name == "recipes/lora":
        train("recipes/one_environment", tmp_path / "one", FEW)
        arguments += [f"--start_from={tmp_path / 'one'}"]
    if name == "recipes/thinking":
        exported.make("qwen3", tmp_path)
        arguments = [f"--model={tmp_path / 'out'}", *THINKING]
    if name == "recipes/many_hosts":
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        hosts = [
            train(
                name, tmp_path / "run", FEW, f"--coordinator=localhost:{port}",
                "--num_hosts=2", f"--host_index={host}", wait=False,
            )
            for host in range(2)
        ]  # fmt: skip
        for host in hosts:
            finish(host)
    else:
        train(name, tmp_path / "run", *arguments)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(files.read_run(tmp_path / "run").stages)
    assert all(json.loads(line)["policy/loss"] is not None for line in lines)
    assert (tmp_path / "run" / "report.html").is_file()
