"""A turn does the same for each row, however it goes through them."""

import dataclasses

import jax
import numpy as np
import pytest

from agentrl import config
from agentrl.engine import engine, turns
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding

SHAPE = model_config.ModelConfig(
    vocab_size=64, hidden_size=32, num_layers=2, head_dim=8, mlp_size=48
)
NUM_SLOTS = 13
STOP = 5
# New tokens of each slot: fewer than a piece, whole pieces, one token more, more than the
# widest chunk. In the second turn two slots only prefill.
COUNTS = (3, 21, 1, 5, 8, 9, 25, 2, 40, 17, 4, 16, 1)
IDLE = ({3, 8}, {0, 12}, set())  # in each turn
PREFILLED = (5, 9)


def take_turns(shape, **changes):
    """Three turns of a cohort in which some slots are idle: tokens, log-probabilities."""
    rollout = config.RolloutConfig(
        num_slots=NUM_SLOTS,
        max_tokens=160,
        max_action_tokens=7,
        append_buckets=(4, 32),
        cache_buckets=(64, 160),
        **changes,
    )
    mesh = sharding.make_rollout_mesh(config.MeshConfig(), jax.devices()[:1])
    model = transformer.Model(shape)
    played = engine.Engine(
        model, mesh, rollout, stop_tokens=[STOP], num_valid_tokens=60
    )
    params = model.init(jax.random.key(0))
    cohort, generator = played.new_cohort(), np.random.default_rng(0)
    found = []
    for turn, idle in enumerate(IDLE):
        inputs = {
            slot: engine.SlotInput(
                tokens=generator.integers(6, 60, count).tolist(),
                stream=(slot, turn),
                budget=0 if slot in PREFILLED and turn == 1 else 1 + slot % 7,
            )
            for slot, count in enumerate(COUNTS)
            if slot not in idle
        }
        in_flight = played.dispatch(params, cohort, inputs, jax.random.key(7))
        found.append(played.fetch(cohort, in_flight))
    return found, cohort.lengths


@pytest.fixture(scope="module")
def at_once():
    return take_turns(dataclasses.replace(SHAPE, attention="xla"))


def test_the_shape_takes_turns_in_groups_that_do_not_divide_the_slots():
    matmul = dataclasses.replace(SHAPE, attention="matmul")
    rows, piece = turns.prefill_sizes(matmul, NUM_SLOTS, chunk=64)
    assert rows == turns.group_rows(matmul)
    assert NUM_SLOTS % rows and max(COUNTS) > 2 * piece
    assert turns.group_rows(dataclasses.replace(SHAPE, attention="xla")) is None
    large = dataclasses.replace(SHAPE, attention="matmul", hidden_size=1024)
    assert turns.group_rows(dataclasses.replace(large, mlp_size=4096)) is None


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("scan_blocks", ["never", "always"])
def test_rows_get_what_they_get_all_at_once(at_once, monkeypatch, grouped, scan_blocks):
    if not grouped:  # as a larger model goes through its rows
        monkeypatch.setattr(turns, "_is_small", lambda shape: False)
        monkeypatch.setattr(turns, "_LARGE_TOKENS", 5 * NUM_SLOTS)
    shape = dataclasses.replace(SHAPE, attention="matmul", scan_blocks=scan_blocks)
    if scan_blocks == "always":
        at_once = take_turns(dataclasses.replace(shape, attention="xla"))
    (wanted, wanted_lengths), (found, lengths) = at_once, take_turns(shape)
    np.testing.assert_array_equal(lengths, wanted_lengths)
    for turn, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert mine.keys() == theirs.keys()
        left_out = IDLE[turn] | (set(PREFILLED) if turn == 1 else set())
        assert mine.keys() == set(range(NUM_SLOTS)) - left_out
        for slot, output in mine.items():
            np.testing.assert_array_equal(output.tokens, theirs[slot].tokens)
            np.testing.assert_allclose(
                output.logprobs, theirs[slot].logprobs, atol=1e-5
            )


def test_the_likeliest_tokens_are_the_same():
    shapes = [dataclasses.replace(SHAPE, attention=a) for a in ("matmul", "xla")]
    (found, _), (wanted, _) = (take_turns(s, temperature=0.0) for s in shapes)
    for mine, theirs in zip(found, wanted, strict=True):
        for slot, output in mine.items():
            np.testing.assert_array_equal(output.tokens, theirs[slot].tokens)
