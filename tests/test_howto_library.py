"""The program in docs/howto_library.md runs as it stands there."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

CHECKS = """
assert [r.stage for r in results] == ["warm_start", "textcraft"]
assert again == results and len(again.rows()) == 2 * 8 * 2
assert again.rows()[0].keys() >= {"stage", "env", "item_id", "sample", "success"}
assert len(found) == 1 and found[0].samples == 4 and len(found[0].item_ids) == 4
assert len(reply.tokens) == len(reply.logprobs) and max(reply.logprobs) <= 0
import importlib.util
if importlib.util.find_spec("pandas"):
    assert len(again.to_frame()) == len(again.rows())
else:
    try:
        again.to_frame()
    except ImportError as error:
        assert "pip install pandas" in str(error)

# Greedy answers do not depend on the call, and replies are read as they were sampled.
import numpy as np
start = conversation[:1]
first, second = policy.act(start), policy.act(start)
assert first.tokens == second.tokens
follow = [*start, first, {"role": "user", "content": "Got it."}]
rendered = policy.render(follow)
opened = policy.render(start)
assert rendered[: len(opened)] == opened
assert rendered[len(opened) : len(opened) + len(first.tokens)] == list(first.tokens)

# The learner's own forward pass gives the log-probabilities of the reply.
import jax
from agentrl.checkpoints import checkpoint
from agentrl.run import parameters
from agentrl.parallel import sharding
from agentrl.models import transformer
from agentrl.experiment import files
stored = files.read_run(__import__("pathlib").Path("runs/first"))
model = transformer.Model(stored.model)
owned = parameters.Parameters(stored, model, sharding.make_mesh(stored.mesh))
params = checkpoint.restore_policy(
    "runs/first", owned.abstract, frozen_digest=owned.frozen_digest
).params
sampled = agentrl.load_policy("runs/first", seed=3).act(start)
ids = np.array([*opened, *sampled.tokens], np.int32)[None]
positions = np.arange(ids.shape[1], dtype=np.int32)[None]
hidden = model.hidden(params, ids, positions, segment_ids=np.ones_like(ids))
logits = (hidden @ model.unembedding(params))[0, :, : policy.tokenizer.vocab_size]
scores = np.asarray(jax.nn.log_softmax(logits))
expected = scores[np.arange(len(opened) - 1, ids.shape[1] - 1), ids[0, len(opened) :]]
np.testing.assert_allclose(sampled.logprobs, expected, atol=1e-4)
"""


@pytest.fixture(scope="module")
def page():
    text = (ROOT / "docs" / "howto_library.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    return "\n".join(blocks)


def test_the_page_runs(page, tmp_path):
    (tmp_path / "page.py").write_text(page + CHECKS)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
