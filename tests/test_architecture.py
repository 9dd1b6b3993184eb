"""Import rules and size budgets of docs/architecture.md, checked."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = (
    "agentrl",
    "envs",
    "conversations",
    "pretrained",
    "reporting",
    "launch",
    "experiments",
)
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
MAX_FUNCTION, MAX_LOOP_FUNCTION, MAX_MODULE, MAX_LIBRARY = 60, 120, 500, 6500

# Module prefix -> first-party prefixes it may import.
MAY_IMPORT = {
    "envs": ("envs",),
    "pretrained": (
        "pretrained",
        "agentrl.models",
        "agentrl.types",
        "agentrl.errors",
        "agentrl.sharding",
    ),
    "agentrl.types": (),
    "agentrl.errors": (),
    "agentrl.ops": ("agentrl.ops",),
    "agentrl.models": (
        "agentrl.errors",
        "agentrl.models",
        "agentrl.ops",
        "agentrl.types",
    ),
    "conversations": (
        "conversations",
        "agentrl.errors",
        "pretrained.locate",
        "pretrained.tokenizer_json",
        "envs.base",
    ),
    "agentrl.config": ("agentrl.errors", "agentrl.models.config", "envs"),
    "agentrl.decode": ("agentrl.models", "agentrl.ops"),
    "agentrl.policy": (
        "agentrl.config",
        "agentrl.decode",
        "agentrl.models",
        "agentrl.sharding",
        "agentrl.types",
    ),
}
MUST_NOT_IMPORT = {
    "agentrl": ("launch", "experiments"),
    "reporting": ("launch", "experiments"),
    "agentrl.rollout": ("agentrl.learner", "agentrl.optimizer", "agentrl.algorithms"),
    "agentrl.learner": ("agentrl.rollout", "conversations", "envs"),
    "agentrl.packing": ("agentrl.rollout", "conversations", "envs"),
}


def files_of(prefix):
    base = ROOT / prefix.replace(".", "/")
    return sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]


def first_party_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n for n in names if n.split(".")[0] in PACKAGES)


@pytest.mark.parametrize("prefix", MAY_IMPORT)
def test_modules_import_only_what_they_may(prefix):
    files = files_of(prefix)
    assert files
    for path in files:
        for name in first_party_imports(path):
            allowed = any(f"{name}.".startswith(f"{p}.") for p in MAY_IMPORT[prefix])
            assert allowed, f"{path.relative_to(ROOT)} must not import {name}"


@pytest.mark.parametrize("prefix", MUST_NOT_IMPORT)
def test_layers_that_must_stay_apart(prefix):
    for path in files_of(prefix):
        for name in first_party_imports(path):
            forbidden = any(
                f"{name}.".startswith(f"{p}.") for p in MUST_NOT_IMPORT[prefix]
            )
            assert not forbidden, f"{path.relative_to(ROOT)} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_size_budgets(path):
    source = path.read_text()
    assert source.count("\n") <= MAX_MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            in_loop = path == ROOT / "agentrl" / "loop.py"
            limit = MAX_LOOP_FUNCTION if in_loop else MAX_FUNCTION
            assert length <= limit, f"{node.name} has {length} lines, over {limit}"


def test_library_budget():
    lines = sum(p.read_text().count("\n") for p in (ROOT / "agentrl").rglob("*.py"))
    assert lines <= MAX_LIBRARY


def test_environments_and_workers_load_without_jax():
    code = (
        "import sys; from envs import pool, registry, worker;"
        "[registry.get_spec(name) for name in registry.names()];"
        "sys.exit(any(m in sys.modules for m in ('jax', 'agentrl')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "report", "play", "calibrate", "convert", "plan"]
)
def test_commands_import_jax_only_when_they_run(name):
    code = f"import sys, launch.{name}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
