"""How far a policy has moved from another one, measured on its own episodes.

With p the policy that played and q the other one, each sampled token has a log-ratio
log q - log p, both by the same forward pass. Summed over the tokens of an episode,

  k1 = sum (log p - log q)          k3 = sum (q / p - 1 - log (q / p))

both estimate KL(p || q) of whole episodes without bias, as what the environment adds has
the same probability under both policies: http://joschu.net/blog/kl-approx.html. The k1 is
what is reported. The k3 varies less where policies are near. Where they are far it does
not: it rests on rare tokens whose ratio is large, and a sample without them is too low.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from agentrl.statistics import intervals

Rows = tuple[tuple[float | None, ...], ...]
Per = Literal["token", "episode"]
Estimator = Literal["k1", "k3", "entropy"]
TABLES: tuple[Estimator, ...] = ("k1", "k3", "entropy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """A policy against another one on a panel; rows are tasks, columns samples.

    Numbers are in nats, summed over the sampled tokens of an episode, at the temperature
    that it was sampled at. An episode that the environment lost is None in all tables.
    """

    policy: str  # the other one, as it was named
    stage: str  # after which that one was stored
    step: int  # optimizer updates behind it
    k1: Rows
    k3: Rows
    entropy: Rows  # of the policy that played, the same whatever it is compared with

    def select(self, places: Sequence[int]) -> "Drift":
        """The drift on some of the tasks, given by their places."""
        chosen = {t: tuple(getattr(self, t)[i] for i in places) for t in TABLES}
        return dataclasses.replace(self, **chosen)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Drift":
        """Reads what `dataclasses.asdict` made of one, by way of JSON."""
        tables = {name: tuple(tuple(r) for r in record[name]) for name in TABLES}
        return cls(**{**record, **tables})


@dataclasses.dataclass(frozen=True)
class Measured:
    """One seed's drift on a panel, with what its episodes were."""

    drift: Drift
    item_ids: Sequence[str]
    tokens: Sequence[Sequence[int | None]]  # sampled in each episode


def estimate(
    seeds: Sequence[Measured], *, per: Per = "token", what: Estimator = "k1"
) -> intervals.Estimate | None:
    """Mean of a policy on a panel, or of the policies of several seeds, over tasks.

      per episode: mean over tasks of the task's mean m_t
      per token:   R = sum m_t / sum n_t, with n_t the task's mean number of tokens

    The interval is the t interval over tasks, as the episodes of one task are not
    independent; that of a ratio is the one of R + (m_t - R n_t) / mean n (Cochran 1977,
    Sampling Techniques, section 6.3). Seeds are averaged task by task, so it holds for
    these policies on other tasks. The low end may lie below 0, though no KL does: it then
    says that the episodes do not tell this one from 0.

    Args:
      seeds: of the policies; tasks that one of them has not finished are left out.
      per: what a number is of.
      what: the estimator; "entropy" for that of the policy itself.

    Returns:
      Nats; None if no task is left, or nothing was sampled.
    """
    tables = [_task_means(seed, what) for seed in seeds]
    common = [item for item in tables[0] if all(item in other for other in tables)]
    values = np.array([[table[item] for item in common] for table in tables])
    if not values.size or not values[..., 1].sum(axis=1).all():
        return None
    sums, counts = values[..., 0], values[..., 1]
    if per == "token":
        mean = counts.mean(axis=1, keepdims=True)
        ratio = sums.mean(axis=1, keepdims=True) / mean
        sums = ratio + (sums - ratio * counts) / mean
    return intervals.policy_difference([sums], limits=(-math.inf, math.inf))


def _task_means(seed: Measured, what: Estimator) -> dict[str, tuple[float, float]]:
    """Means over the finished episodes of each task: of the sums, and of the tokens."""
    found = {}
    rows = zip(seed.item_ids, getattr(seed.drift, what), seed.tokens, strict=True)
    for item, sums, counts in rows:
        kept = [(s, n) for s, n in zip(sums, counts, strict=True) if s is not None]
        if kept:
            found[item] = tuple(np.mean(np.array(kept, np.float64), axis=0))
    return found
