"""The notebook is whole, and its cells run from top to bottom."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_look.ipynb"

# Stands in for pandas where it is not installed: the cells before need none.
WITHOUT_PANDAS = """
import agentrl
assert len(agentrl.load_results("runs/first_look").rows()) == 4 * 2
"""


def cells():
    stored = json.loads(NOTEBOOK.read_text())
    assert stored["nbformat"] == 4
    return ["".join(c["source"]) for c in stored["cells"] if c["cell_type"] == "code"]


def test_cells_are_python_without_outputs():
    stored = json.loads(NOTEBOOK.read_text())
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    assert not any(cell.get("outputs") for cell in stored["cells"])
    install, *others = cells()
    assert "%pip install -q agentrl-jax" in install
    for source in others:
        compile(source, "cell", "exec")
        assert len(source.splitlines()) <= 12


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    _, *sources = cells()
    try:
        import pandas  # noqa: F401
    except ImportError:
        sources = [s for s in sources if "frame" not in s and "pandas" not in s]
        sources.append(WITHOUT_PANDAS)
    (tmp_path / "cells.py").write_text("\n".join(sources))
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "mean probability" in done.stdout
