"""What all tests share: 8 virtual CPU devices, a compilation cache, an order.

Silent broadcasting is an error.
"""

import os
import pathlib
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
# Before JAX is imported. The processes that pytest-xdist and the tests start inherit these
# variables, so that each program is compiled once, and not again in the next run of tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most of a test is compilation of what runs for milliseconds: LLVM may leave its code as
# it is, and XLA may emit loops the short way, which takes half the time. `make test-all`
# sets the variable, so that it compiles as users do.
_FLAGS = ["--xla_backend_optimization_level=0"]
if metadata.version("jaxlib").startswith("0.10."):  # later ones refuse it
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

import hypothesis  # noqa: E402
import jax  # noqa: E402

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)  # before the first JAX computation
jax.config.update("jax_numpy_rank_promotion", "raise")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from agentrl import types  # noqa: E402

# Folders whose files take longest. pytest-xdist hands out whole files in this order, so
# that at the end no process waits for a long file of another one.
LONGEST_FIRST = ("multihost", "e2e", "multidevice", "loop", "faults", "rollout")


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first, and leaves all else in its order."""

    def rank(item):
        folder = item.path.parent.name
        if folder in LONGEST_FIRST:
            return LONGEST_FIRST.index(folder)
        return len(LONGEST_FIRST)

    items.sort(key=rank)


@pytest.fixture
def make_batch():
    """Function that makes random ragged batches of NumPy arrays."""
    return random_batch


def random_batch(seed, *, shape=(2, 3, 24), num_tokens=11, max_segment=9):
    """Rows cut into random segments, each of which starts with text of its environment.

    All actions have the weight 1 in the policy-gradient loss. What the other fields hold
    beside actions is junk on purpose: it must never matter.
    """
    rng = np.random.default_rng(seed)
    segment_ids = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    action_mask = np.zeros(shape, bool)
    for row in np.ndindex(*shape[:2]):
        start, segment = 0, 1
        while True:
            end = start + int(rng.integers(2, max_segment + 1))
            if end > shape[2]:
                break
            segment_ids[row][start:end] = segment
            positions[row][start:end] = np.arange(end - start)
            action_mask[row][start + 1 : end] = rng.random(end - start - 1) < 0.6
            start, segment = end, segment + 1
    return types.TrainBatch(
        tokens=rng.integers(0, num_tokens, shape).astype(np.int32),
        segment_ids=segment_ids,
        positions=positions,
        behavior_logprobs=rng.normal(-2.4, 0.5, shape).astype(np.float32),
        advantages=rng.normal(0, 1, shape).astype(np.float32),
        rl_weights=action_mask.astype(np.float32),
        old_values=rng.normal(0, 1, shape).astype(np.float32),
        value_targets=rng.normal(0, 1, shape).astype(np.float32),
    )
