"""Names of uses, not their order, decide on randomness."""

import itertools

import jax

from agentrl.parallel import rng


def test_each_seed_stage_iteration_and_use_has_its_own():
    names = itertools.product(("advantages", "minibatches"), (0, 1, 2))
    uses = [(seed, *name) for seed in (0, 1) for name in names]
    seeds = [rng.host_seed(jax.random.key(s), *name) for s, *name in uses]
    assert len(set(seeds)) == len(uses)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert rng.host_seed(jax.random.key(0), "minibatches", 1) in seeds
    keys = [rng.stream_key(jax.random.key(s), *name) for s, *name in uses]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == len(uses)
