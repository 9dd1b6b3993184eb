"""Plays the same episodes on one device and on every mesh of a host's devices.

A program of its own, because a deadlock inside XLA cannot be interrupted: the test that
starts it ends it when its time is over. Usage: play_rollouts.py NUM_DEVICES
"""

import sys

import jax
import numpy as np

from agentrl import config
from agentrl.chat import renderer, tokenizer
from agentrl.engine import engine
from agentrl.envs import base, demonstrations, pool
from agentrl.hardware import timing
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding
from agentrl.rollout import collect
from agentrl.run import assemble

SETTINGS = config.RolloutConfig(
    num_slots=16,
    num_cohorts=2,
    max_tokens=48,
    max_action_tokens=16,
    append_buckets=(16,),
    cache_buckets=(48,),
    row_buckets=(),
)
TASKS = assemble.make_tasks([f"recall_{i}" for i in range(6)], 4)
# The sampler pads this vocabulary to whole chunks: cut over devices, it has to be moved.
MODEL = transformer.Model(
    model_config.ModelConfig(
        vocab_size=328, hidden_size=32, num_layers=1, num_heads=8, num_kv_heads=4,
        head_dim=8, mlp_size=48,
    )
)  # fmt: skip


def make_chat(envs):
    ids = [f"recall_{i}" for i in range(16)]
    demos = demonstrations.collect(envs, "recall", ids, thoughts=False)
    texts = demonstrations.texts(demos) * 4
    trained = tokenizer.SentencePieceTokenizer.train(texts, 300)
    return renderer.Chat(trained, "bare")


def make_params(stop):
    """Random parameters with a likely stop token: actions end at different steps."""
    params = MODEL.init(jax.random.key(0))
    params["embedding"] = params["embedding"].at[stop].mul(8.0)
    return params


def make_collector(mesh, framed, envs):
    rollouts = engine.Engine(
        MODEL,
        mesh,
        SETTINGS,
        stop_tokens=framed.tokenizer.stop_ids,
        num_valid_tokens=framed.tokenizer.vocab_size,
    )
    return rollouts, collect.Collector(rollouts, envs, framed)


def play(collector, params):
    key = jax.random.key(1)
    return collector.collect(params, TASKS, key=key, policy_step=0)[0]


def hand_over(params, learner_mesh, rollout_mesh):
    """Parameters on their way from the learner's mesh to the rollouts'."""
    placements = sharding.shardings_for(
        params, learner_mesh, sharding.TRANSFORMER_RULES
    )
    shapes = jax.eval_shape(lambda: params)
    move = sharding.make_rollout_params(learner_mesh, rollout_mesh, lambda x: x, shapes)
    return move(jax.device_put(params, placements))


def compare(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert (one.ending, one.success) == (other.ending, other.success)
        for turn, expected in zip(one.turns, other.turns, strict=True):
            np.testing.assert_array_equal(
                turn.observation_tokens, expected.observation_tokens
            )
            np.testing.assert_array_equal(turn.action_tokens, expected.action_tokens)
            np.testing.assert_allclose(
                turn.action_logprobs, expected.action_logprobs, atol=1e-5
            )


def main(num_devices):
    sizes = [size for size in range(1, num_devices + 1) if num_devices % size == 0]
    with pool.EnvPool({"recall": base.EnvConfig()}, num_workers=2) as envs:
        framed = make_chat(envs)
        params = make_params(framed.tokenizer.stop_id)
        alone = jax.sharding.Mesh([[jax.devices()[:1]]], sharding.AXES)
        expected = play(make_collector(alone, framed, envs)[1], params)
        lengths = {len(t.action_tokens) for e in expected for t in e.turns}
        assert len(lengths) > 3, "the actions are too much alike to show a deadlock"
        for model in sizes:
            rollout_mesh = sharding.make_rollout_mesh(config.MeshConfig(model=model))
            rollouts, collector = make_collector(rollout_mesh, framed, envs)
            for fsdp in (s for s in sizes if num_devices % (model * s) == 0):
                learner_mesh = sharding.make_mesh(
                    config.MeshConfig(data=-1, fsdp=fsdp, model=model)
                )
                placed = hand_over(params, learner_mesh, rollout_mesh)
                if fsdp == 1:
                    rollouts.compile(placed, jax.random.key(0))
                counter = timing.CompilationCounter()
                compare(play(collector, placed), expected)
                assert counter.pop() == 0, "a shape was met that was not prepared"
                print("played on", dict(learner_mesh.shape), flush=True)


if __name__ == "__main__":
    count = int(sys.argv[1])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    main(count)
