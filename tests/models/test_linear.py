"""Products with kernels, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl.models import linear


def draw(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [
        jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)
    ]


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "num_inputs"),
    [
        ((6, 5), (5, 7), 1),
        ((2, 3, 5), (5, 7), 1),
        ((2, 3, 5), (5, 4, 2), 1),  # to heads
        ((2, 3, 4, 2), (4, 2, 5), 2),  # from heads
        ((5,), (5, 7), 1),  # no batch axes
        ((0, 5), (5, 7), 1),  # no tokens
    ],
)
def test_product_and_gradients_are_those_of_tensordot(
    x_shape, kernel_shape, num_inputs
):
    x, kernel = draw(0, x_shape, kernel_shape)
    (weights,) = draw(1, jnp.tensordot(x, kernel, num_inputs).shape)

    def differentiate(contract):
        def loss(x, kernel):
            product = contract(x, kernel, num_inputs)
            return jnp.sum(weights * jnp.tanh(product)), product

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

    ours, expected = differentiate(linear.contract), differentiate(jnp.tensordot)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected
    )


def test_types_stay():
    x, kernel = (part.astype(jnp.bfloat16) for part in draw(0, (3, 5), (5, 7)))

    gradients = jax.grad(
        lambda x, kernel: jnp.sum(linear.contract(x, kernel, 1).astype(jnp.float32)),
        argnums=(0, 1),
    )(x, kernel)

    assert linear.contract(x, kernel, 1).dtype == jnp.bfloat16
    assert [part.dtype for part in gradients] == [jnp.bfloat16] * 2


def test_bfloat16_is_summed_in_float32_and_rounded_once():
    x, kernel = (part.astype(jnp.bfloat16) for part in draw(0, (8, 500), (500, 9)))

    product = linear.contract(x, kernel, 1)

    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    off = np.abs(np.asarray(product, np.float64) - exact)
    assert np.all(off <= np.abs(exact) * 2**-8 + 1e-5)


def test_a_frozen_kernel_costs_no_gradient():
    x, kernel = draw(0, (64, 32), (32, 32))

    def flops(argument):
        def loss(x, kernel):
            return jnp.sum(jnp.square(linear.contract(x, kernel, 1)))

        compiled = jax.jit(jax.grad(loss, argnums=argument)).lower(x, kernel).compile()
        return compiled.cost_analysis()["flops"]

    product = 2 * 64 * 32 * 32
    assert flops(0) < 2.5 * product  # the product itself, and the gradient of x
    assert flops((0, 1)) > 2.9 * product
