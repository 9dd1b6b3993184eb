import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agentrl import config
from agentrl.learner import optimizer


def settings(**changes):
    defaults = {"learning_rate": 0.1, "max_grad_norm": 1e9}
    return config.OptimizerConfig(**(defaults | changes))


def apply(optimize, params, gradients):
    state = optimize.init(params)
    update = jax.jit(optimize.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_adamw_equals_its_formula():
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(6, 3, 2))
    chosen = settings(weight_decay=0.01, max_grad_norm=0.5)

    params, _ = apply(
        optimizer.make_optimizer(chosen, total_steps=5),
        {"kernel": jnp.float32(start)},
        [{"kernel": jnp.float32(g)} for g in gradients],
    )

    expected, m, v = start.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    for n, gradient in enumerate(gradients, start=1):
        gradient = gradient * min(1, 0.5 / np.sqrt(np.sum(gradient**2)))
        m = 0.9 * m + 0.1 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        direction = (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.95**n)) + 1e-8)
        expected -= 0.1 * (direction + 0.01 * expected)
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5)


def test_only_weight_matrices_decay():
    params = {
        "embedding": jnp.ones((4, 2)),
        "block": {"query": jnp.ones((2, 2, 2)), "query_bias": jnp.ones((2, 2))},
        "norm": {"scale": jnp.ones(2)},
    }
    optimize = optimizer.make_optimizer(settings(weight_decay=0.5), total_steps=1)

    after, _ = apply(optimize, params, [jax.tree.map(jnp.zeros_like, params)])

    decayed = jax.tree.map(lambda x: bool((x < 1).all()), after)
    assert decayed == {
        "embedding": True,
        "block": {"query": True, "query_bias": False},
        "norm": {"scale": False},
    }


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Warm-up over 2 steps, then 4 steps from 0.3 to a third of it.
        ("constant", [0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]),
        ("linear", [0.1, 0.2, 0.3, 0.25, 0.2, 0.15, 0.1, 0.1]),
        ("cosine", [0.1, 0.2, 0.3, 0.270711, 0.2, 0.129289, 0.1, 0.1]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    chosen = settings(
        learning_rate=0.3, schedule=schedule, warmup_steps=2, final_fraction=1 / 3
    )

    rate = optimizer.make_schedule(chosen, total_steps=6)

    np.testing.assert_allclose([rate(n) for n in range(8)], expected, rtol=1e-5)


def test_the_rate_in_use_is_in_the_state():
    optimize = optimizer.make_optimizer(
        settings(schedule="linear", final_fraction=0.0), total_steps=4
    )
    params = {"kernel": jnp.ones((2, 2))}

    _, state = apply(optimize, params, [params] * 3)

    # The third update is made at step 2 of 4.
    np.testing.assert_allclose(optax.tree.get(state, "learning_rate"), 0.05)
    assert optax.tree.get(optax.sgd(1.0).init(params), "learning_rate") is None


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("moment_dtype", ["float32", "bfloat16"])
def test_moments_have_the_dtype_asked_for(moment_dtype, param_dtype):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(8, 8)), param_dtype)}
    gradients = [{"kernel": jnp.float32(g)} for g in rng.normal(size=(5, 8, 8))]
    optimize = optimizer.make_optimizer(settings(), total_steps=5, moments=moment_dtype)

    after, state = apply(optimize, params, gradients)

    before = optimize.init(params)
    chex_types = jax.tree.map(lambda x: (x.shape, x.dtype), before)
    assert chex_types == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for name in ("mu", "nu"):
        assert optax.tree.get(state, name)["kernel"].dtype == moment_dtype
    assert after["kernel"].dtype == param_dtype


def test_bfloat16_moments_stay_close_to_float32():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.float32(rng.normal(size=(8, 8)))}
    gradients = [{"kernel": jnp.float32(g)} for g in rng.normal(size=(20, 8, 8))]

    moved = {
        dtype: apply(
            optimizer.make_optimizer(settings(), total_steps=20, moments=dtype),
            params,
            gradients,
        )[0]["kernel"]
        - params["kernel"]
        for dtype in ("float32", "bfloat16")
    }

    # bf16 keeps 8 bits: each of the 20 steps of 0.1 may be off by a few parts in 256.
    np.testing.assert_allclose(moved["bfloat16"], moved["float32"], atol=0.02)
    assert (moved["bfloat16"] != moved["float32"]).any()
