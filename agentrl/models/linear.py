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
    return jnp.tensordot(x, kernel, num_inputs)


def _forward(
    x: jax.Array, kernel: jax.Array, num_inputs: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return jnp.tensordot(x, kernel, num_inputs), (x, kernel)


def _backward(
    num_inputs: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    batch_axes = tuple(range(gradient.ndim - kernel.ndim + num_inputs))
    outputs = tuple(range(len(batch_axes), gradient.ndim))
    kernel_outputs = tuple(range(num_inputs, kernel.ndim))
    no_batch = ((), ())
    of_x = jax.lax.dot_general(gradient, kernel, ((outputs, kernel_outputs), no_batch))
    of_kernel = jax.lax.dot_general(x, gradient, ((batch_axes, batch_axes), no_batch))
    return of_x, of_kernel


contract.defvjp(_forward, _backward)
