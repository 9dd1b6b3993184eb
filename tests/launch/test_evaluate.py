"""`launch.evaluate` before it evaluates anything."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_a_missing_checkpoint_is_told_before_jax_is_imported(tmp_path):
    code = """
import sys
from absl import app
from agentrl.launch import evaluate
try:
    app.run(evaluate.main)
finally:
    print("jax" in sys.modules)
"""
    flags = [f"--checkpoint={tmp_path / 'nothing'}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == "False\n"
    assert done.stderr == (
        f"launch.evaluate: no directory at {tmp_path / 'nothing'}; give the working "
        "directory of a run, or one of its checkpoints/STEP folders.\n"
    )
