"""Attention written out in float64, and random cases of every shape class."""

import dataclasses

import jax.numpy as jnp
import numpy as np


def attend(queries, keys, values, visible):
    """Attention of [R, T, Q, Dh] over [R, S, H, Dh] where visible [R, T, S]."""
    group = queries.shape[2] // keys.shape[2]
    keys, values = (np.repeat(x, group, axis=2) for x in (keys, values))
    scores = np.einsum("rtqd,rsqd->rqts", queries, keys) * queries.shape[-1] ** -0.5
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("rqts,rsqd->rtqd", weights, values), weights


def gradients(queries, keys, values, visible, upstream):
    """Gradients of sum(upstream * attended), by hand."""
    group, size = queries.shape[2] // keys.shape[2], queries.shape[-1]
    _, weights = attend(queries, keys, values, visible)
    repeated = [np.repeat(x, group, axis=2) for x in (keys, values)]
    of_weights = np.einsum("rtqd,rsqd->rqts", upstream, repeated[1])
    inner = np.sum(of_weights * weights, -1, keepdims=True)
    of_scores = weights * (of_weights - inner) * size**-0.5

    def sum_group(x):
        return x.reshape(*x.shape[:2], -1, group, size).sum(3)

    return (
        np.einsum("rqts,rsqd->rtqd", of_scores, repeated[0]),
        sum_group(np.einsum("rqts,rtqd->rsqd", of_scores, queries)),
        sum_group(np.einsum("rqts,rtqd->rsqd", weights, upstream)),
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A shape, drawn from a seed."""

    seed: int
    rows: int
    tokens: int
    heads: int
    group: int
    size: int

    @classmethod
    def draw(cls, seed):
        """Every class comes up: GQA and not, both head sizes, odd lengths."""
        draw = np.random.default_rng(seed)
        return cls(
            seed,
            rows=int(draw.integers(1, 4)),
            tokens=int(draw.choice([1, 7, 100, 128, 200, 300, 384])),
            heads=int(draw.choice([1, 2, 3])),
            group=int(draw.choice([1, 2, 7])),
            size=(64, 128)[seed % 2],
        )

    @property
    def generator(self):
        return np.random.default_rng(self.seed + 10**6)


def relative(found, expected):
    """Size of the difference, relative to that of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30)


def beyond_rounding(found, expected):
    """Relative difference from the expected, less that of rounding it to bfloat16."""
    rounded = np.asarray(jnp.asarray(expected, jnp.bfloat16), np.float64)
    return relative(found, expected) - relative(rounded, expected)
