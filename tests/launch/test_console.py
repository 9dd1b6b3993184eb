"""The console script: its commands, and answers of one line to what it does not know."""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import commands
import pytest

import agentrl
from agentrl.launch import console

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, cwd=ROOT):
    return commands.run(
        [sys.executable, "-m", "agentrl.launch.console", *arguments], cwd=cwd
    )


def test_every_command_is_listed_and_every_listed_one_exists():
    modules = {path.stem for path in (ROOT / "launch").glob("[a-z]*.py")}
    assert set(console.COMMANDS) == modules - {"console"}
    for help_flag in ([], ["--help"], ["-h"], ["help"]):
        printed = run(*help_flag).stdout
        assert all(f"  {name} " in printed for name in console.COMMANDS)
        assert "agentrl train demo --workdir=runs/demo" in printed


def test_version():
    assert run("--version").stdout == f"agentrl-jax {agentrl.__version__}\n"


def test_lists_need_no_checkout(tmp_path):
    """As the console script runs: no folder of the checkout can be imported."""
    script = "from agentrl.launch import console; console.main()"
    env = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
    for what, known in (("environments", "webshop"), ("subsets", "alfworld/")):
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, "list", what],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env | {"AGENTRL_CACHE": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        assert known in done.stdout


def test_a_command_shows_its_own_help():
    printed = run("train", "--help").stdout
    assert printed.startswith("Trains the stages") and "--workdir" in printed
    assert "--tier_file" not in printed


def test_help_into_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m agentrl.launch.console train --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr and done.stdout.startswith("Trains")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no command 'trian'. Did you mean 'train'?"),
        (["list", "algoritms"], "Did you mean 'algorithms'?"),
        (["list", "models", "babyai"], "only `list subsets ENVIRONMENT` does"),
        (["list", "subsets", "babyia"], "Did you mean 'babyai'?"),
        (["train", "dmo", "--workdir=never"], "Did you mean 'demo'?"),
        (["train", "demo"], "launch.train: give --workdir"),
        (["plan"], "launch.plan: give either --model or --config"),
        (["list"], "launch.list: say what to list"),
    ],
)
def test_what_is_not_known_is_told_in_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not (ROOT / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an experiment"),
        (["demo"], "give --workdir"),
        (["demo", "--config=demo", "--workdir=never"], "one experiment is trained"),
        (["demo", "smollm2", "--workdir=never"], "one experiment is trained"),
    ],
)
def test_train_says_what_is_missing(arguments, message):
    done = run("train", *arguments)
    assert done.returncode != 0 and message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not (ROOT / "never").exists()


def test_lists():
    environments = run("list", "environments").stdout
    assert re.search(r"^textcraft +374/100  craft a Minecraft item", environments)
    assert "babyai/GoTo" in run("list", "subsets", "babyai").stdout
    assert "textcraft/" not in run("list", "subsets", "babyai").stdout
    assert "gigpo" in run("list", "algorithms").stdout.split()
    assert "qwen2.5-7b" in run("list", "models").stdout
    experiments = run("list", "experiments").stdout.splitlines()
    assert {"demo", "recipes/ppo_critic"} <= {line.split()[0] for line in experiments}


def test_a_dry_run_describes_the_run_and_leaves_nothing_behind(tmp_path):
    done = commands.run(
        [
            *(sys.executable, "-m", "agentrl.launch.console", "train", "demo"),
            *("--dry_run", "--workdir=run", "--set=stages.babyai.num_iterations=3"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "stages.babyai.num_iterations=3\n" in done.stdout
    assert "evaluation, 8 samples each: 31 tasks of textcraft test" in done.stdout
    assert "754,816 in the model" in done.stdout and "  peak " in done.stdout
    assert not list(tmp_path.iterdir())


FLAGS_OF_TARGETS = """
from agentrl.launch import launch
known = launch.flags.FLAGS
for name, targets in launch.ONLY_FOR.items():
    told = known[name].help.partition(":")[0]
    assert told == ", ".join(targets), name
defined = {flag.name for flag in known.get_key_flags_for_module(launch.__name__)}
assert defined - set(launch.ONLY_FOR) == {"name", "dry_run", "max_restarts"}, defined
"""


def test_launch_refuses_flags_without_effect():
    # In a process of its own: flags of several commands may have one name.
    checked = commands.run([sys.executable, "-c", FLAGS_OF_TARGETS], cwd=ROOT)
    assert checked.returncode == 0, checked.stderr
    told = run(
        "launch", "slurm", "--name=demo", "--hosts=2", "--setup=true", "--", "demo"
    )
    assert told.returncode == 1
    assert "--setup has no effect on slurm; it is for tpu-vm." in told.stderr


def examples_of_launch():
    """The commands of the docstring and of the guide, one list of words each."""
    text = ast.get_docstring(ast.parse((ROOT / "launch" / "launch.py").read_text()))
    text += "\n" + (ROOT / "docs" / "howto_pod.md").read_text()
    joined = re.sub(r"\\\n", " ", text)
    found = re.findall(r"^ *agentrl (launch .*)$", joined, re.MULTILINE)
    return [shlex.split(command) for command in found]


def test_examples_of_launch_are_rendered():
    commands_told = examples_of_launch()
    assert {words[1] for words in commands_told} == {"tpu-vm", "gke", "slurm", "k8s"}
    for words in commands_told:
        done = run(words[0], words[1], "--dry_run", *words[2:])
        assert done.returncode == 0, (words, done.stderr)
        assert "agentrl.launch.train" in done.stdout


@pytest.mark.parametrize(
    ("shape", "told"),
    [("4x4x16", "another shape"), ("4x8x8", "--accelerator-type=v5p-512 ")],
)
def test_launch_gets_the_shape_that_is_asked_for_or_refuses(shape, told):
    done = run(
        *("launch", "tpu-vm", "--dry_run", "--name=demo", f"--topology=v5p:{shape}"),
        *("--zone=zone-a", "--", "demo", "--workdir=/mnt/runs/demo"),
    )
    assert told in done.stdout + done.stderr
    assert done.returncode == (told == "another shape")
