"""Import rules and size budgets of docs/architecture.md, checked."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("agentrl", "envs", "pretrained", "reporting", "launch", "experiments")
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
MAX_FUNCTION, MAX_LOOP_FUNCTION, MAX_MODULE, MAX_LIBRARY = 60, 120, 500, 6000

# Module prefix -> first-party prefixes it may import.
MAY_IMPORT = {
    "envs": ("envs",),
    "pretrained": (
        "pretrained",
        "agentrl.models",
        "agentrl.types",
        "agentrl.errors",
        "agentrl.sharding",
        "agentrl.text",
    ),
    "agentrl.types": (),
    "agentrl.errors": (),
    "agentrl.ops": ("agentrl.ops",),
    "agentrl.models": ("agentrl.models", "agentrl.ops", "agentrl.types"),
    "agentrl.text": ("agentrl.text", "agentrl.errors", "pretrained.tokenizer"),
    "pretrained.tokenizer": ("agentrl.text", "agentrl.errors", "pretrained"),
    "pretrained.chat_template": ("agentrl.text", "agentrl.errors"),
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
    "agentrl.rollout": ("agentrl.learner", "agentrl.optimizer", "agentrl.algorithms"),
    "agentrl.learner": ("agentrl.rollout", "agentrl.text", "envs"),
    "agentrl.packing": ("agentrl.rollout", "agentrl.text", "envs"),
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
