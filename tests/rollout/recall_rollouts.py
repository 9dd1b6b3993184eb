"""Rollouts of a small policy in the game of recall."""

import jax

from agentrl import config
from agentrl.chat import tokenizer
from agentrl.engine import engine
from agentrl.hardware import timing
from agentrl.parallel import sharding
from agentrl.rollout import collect
from agentrl.run import assemble

SETTINGS = config.RolloutConfig(
    num_slots=16,
    num_cohorts=2,
    max_tokens=48,
    max_action_tokens=10,
    append_buckets=(4, 16),
    cache_buckets=(16, 48),
    row_buckets=(8,),
)
TASKS = assemble.make_tasks([f"recall_{i}" for i in range(6)], 4)


class ThinkingTokenizer(tokenizer.ByteTokenizer):
    """Bytes, with headers of answers that open a thought; those of past ones do not."""

    delimiters = tokenizer.Delimiters(
        {
            **tokenizer.ByteTokenizer.delimiters.pieces,
            ("user", "prompt"): (257, "\n", 256, "assistant\n<think>\n"),
        }
    )


def make_collector(model, chat, envs, settings=SETTINGS, *, devices=8, compiled=False):
    """A collector, and random parameters where it plays."""
    mesh = jax.make_mesh(
        (devices, 1, 1),
        sharding.AXES,
        devices=jax.devices()[:devices],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    rollouts = engine.Engine(
        model,
        mesh,
        settings,
        stop_tokens=chat.tokenizer.stop_ids,
        num_valid_tokens=chat.tokenizer.vocab_size,
    )
    params = model.init(jax.random.key(0))
    # Make the stop token likely, so that actions reach the environment.
    stop = chat.tokenizer.stop_id
    params["embedding"] = params["embedding"].at[stop].mul(3.0)
    placed = jax.device_put(params, sharding.replicated(mesh))
    collector = collect.Collector(rollouts, envs, chat)
    if compiled:
        rollouts.compile(placed, jax.random.key(0))
    return collector, params, placed


def play(
    model,
    framed,
    envs,
    settings=SETTINGS,
    *,
    devices=8,
    rounds=1,
    tasks=TASKS,
    **options,
):
    collector, params, placed = make_collector(
        model, framed, envs, settings, devices=devices, compiled=rounds > 1
    )
    key = jax.random.key(1)
    counter = timing.CompilationCounter()
    for _ in range(rounds):
        found = collector.collect(placed, tasks, key=key, policy_step=3, **options)
        assert not collector._engine._prefixes._prefixes  # an update has their memory
    assert rounds == 1 or counter.pop() == 0
    return params, found
