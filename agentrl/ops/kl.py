"""Per-token estimates of a Kullback-Leibler divergence from samples.

With p the policy that drew the tokens and `log_ratio` = log q - log p at them, each
function estimates KL(p || q) in nats: http://joschu.net/blog/kl-approx.html. They agree
in expectation (k2 to second order only). As a loss, differentiated through p, they do
not: the gradient of k1 is 0 on average, that of k2 is the gradient of KL(p || q), and
that of k3 the gradient of KL(q || p). See https://arxiv.org/abs/2510.01555.

They take arrays of JAX, in a loss, and of NumPy, on the host: there JAX would compile a
program for every length of an episode.
"""

from collections.abc import Callable, Mapping
from typing import Any

_Array = Any  # jax.Array or np.ndarray; the result is of the same kind


def k1(log_ratio: _Array) -> _Array:
    """Estimates by -log r, float[...]: unbiased, of either sign, high variance."""
    return -log_ratio


def k2(log_ratio: _Array) -> _Array:
    """Estimates by (log r)^2 / 2, float[...]: never negative, biased."""
    return log_ratio**2 / 2


def k3(log_ratio: _Array) -> _Array:
    """Estimates by r - 1 - log r, float[...]: never negative, unbiased."""
    namespace = log_ratio.__array_namespace__()  # jax.numpy or numpy
    return namespace.expm1(log_ratio) - log_ratio


ESTIMATORS: Mapping[str, Callable[[_Array], _Array]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}
