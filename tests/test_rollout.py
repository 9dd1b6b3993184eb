"""Rollouts of a small policy in real worker processes, on eight virtual devices."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from agentrl import config, policy, rollout, sharding, types
from agentrl import run as runs
from agentrl.models import config as model_config
from agentrl.models import transformer
from agentrl.text import chat, tokenizer
from envs import base, demonstrations, pool, registry

HERE = pathlib.Path(__file__).parent
SETTINGS = config.RolloutConfig(
    num_slots=16,
    num_cohorts=2,
    max_tokens=48,
    max_action_tokens=10,
    append_buckets=(4, 16),
    cache_buckets=(16, 48),
)
TASKS = runs.make_tasks([f"recall_{i}" for i in range(6)], 4)


@pytest.fixture(scope="module", autouse=True)
def recall():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setitem(registry._MODULES, "recall", "recall_env")
        patch.setenv("AGENTRL_ENVS", "recall=recall_env")
        yield
    registry.get_spec.cache_clear()


@pytest.fixture(scope="module")
def envs(recall):
    with pool.EnvPool({"recall": base.EnvConfig()}, num_workers=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def framed(recall):
    ids = [f"recall_{i}" for i in range(16)]
    demos = demonstrations.collect("recall", base.EnvConfig(), ids, thoughts=False)
    texts = demonstrations.texts(demos) * 4
    trained = tokenizer.SentencePieceTokenizer.train(texts, 300)
    return chat.Chat(trained, "bare")


@pytest.fixture(scope="module")
def model():
    settings = model_config.ModelConfig(
        vocab_size=320, hidden_size=32, num_layers=2, head_dim=8, mlp_size=48
    )
    return transformer.Model(settings)


def play(model, framed, envs, settings=SETTINGS, *, devices=8, **options):
    mesh = jax.make_mesh(
        (devices, 1, 1),
        sharding.AXES,
        devices=jax.devices()[:devices],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    acting = policy.Policy(
        model,
        mesh,
        settings,
        stop_token=framed.tokenizer.stop_id,
        num_valid_tokens=framed.tokenizer.vocab_size,
    )
    params = model.init(jax.random.key(0))
    # Make the stop token likely, so that actions reach the environment.
    stop = framed.tokenizer.stop_id
    params["embedding"] = params["embedding"].at[stop].mul(3.0)
    placed = jax.device_put(params, sharding.replicated(mesh))
    collector = rollout.Collector(acting, envs, framed)
    return params, collector.collect(
        placed, TASKS, key=jax.random.key(1), policy_step=3, **options
    )


@pytest.fixture(scope="module")
def played(model, framed, envs):
    return play(model, framed, envs)


def tokens_of(trajectory):
    parts = [
        p for t in trajectory.turns for p in (t.observation_tokens, t.action_tokens)
    ]
    return np.concatenate(parts)


def test_every_task_comes_back_in_order(played):
    _, (trajectories, statistics) = played
    assert [t.task for t in trajectories] == TASKS
    assert {t.policy_step for t in trajectories} == {3}
    endings = {t.ending for t in trajectories}
    assert types.Ending.MAX_TOKENS in endings and len(endings) > 1
    written = sum(t.num_action_tokens for t in trajectories)
    assert statistics.decoded_tokens == written
    assert 0 < statistics.live_slot_turns <= statistics.slot_turns


def test_learner_scores_the_context_that_the_sampler_saw(model, framed, played):
    params, (trajectories, _) = played
    hidden = jax.jit(model.hidden)
    for trajectory in trajectories:
        tokens = np.zeros((1, SETTINGS.max_tokens), np.int32)
        used = trajectory.num_tokens
        tokens[0, :used] = tokens_of(trajectory)
        columns = np.arange(SETTINGS.max_tokens)[None]
        states = hidden(params, tokens, columns, (columns < used).astype(np.int32))
        logits = states @ model.unembedding(params)
        logits = logits[0, :, : framed.tokenizer.vocab_size]
        logprobs = jax.nn.log_softmax(logits)
        start = 0
        for turn in trajectory.turns:
            begin = start + len(turn.observation_tokens)
            end = begin + len(turn.action_tokens)
            scored = logprobs[np.arange(begin - 1, end - 1), tokens[0, begin:end]]
            np.testing.assert_allclose(scored, turn.action_logprobs, atol=2e-5)
            start = end


def test_turns_hold_the_tokens_of_their_text(framed, played):
    _, (trajectories, _) = played
    for trajectory in trajectories:
        for index, turn in enumerate(trajectory.turns):
            render = framed.extend if index else lambda text: framed.open("", text)
            np.testing.assert_array_equal(
                turn.observation_tokens, render(turn.observation)
            )
            assert framed.tokenizer.decode(turn.action_tokens.tolist()) == turn.action


@pytest.mark.parametrize(
    ("devices", "changes"),
    [(1, {}), (8, {"num_cohorts": 1}), (2, {"num_slots": 4})],
    ids=["one_device", "one_cohort", "refilled_slots"],
)
def test_episodes_do_not_depend_on_placement(
    model, framed, envs, played, devices, changes
):
    settings = dataclasses.replace(SETTINGS, **changes)
    _, (trajectories, _) = play(model, framed, envs, settings, devices=devices)
    _, (expected, _) = played
    for ours, theirs in zip(trajectories, expected, strict=True):
        np.testing.assert_array_equal(tokens_of(ours), tokens_of(theirs))
        assert (ours.ending, ours.success) == (theirs.ending, theirs.success)


def test_horizon_ends_episodes(model, framed, envs):
    _, (trajectories, _) = play(model, framed, envs, max_turns=1)
    assert {len(t.turns) for t in trajectories} == {1}
    assert types.Ending.MAX_TURNS in {t.ending for t in trajectories}
