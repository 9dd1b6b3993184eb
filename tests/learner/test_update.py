import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agentrl import config, errors, types
from agentrl.learner import optimizer, packing, update
from agentrl.models import model_config, transformer

V = 11
OPTIMIZER = optimizer.make_optimizer(
    config.OptimizerConfig(learning_rate=0.01, schedule="linear"), total_steps=10
)


def bigram_params(seed=0):
    """A model that sees one token: enough wherever the context does not matter."""
    keys = jax.random.split(jax.random.key(seed))
    return {
        "embedding": jax.random.normal(keys[0], (V, 8)),
        "head": jax.random.normal(keys[1], (8, V)),
    }


def bigram_hidden(params, tokens, positions, segment_ids):
    del positions, segment_ids
    return params["embedding"][tokens]


def make_step(optimize=OPTIMIZER, hidden=bigram_hidden, supervised=False, **algorithm):
    return update.make_train_step(
        update.make_score(
            hidden, lambda params: params["head"], chunk=16, temperature=1.0
        ),
        optimize,
        algorithm=config.AlgorithmConfig(**algorithm),
        supervised=supervised,
    )


def make_state(params=None, optimize=OPTIMIZER):
    params = bigram_params() if params is None else params
    mixture = types.MixtureState(jnp.ones(1), jnp.ones(1), jnp.zeros(1, int))
    return types.TrainState(
        jnp.int32(0), params, optimize.init(params), mixture, jax.random.key(1)
    )


@pytest.fixture(scope="module")
def default_step():
    return jax.jit(make_step())


def make_trajectory(seed, score):
    """Two turns with the log-probabilities that `score` gives to their actions."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, V, rng.integers(1, 6)).astype(np.int32) for _ in range(4)]
    padded = np.zeros(20, np.int32)
    tokens = np.concatenate(parts)
    padded[: len(tokens)] = tokens
    scores = np.split(score(padded), np.cumsum([len(part) for part in parts]))
    turns = tuple(
        types.Turn(parts[i], parts[i + 1], scores[i + 1], "", "", 0.0, True)
        for i in (0, 2)
    )
    task = types.Task("farm", f"farm-{seed}", group=0, sample=0)
    return types.Trajectory(task, turns, types.Ending.SOLVED, 0, True, 1.0)


def pack(trajectories, advantages, **shape):
    (batch,), _ = packing.to_train_batches(
        [packing.Example(*pair) for pair in zip(trajectories, advantages, strict=True)],
        {"farm": 0},
        learner_config=config.LearnerConfig(**shape),
        num_batches=1,
        seed=0,
    )
    return batch


def assert_same_update(result, expected):
    chex.assert_trees_all_close(result[0].params, expected[0].params, atol=1e-6)
    chex.assert_trees_all_close(result[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_microbatches_change_nothing(name, make_batch):
    optimize = optax.sgd(1.0)  # Adam would hide a wrong scale of the gradient
    step = jax.jit(make_step(optimize, name=name))
    state = make_state(optimize=optimize)
    batch = make_batch(0, shape=(1, 8, 24))
    cut = jax.tree.map(lambda x: x.reshape(4, 2, 24), batch)

    assert_same_update(step(state, cut), step(state, batch))


def test_packing_changes_nothing_and_the_first_update_is_on_policy():
    model = transformer.Model(
        model_config.ModelConfig(
            vocab_size=V, hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1,
            head_dim=4, mlp_size=16,
        )
    )  # fmt: skip
    params = model.init(jax.random.key(0))

    @jax.jit
    def score(tokens):  # of one unpacked sequence, from all its logits
        columns = jnp.arange(tokens.size)[None]
        hidden = model.hidden(params, tokens[None], columns, jnp.ones_like(columns))
        logits = hidden[0, :-1] @ model.unembedding(params) / 0.7
        chosen = jax.nn.log_softmax(logits)[jnp.arange(tokens.size - 1), tokens[1:]]
        return jnp.pad(chosen, (1, 0))

    trajectories = [make_trajectory(seed, score) for seed in range(8)]
    advantages = np.linspace(-1, 1.5, 8)
    step = jax.jit(
        update.make_train_step(
            update.make_score(
                model.hidden, model.unembedding, chunk=16, temperature=0.7
            ),
            OPTIMIZER,
            algorithm=config.AlgorithmConfig(name="grpo"),
        )
    )
    results = []
    for row_tokens, rows, microbatches in [(20, 8, 1), (40, 2, 4)]:
        batch = pack(
            trajectories,
            advantages,
            row_tokens=row_tokens,
            rows_per_microbatch=rows,
            max_microbatches=microbatches,
        )
        results.append(step(make_state(params), batch))

    assert_same_update(*results)
    for _, metrics in results:
        assert metrics["policy/behavior_gap"] < 1e-5
        assert metrics["policy/behavior_kl"] < 1e-6
        assert metrics["policy/clip_fraction"] == 0
        np.testing.assert_allclose(metrics["policy/ratio_max"], 1, atol=1e-5)


def test_good_actions_become_likelier(default_step, make_batch):
    state, batch = make_state(), make_batch(0)
    scores = jax.nn.log_softmax(state.params["embedding"] @ state.params["head"])
    before = np.asarray(scores)[np.roll(batch.tokens, 1, axis=2), batch.tokens]
    batch = dataclasses.replace(batch, behavior_logprobs=before)

    after, _ = default_step(state, batch)

    scores = jax.nn.log_softmax(after.params["embedding"] @ after.params["head"])
    gain = np.asarray(scores)[np.roll(batch.tokens, 1, axis=2), batch.tokens] - before
    assert np.mean((gain * batch.advantages)[batch.action_mask]) > 0.01


def test_what_is_not_an_action_cannot_train(make_batch):
    step, state = jax.jit(make_step(kl_coefficient=0.1)), make_state()
    reference = bigram_params(5)
    batch = make_batch(0)
    junk = {
        "advantages": np.where(batch.action_mask, batch.advantages, np.inf),
        "behavior_logprobs": np.where(
            batch.action_mask, batch.behavior_logprobs, np.nan
        ),
        "tokens": np.where(batch.segment_ids > 0, batch.tokens, V - 1),
    }

    expected = step(state, batch, reference)
    result = step(state, dataclasses.replace(batch, **junk), reference)

    chex.assert_trees_all_equal(result, expected)


def test_an_empty_batch_is_a_step(default_step, make_batch):
    batch = jax.tree.map(np.zeros_like, make_batch(0))
    state = make_state()

    after, metrics = default_step(state, batch)

    assert int(after.step) == 1
    chex.assert_trees_all_equal(after.params, state.params)
    assert metrics["policy/loss"] == metrics["learner/action_tokens"] == 0
    chex.assert_tree_all_finite((after.params, after.opt_state, metrics))


def test_padding_microbatches_are_not_computed(make_batch):
    calls = []

    def counted(params, tokens, positions, segment_ids):
        jax.debug.callback(lambda: calls.append(1))
        return bigram_hidden(params, tokens, positions, segment_ids)

    def pad(x):
        return np.concatenate([x, np.zeros((5, *x.shape[1:]), x.dtype)])

    batch, state = make_batch(0, shape=(2, 2, 24)), make_state()
    step = jax.jit(make_step(hidden=counted))

    padded = step(state, jax.tree.map(pad, batch))
    jax.effects_barrier()

    assert len(calls) == 2  # of 7
    assert_same_update(padded, step(state, batch))


def test_one_trace_for_all_steps(make_batch):
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(make_step(), n=1), donate_argnums=0)
    state = make_state()

    rates = []
    for seed in range(3):  # with different numbers of microbatches in use
        batch = make_batch(seed, shape=(3, 2, 24))
        batch.segment_ids[seed + 1 :] = 0
        batch.action_mask[seed + 1 :] = False
        state, metrics = step(state, batch)
        rates.append(float(metrics["optimizer/learning_rate"]))

    assert int(state.step) == 3
    np.testing.assert_allclose(rates, [0.01, 0.0091, 0.0082], rtol=1e-5)


def test_metrics_are_scalars_under_their_documented_names(default_step, make_batch):
    _, metrics = default_step(make_state(), make_batch(0))

    assert set(metrics) == {
        "policy/loss",
        "policy/behavior_kl",
        "policy/behavior_gap",
        "policy/clip_fraction",
        "policy/entropy",
        "policy/ratio_max",
        "optimizer/grad_norm",
        "optimizer/learning_rate",
        "learner/action_tokens",
    }
    for value in metrics.values():
        assert value.shape == () and value.dtype == jnp.float32


def test_supervised_loss_is_the_likelihood_of_the_actions(make_batch):
    state, batch = make_state(), make_batch(0)
    batch = dataclasses.replace(batch, advantages=np.ones_like(batch.advantages))
    # The KL term belongs to the policy loss: no reference is asked for.
    step = jax.jit(make_step(supervised=True, kl_coefficient=1.0))

    state_after, metrics = step(state, batch)

    scores = jax.nn.log_softmax(state.params["embedding"] @ state.params["head"])
    scores = np.asarray(scores)[np.roll(batch.tokens, 1, axis=2), batch.tokens]
    expected = -np.mean(scores[batch.action_mask])
    np.testing.assert_allclose(metrics["policy/loss"], expected, rtol=1e-5)
    assert step(state_after, batch)[1]["policy/loss"] < expected


def test_reference_is_needed_exactly_for_a_kl_term(make_batch):
    state, batch = make_state(), make_batch(0)
    with pytest.raises(ValueError, match="reference_params must"):
        make_step(kl_coefficient=0.1)(state, batch)
    with pytest.raises(ValueError, match="reference_params must"):
        make_step()(state, batch, state.params)


def test_kl_pulls_towards_the_reference(make_batch):
    state, reference = make_state(), bigram_params(5)
    batch = make_batch(0)
    batch = dataclasses.replace(batch, advantages=np.zeros_like(batch.advantages))
    step = jax.jit(make_step(kl_coefficient=1.0, kl_estimator="k2"))

    distances = []
    for _ in range(4):
        state, metrics = step(state, batch, reference)
        distances.append(float(metrics["policy/reference_kl"]))

    assert distances == sorted(distances, reverse=True) and distances[-1] > 0


def test_bfloat16_parameters_get_float32_gradients(make_batch):
    params = optax.tree.cast(bigram_params(), jnp.bfloat16)
    seen = []

    def spy(updates, state, params=None):
        seen.extend(leaf.dtype for leaf in jax.tree.leaves(updates))
        return updates, state

    optimize = optax.GradientTransformation(lambda params: (), spy)
    step = jax.jit(make_step(optimize))

    after, metrics = step(make_state(params, optimize), make_batch(0))

    assert seen == [jnp.float32] * 2
    chex.assert_trees_all_equal_dtypes(after.params, params)
    chex.assert_tree_all_finite(metrics)


def test_unknown_algorithms_are_refused_when_the_step_is_made():
    with pytest.raises(errors.ConfigError, match="'ppp' is unknown"):
        make_step(name="ppp")
