"""Products with kernels, whose gradients CPUs compute without transposing activations."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def contract(x: jax.Array, kernel: jax.Array, num_inputs: int) -> jax.Array:
    """Contracts the last axes of `x` with the first ones of `kernel`.

    Differentiation writes the kernel's gradient as a transposed product of transposed
    factors, which XLA's CPU backend computes at half the rate, and copies an array of the
    size of the activations for it. Here it is one product in the kernel's own order.

    Args:
      x: float[..., *inputs].
      kernel: float[*inputs, *outputs], of the same type.
      num_inputs: number of axes that are contracted.

    Returns:
      float[..., *outputs].
    """
    return _product(x, kernel, _last(x, num_inputs), _first(num_inputs))


def _forward(
    x: jax.Array, kernel: jax.Array, num_inputs: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return contract(x, kernel, num_inputs), (x, kernel)


def _backward(
    num_inputs: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    num_outputs = kernel.ndim - num_inputs
    outputs = _last(gradient, num_outputs)
    of_x = _product(gradient, kernel, outputs, _last(kernel, num_outputs))
    batch = _first(x.ndim - num_inputs)
    return of_x, _product(x, gradient, batch, batch)


contract.defvjp(_forward, _backward)


def _product(
    a: jax.Array, b: jax.Array, of_a: tuple[int, ...], of_b: tuple[int, ...]
) -> jax.Array:
    """Contracts axes of `a` with those of `b`, in their common type."""
    dimensions = ((of_a, of_b), ((), ()))

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, dimensions)

    def multiply_into_float32(a: jax.Array, b: jax.Array) -> jax.Array:
        product = jax.lax.dot_general(
            a, b, dimensions, preferred_element_type=jnp.float32
        )
        return product.astype(a.dtype)

    if a.dtype != jnp.bfloat16:
        return multiply(a, b)
    # CPUs have instructions for such products into float32; asked for bfloat16, XLA
    # converts the factors. Elsewhere the devices that share a contracted axis would
    # exchange twice the bytes.
    return jax.lax.platform_dependent(a, b, cpu=multiply_into_float32, default=multiply)


def _first(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def _last(x: jax.Array, count: int) -> tuple[int, ...]:
    return tuple(range(x.ndim - count, x.ndim))
