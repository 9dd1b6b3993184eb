import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agentrl import config, types
from agentrl.learner import algorithms, optimizer, packing, update
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


def resolve(algorithm, horizon=24):
    """The objective of a stage whose episodes have `horizon` tokens at most."""
    stage = config.StageConfig(
        name="only",
        mixture=config.MixtureConfig(environments=(("farm", 1.0),)),
        num_iterations=1,
        rollout=config.RolloutConfig(max_tokens=horizon),
        algorithm=algorithm,
    )
    return algorithms.resolve(stage).objective


def make_step(algorithm=None, optimize=OPTIMIZER, hidden=bigram_hidden):
    """A learner step (state, batch, reference or None) -> (state, metrics)."""
    objective = resolve(algorithm or config.Dapo())
    train_step = functools.partial(
        update.train_step,
        forward=update.make_forward(
            hidden,
            lambda params: params["head"],
            chunk=16,
            temperature=1.0,
            entropy_gradient=objective.entropy_coefficient > 0,
        ),
        objective=objective,
        optimizer=optimize,
    )
    return lambda state, batch, reference=None: train_step(state, {}, batch, reference)


def make_state(params=None, optimize=OPTIMIZER):
    params = bigram_params() if params is None else params
    return types.TrainState(jnp.int32(0), params, optimize.init(params))


def with_kl(batch, coefficient):
    return dataclasses.replace(batch, kl_weights=coefficient * batch.rl_weights)


def demonstrated(batch):
    """The batch with its actions as demonstrations."""
    nothing = np.zeros_like(batch.rl_weights)
    return dataclasses.replace(batch, rl_weights=nothing, ce_weights=batch.rl_weights)


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
    (batch,), _ = packing.pack(
        trajectories,
        [types.Signal(advantage, rl_weights=1.0) for advantage in advantages],
        learner_config=config.LearnerConfig(**shape),
        num_batches=1,
        seed=0,
    )
    return batch


def assert_same_update(result, expected):
    chex.assert_trees_all_close(result[0].params, expected[0].params, atol=1e-6)
    chex.assert_trees_all_close(result[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "algorithm",
    [config.Grpo(), config.DrGrpo(), config.Dapo(), config.Gspo()],
    ids=lambda a: a.NAME,
)
def test_microbatches_change_nothing(algorithm, make_batch):
    optimize = optax.sgd(1.0)  # Adam would hide a wrong scale of the gradient
    step = jax.jit(make_step(algorithm, optimize))
    state = make_state(optimize=optimize)
    batch = make_batch(0, shape=(1, 8, 24))
    cut = jax.tree.map(lambda x: x.reshape(4, 2, 24), batch)

    assert_same_update(step(state, cut), step(state, batch))


@pytest.mark.parametrize(
    "algorithm",
    [config.Grpo(), config.DrGrpo(), config.Rloo(), config.Dapo(), config.Gspo()],
    ids=lambda a: a.NAME,
)
def test_packing_changes_nothing_and_the_first_update_is_on_policy(algorithm):
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
    optimize = optax.sgd(1.0)  # Adam would hide a wrong scale of the gradient
    step = jax.jit(
        functools.partial(
            update.train_step,
            forward=update.make_forward(
                model.hidden, model.unembedding, chunk=16, temperature=0.7
            ),
            objective=resolve(algorithm, horizon=20),
            optimizer=optimize,
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
        results.append(step(make_state(params, optimize), {}, batch, None))

    assert_same_update(*results)
    for _, metrics in results:
        assert metrics["policy/logprob_mismatch"] < 1e-5
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
    assert np.mean((gain * batch.advantages)[batch.rl_weights > 0]) > 0.01


def test_what_is_not_an_action_cannot_train(make_batch):
    penalized = config.Dapo(kl=config.KLConfig(coefficient=0.1))
    step, state = jax.jit(make_step(penalized)), make_state()
    reference = bigram_params(5)
    batch = with_kl(make_batch(0), 0.1)
    acted = batch.rl_weights > 0
    junk = {
        "advantages": np.where(acted, batch.advantages, np.inf),
        "behavior_logprobs": np.where(acted, batch.behavior_logprobs, np.nan),
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
        batch.rl_weights[seed + 1 :] = 0
        state, metrics = step(state, batch)
        rates.append(float(metrics["optimizer/learning_rate"]))

    assert int(state.step) == 3
    np.testing.assert_allclose(rates, [0.01, 0.0091, 0.0082], rtol=1e-5)


def test_metrics_are_scalars_under_their_documented_names(default_step, make_batch):
    _, metrics = default_step(make_state(), make_batch(0))

    assert set(metrics) == {
        "policy/loss",
        "policy/behavior_kl",
        "policy/logprob_mismatch",
        "policy/clip_fraction",
        "policy/entropy",
        "policy/ratio_max",
        "optimizer/grad_norm",
        "optimizer/learning_rate",
        "learner/action_tokens",
        "learner/policy_tokens",
    }
    for value in metrics.values():
        assert value.shape == () and value.dtype == jnp.float32


def test_supervised_loss_is_the_likelihood_of_the_actions(make_batch):
    state, batch = make_state(), demonstrated(make_batch(0))
    step = jax.jit(make_step(config.Supervised()))

    state_after, metrics = step(state, batch)

    scores = jax.nn.log_softmax(state.params["embedding"] @ state.params["head"])
    scores = np.asarray(scores)[np.roll(batch.tokens, 1, axis=2), batch.tokens]
    expected = -np.mean(scores[batch.ce_weights > 0])
    np.testing.assert_allclose(metrics["policy/loss"], expected, rtol=1e-5)
    assert step(state_after, batch)[1]["policy/loss"] < expected
    assert set(metrics) == {
        "policy/loss",
        "policy/entropy",
        "optimizer/grad_norm",
        "optimizer/learning_rate",
        "learner/action_tokens",
    }


def test_demonstrations_and_episodes_train_side_by_side(make_batch):
    # One gradient is the sum of the two: each loss averages over its own tokens.
    optimize = optax.sgd(1.0)
    state = make_state(optimize=optimize)
    both = make_batch(0)
    as_demonstrations = (both.rl_weights > 0) & (both.segment_ids % 2 == 1)
    episodes = dataclasses.replace(
        both, rl_weights=np.where(as_demonstrations, 0, both.rl_weights)
    )
    weights = 0.25 * as_demonstrations.astype(np.float32)
    mixed = dataclasses.replace(episodes, ce_weights=weights)
    demonstrations = dataclasses.replace(
        mixed, rl_weights=np.zeros_like(both.rl_weights)
    )
    step = jax.jit(make_step(config.Grpo(), optimize))

    after, metrics = step(state, mixed)
    played, played_metrics = step(state, episodes)
    taught, taught_metrics = jax.jit(make_step(config.Supervised(), optimize))(
        state, demonstrations
    )

    moved = [
        jax.tree.map(lambda new, old: new - old, x.params, state.params)
        for x in (after, played, taught)
    ]
    assert optax.tree.norm(moved[1]) > 0.01 and optax.tree.norm(moved[2]) > 0.01
    chex.assert_trees_all_close(moved[0], optax.tree.add(*moved[1:]), atol=1e-6)
    losses = (played_metrics["policy/loss"], taught_metrics["policy/loss"])
    np.testing.assert_allclose(metrics["policy/loss"], sum(losses), rtol=1e-5)
    np.testing.assert_allclose(
        metrics["rehearsal/nll"], taught_metrics["policy/loss"] / 0.25, rtol=1e-5
    )
    # What is said of the policy is said of its own episodes.
    for name in ("policy/entropy", "policy/logprob_mismatch", "policy/ratio_max"):
        np.testing.assert_allclose(metrics[name], played_metrics[name], rtol=1e-5)


def test_reference_is_needed_exactly_for_a_kl_term(make_batch):
    state, batch = make_state(), make_batch(0)
    penalized = config.Dapo(kl=config.KLConfig(coefficient=0.1))
    with pytest.raises(ValueError, match="reference parameters must"):
        make_step(penalized)(state, batch)
    with pytest.raises(ValueError, match="reference parameters must"):
        make_step()(state, batch, state.params)


def test_kl_pulls_towards_the_reference(make_batch):
    state, reference = make_state(), bigram_params(5)
    batch = with_kl(make_batch(0), 1.0)
    batch = dataclasses.replace(batch, advantages=np.zeros_like(batch.advantages))
    penalized = config.Dapo(kl=config.KLConfig(coefficient=1.0, estimator="k2"))
    step = jax.jit(make_step(penalized))

    distances = []
    for _ in range(4):
        state, metrics = step(state, batch, reference)
        distances.append(float(metrics["policy/reference_kl"]))

    assert distances == sorted(distances, reverse=True) and distances[-1] > 0


def test_a_coefficient_of_0_measures_and_does_not_pull(make_batch):
    state, reference = make_state(), bigram_params(5)
    batch = make_batch(0)
    step = jax.jit(make_step(config.Dapo(kl=config.KLConfig())))

    after, metrics = step(state, with_kl(batch, 0.0), reference)

    expected, plain = jax.jit(make_step())(state, batch)
    assert metrics.pop("policy/reference_kl") > 0.1
    assert_same_update((after, metrics), (expected, plain))


def test_a_token_may_be_held_by_the_reference_alone(make_batch):
    # As one that an algorithm neither rewards nor blames, yet wants to keep in place.
    optimize = optax.sgd(1.0)
    state, reference = make_state(optimize=optimize), bigram_params(5)
    batch = with_kl(make_batch(0), 0.1)
    held = dataclasses.replace(batch, rl_weights=np.zeros_like(batch.rl_weights))
    without = dataclasses.replace(batch, advantages=np.zeros_like(batch.advantages))
    step = jax.jit(
        make_step(config.Dapo(kl=config.KLConfig(coefficient=0.1)), optimize)
    )

    after, metrics = step(state, held, reference)

    expected, _ = step(state, without, reference)
    assert metrics["optimizer/grad_norm"] > 0.01
    chex.assert_trees_all_close(after.params, expected.params, atol=1e-6)


def test_an_entropy_bonus_flattens_the_policy(make_batch):
    state, batch = make_state(), make_batch(0)
    batch = dataclasses.replace(batch, advantages=np.zeros_like(batch.advantages))
    step = jax.jit(make_step(config.Dapo(entropy_coefficient=0.1)))

    entropies = []
    for _ in range(4):
        state, metrics = step(state, batch)
        entropies.append(float(metrics["policy/entropy"]))

    assert entropies == sorted(entropies) and entropies[-1] > entropies[0] + 0.01


def test_every_field_of_a_batch_is_read(make_batch):
    """A stream that the learner ignored would be a setting without effect."""
    algorithm = config.Ppo(kl=config.KLConfig(coefficient=0.1))
    step = jax.jit(
        functools.partial(
            update.train_step,
            forward=update.make_forward(
                lambda params, tokens, positions, segment_ids: (
                    params["embedding"][tokens]
                    + jnp.sin(positions)[..., None]
                    + jnp.cos(segment_ids)[..., None]
                ),
                lambda params: params["head"],
                chunk=16,
                temperature=1.0,
                value_fn=lambda params, hidden: hidden[..., 0],
            ),
            objective=resolve(algorithm),
            optimizer=optax.sgd(1.0),
        )
    )
    state = make_state(optimize=optax.sgd(1.0))
    batch = with_kl(make_batch(0), 0.1)
    taught = (batch.segment_ids == 2) & (batch.rl_weights > 0)
    batch = dataclasses.replace(
        batch,
        rl_weights=np.where(taught, 0, batch.rl_weights),
        ce_weights=taught.astype(np.float32),
    )
    # The reference is far off, or its divergence would have no gradient.
    expected, _ = step(state, {}, batch, bigram_params(5))
    rng = np.random.default_rng(1)
    fields = [field.name for field in dataclasses.fields(types.TrainBatch)]
    for name in fields:
        value = getattr(batch, name)
        if np.issubdtype(value.dtype, np.integer):
            changed = np.where(
                value > 0, rng.permutation(value.ravel()).reshape(value.shape), value
            )
        else:
            changed = value * rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        other = dataclasses.replace(batch, **{name: changed})
        result, _ = step(state, {}, other, bigram_params(5))
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), result, expected)
        assert max(jax.tree.leaves(moved.params)) > 1e-5, name


def test_bfloat16_parameters_get_float32_gradients(make_batch):
    params = optax.tree.cast(bigram_params(), jnp.bfloat16)
    seen = []

    def spy(updates, state, params=None):
        seen.extend(leaf.dtype for leaf in jax.tree.leaves(updates))
        return updates, state

    optimize = optax.GradientTransformation(lambda params: (), spy)
    step = jax.jit(make_step(optimize=optimize))

    after, metrics = step(make_state(params, optimize), make_batch(0))

    assert seen == [jnp.float32] * 2
    chex.assert_trees_all_equal_dtypes(after.params, params)
    chex.assert_tree_all_finite(metrics)
